# SPDX-License-Identifier: Apache-2.0
"""When a window can be trusted: each rule at its border."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from device import simulation

from boards.virtual import Load, VirtualBoard
from governor.clockd.energy import EnergyMeter
from governor.joules import Tick
from governor.trust import BRIEF_HZ, energy_error_j, frozen, throttled, too_short, unread
from telemetry.board_page import BoardReading

POWER_W, TICK_S = 20.0, 0.1


def ticks(
    span_s: float, busy: float = 0.3, swing_w: float = 0.0, error_w: float = 0.0, missing: float = 0.0
) -> list[Tick]:
    """A window at 20 W on average; per second `error_w` joules of doubt and `missing` seconds without a reading."""
    looks = [round(number * TICK_S, 6) for number in range(round(span_s / TICK_S) + 1)]
    return [
        Tick(at_s, POWER_W * at_s, busy * at_s, round(15 * at_s), error_w * at_s,
             POWER_W + (swing_w / 2 if number % 2 else -swing_w / 2), missing * at_s)
        for number, at_s in enumerate(looks)
    ]  # fmt: skip


def reading(**changes: float) -> BoardReading:
    return replace(simulation().board.reading(), sampled_ns=0, **changes)


def test_the_bound_is_what_sampling_missed_and_what_averaging_shifts() -> None:
    """Growth of the counter's own bound, plus the averaging time times the range of power."""
    assert energy_error_j(ticks(5.0, swing_w=10.0, error_w=0.5), 0.43) == pytest.approx(5 * 0.5 + 0.43 * 10.0)


@pytest.mark.parametrize(("span_s", "doubtful"), [(1.0, True), (2.0, True), (2.3, False), (10.0, False)])
def test_a_window_is_long_enough_once_the_doubt_is_a_fifth(span_s: float, doubtful: bool) -> None:
    """20 W that swing by 20 W, averaged over 0.43 s: 8.6 J of doubt are a fifth of 43 J, of 2.15 s."""
    assert too_short(ticks(span_s, swing_w=20.0), 0.43) is doubtful


def test_a_counter_that_stands_still_is_no_window() -> None:
    """Doubt about no joules at all is too much."""
    assert too_short([replace(tick, energy_j=1.0) for tick in ticks(5.0, swing_w=1.0)], 0.43)


@pytest.mark.parametrize(("missing", "lost"), [(0.0, False), (0.19, False), (0.21, True), (1.0, True)])
def test_a_fifth_of_the_window_may_lack_power(missing: float, lost: bool) -> None:
    """And no more."""
    assert unread(ticks(6.0, missing=missing), 6.0) is lost


def test_what_is_missing_early_is_measured_against_the_whole_trial() -> None:
    """One second without a reading at the start of six is not yet too much; two are, long before the end."""
    assert not unread(ticks(1.0, missing=1.0), 6.0)
    assert unread(ticks(1.5, missing=1.0), 6.0)


@pytest.mark.parametrize(
    ("same_s", "busy", "since_change_s", "expected"),
    [(1.9, 0.3, 9.0, False), (2.0, 0.3, 9.0, True), (60.0, 0.01, 9.0, False), (2.0, 0.06, 9.0, True),
     (5.0, 1.0, 9.0, False), (9.5, 1.0, 9.0, True)],
)  # fmt: skip
def test_a_sensor_that_should_have_moved_is_frozen(
    same_s: float, busy: float, since_change_s: float, expected: bool
) -> None:
    """Two seconds of the same while the load comes and goes; idle, or always busy, only if clocks changed since."""
    assert frozen(ticks(6.0, busy), same_s, 6.0, since_change_s) is expected


def test_a_window_that_has_just_begun_cannot_tell() -> None:
    """What the sensor showed before anybody looked at the load proves nothing."""
    assert not frozen(ticks(0.5), 30.0, 6.0, 1.0)
    assert frozen(ticks(1.0), 30.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("events", "brief", "expected"),
    [(0, 0, False), (1, 0, True), (0, BRIEF_HZ * 2, False), (0, BRIEF_HZ * 2 + 1, True)],
)
def test_brief_events_spoil_only_above_fifty_a_second(events: int, brief: float, expected: bool) -> None:
    """One event of the slow kind is enough."""
    begin, now = reading(), replace(reading(throttle_events=events, brief_throttles=int(brief)), sampled_ns=2 * 10**9)
    assert throttled(begin, now) is expected


def test_brief_events_are_not_extrapolated_from_an_instant() -> None:
    """Fifty at once are fifty in the first second."""
    assert not throttled(reading(), replace(reading(brief_throttles=50), sampled_ns=10**8))
    assert throttled(reading(), replace(reading(brief_throttles=51), sampled_ns=10**8))


@pytest.mark.parametrize(("rate_hz", "burst_s"), [(12.0, 0.0), (25.0, 1.0), (25.0, 0.5)])
def test_short_trials_on_the_virtual_board_can_be_trusted(rate_hz: float, burst_s: float) -> None:
    """3.5 s of Poisson traffic, also in bursts, at maximum clocks: the joules are known to a tenth or so."""
    now_s, free_s, rng = 0.0, 0.0, random.Random(1)
    board = VirtualBoard("virtual:agx-orin", lambda: now_s, lambda _: None)
    meter, waiting, looks = EnergyMeter(board.averaging_s), list[float](), list[Tick]()
    service_s = board.workloads["resnet"].latency_s(board.kernel.point(), 1)
    arrival_s = rng.expovariate(rate_hz)
    while now_s < 40.0:
        now_s += 0.05 * rng.uniform(1.0, 1.4)
        while arrival_s <= now_s:
            if not burst_s or int(arrival_s / burst_s) % 2:
                waiting.append(arrival_s)
            arrival_s += rng.expovariate(rate_hz)
        ended = 0
        while waiting and max(free_s, waiting[0]) + service_s <= now_s:
            free_s, ended = max(free_s, waiting.pop(0)) + service_s, ended + 1
        board.run([Load("resnet", ended * service_s, 1.0)] if ended else [], 0.05)
        power_w = board.power_w()
        meter.take(now_s, power_w)
        looks.append(Tick(now_s, meter.joules, 0.0, 0, meter.error_j, power_w))
    windows = [[look for look in looks if begin_s <= look.at_s <= begin_s + 3.5] for begin_s in range(2, 36)]
    assert not any(too_short(window, board.averaging_s) for window in windows)
    shares = [
        energy_error_j(window, board.averaging_s) / (window[-1].energy_j - window[0].energy_j) for window in windows
    ]
    assert 0.01 < max(shares) < 0.15
