# SPDX-License-Identifier: Apache-2.0
"""The window of a trial while it is being measured: its counters, and why it cannot be trusted, if it cannot."""

from __future__ import annotations

from collections.abc import Mapping

from telemetry.board_page import BoardReading

from .demand import Demand
from .reader import Snapshot
from .trial import Evidence, Tick
from .trust import WINDOWS, energy_error_j, frozen, throttled, too_short, unread


class Window:
    """Begins with a snapshot, grows with each `add`; `changed_s` is when the clocks were last changed."""

    def __init__(self, now: Snapshot, trial_s: float, changed_s: float) -> None:
        self._begin = self._board = board_of(now)
        self._ticks = [counters(now)]
        self._trial_s = trial_s
        self._changed_s = changed_s

    def add(self, now: Snapshot) -> str | None:
        """Take in one more look; the reason why the trial is lost, None if it is not."""
        self._board = board_of(now)
        if (tick := counters(now)).at_s > self._ticks[-1].at_s:
            self._ticks.append(tick)
        if throttled(self._begin, self._board):
            return "throttled"
        if unread(self._ticks, self._trial_s):
            return "sensor"
        since_change_s = self._ticks[-1].at_s - self._changed_s
        return "frozen" if frozen(self._ticks, self._board.power_same_s, self._trial_s, since_change_s) else None

    @property
    def span_s(self) -> float:
        """Seconds measured."""
        return self._ticks[-1].at_s - self._ticks[0].at_s

    @property
    def in_doubt(self) -> bool:
        """Whether the joules are not known well enough yet."""
        return too_short(self._ticks, self._board.averaging_s)

    @property
    def may_go_on(self) -> bool:
        """Whether the trial may measure on until they are."""
        return self.span_s < WINDOWS * self._trial_s

    def evidence(self, demand: Demand, limits: Mapping[str, int]) -> Evidence:
        """What the window held, with the batch limits by instance that were in force."""
        error_j = energy_error_j(self._ticks, self._board.averaging_s)
        brief = self._board.brief_throttles - self._begin.brief_throttles
        return Evidence(tuple(self._ticks), demand.windows(limits), demand.failed, error_j, brief)


def board_of(now: Snapshot) -> BoardReading:
    """The board of a snapshot; `ValueError` without one."""
    if now.board is None:
        raise ValueError("no board, no counters")
    return now.board


def counters(now: Snapshot) -> Tick:
    """Energy, busy time and requests of the whole board at one moment; `ValueError` without a board."""
    board = board_of(now)
    busy_ns = sum(view.busy_ns for view in now.instances)
    requests = sum(view.requests for view in now.instances)
    energy = (board.energy_error_j, board.power_w, board.power_missing_s)
    return Tick(board.sampled_ns / 1e9, board.energy_j, busy_ns / 1e9, requests, *energy)
