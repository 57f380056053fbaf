# SPDX-License-Identifier: Apache-2.0
"""Whether what a trial measured can be trusted: pure decisions on the counters of its window.

Energy is known to a bound: what sampling may have missed (`error_j` grows by it), and what the power sensor's averaging
shifts across the window's two ends, at most its averaging time times the range of power seen in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from telemetry.board_page import BoardReading

from .joules import SEGMENT_S, Tick

DOUBT = 0.2
"""Share of a window's joules that the bound on their error may reach, and of its seconds that may lack a reading."""

SAME_S = 2.0
"""A sensor that shows the same for as long while the load comes and goes is not looking."""

IDLE, FULL = 0.05, 0.95
"""Busy shares below the one, or above the other, may draw the same power for seconds on end."""

BRIEF_HZ = 50.0
"""Brief over-current events per second that a board takes in its stride; each costs it some microseconds."""

BLIND_S = 1.5
"""Temperatures older than this: nothing new is tried."""

SAFE_S = 5.0
"""Temperatures older than this: the clocks go back to what they were."""

WINDOWS = 4.0
"""A trial lasts at least its typical length over this and at most this times it: until it is known well enough."""


def energy_error_j(ticks: Sequence[Tick], averaging_s: float) -> float:
    """Bound on the error of the window's joules."""
    powers_w = [tick.power_w for tick in ticks]
    return ticks[-1].error_j - ticks[0].error_j + averaging_s * (max(powers_w) - min(powers_w))


def too_short(ticks: Sequence[Tick], averaging_s: float) -> bool:
    """Whether the window's joules are in doubt by more than a fifth."""
    return energy_error_j(ticks, averaging_s) > DOUBT * (ticks[-1].energy_j - ticks[0].energy_j)


def unread(ticks: Sequence[Tick], trial_s: float = 0.0) -> bool:
    """Whether power was missing for more than a fifth of the window, or of the `trial_s` that it may last."""
    span_s = max(trial_s, ticks[-1].at_s - ticks[0].at_s)
    return ticks[-1].missing_s - ticks[0].missing_s > DOUBT * span_s


def frozen(ticks: Sequence[Tick], same_s: float, trial_s: float, since_change_s: float) -> bool:
    """Whether a sensor that has shown the same for `same_s` should have moved.

    It should while the device was now busy, now idle; of a device that never rests, one can only say so if not even a
    change of clocks, `since_change_s` ago, moved it.
    """
    recent = [tick for tick in ticks if tick.at_s >= ticks[-1].at_s - SAME_S]
    span_s = recent[-1].at_s - recent[0].at_s
    if same_s < SAME_S or span_s < 0.9 * min(SAME_S, trial_s):
        return False
    busy = (recent[-1].busy_s - recent[0].busy_s) / span_s
    return busy >= IDLE and (busy <= FULL or same_s > since_change_s)


def still(ticks: Sequence[Tick], same_s: float) -> bool:
    """Whether a sensor that has shown the same for `same_s` has yet to move before its joules may be believed."""
    recent = [tick for tick in ticks if tick.at_s >= ticks[-1].at_s - same_s]
    span_s = recent[-1].at_s - recent[0].at_s
    busy = (recent[-1].busy_s - recent[0].busy_s) / span_s if span_s else 0.0
    return same_s > SEGMENT_S and IDLE <= busy <= FULL


def throttled(begin: BoardReading, now: BoardReading) -> bool:
    """Whether heat or current took clocks away since `begin`: any event, or more brief ones than are worth nothing."""
    span_s = max(1.0, (now.sampled_ns - begin.sampled_ns) / 1e9)
    brief_hz = (now.brief_throttles - begin.brief_throttles) / span_s
    return now.throttle_events > begin.throttle_events or brief_hz > BRIEF_HZ
