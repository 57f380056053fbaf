# SPDX-License-Identifier: Apache-2.0
"""One trial from the moment its clocks are granted: let everything settle, measure, conclude."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from boards.clocks import ClockPoint

from .demand import Demand
from .hand import Hand
from .points import Point
from .reader import Snapshot
from .trial import HOPELESS, Evidence, Invalid, TrialRecord
from .window import Window, board_of

SETTLE_S = 0.6
"""After a change of clocks: the INA3221's running average of 430 ms, and the slowest clock's settling (EMC)."""

SETTLE_MAX_S = 10.0
"""Requests that arrived before the change must be answered by then."""

Concluded = tuple[TrialRecord, Evidence | None]


class Measurement:
    """A trial at `point` for `trial_s` seconds, longer if its joules are not known well enough by then."""

    def __init__(
        self,
        point: Point,
        batch_limits: Mapping[str, int],
        hand: Hand,
        demand: Demand,
        clock: Callable[[], float],
        trial_s: float,
    ) -> None:
        self.point = point
        self._limits = batch_limits
        self._hand, self._demand, self._clock, self._trial_s = hand, demand, clock, trial_s
        self._window: Window | None = None
        self._until_s = clock() + SETTLE_S

    @property
    def measuring(self) -> bool:
        """Whether everything has settled."""
        return self._window is not None

    def tick(self, now: Snapshot) -> Concluded | None:
        """One more look; the trial's record, and its evidence unless it is invalid, once it is over."""
        return self._settle(now) if self._window is None else self._measure(now, self._window)

    def _settle(self, now: Snapshot) -> Concluded | None:
        """Wait until clocks and sensors settled and every request in flight arrived after the change."""
        old = self._demand.began_before(self._hand.changed_s)
        if self._clock() < self._until_s or (old and self._clock() < self._until_s + SETTLE_MAX_S):
            return None
        if old:
            return self._invalid("backlog")
        self._demand.mark()
        self._window = Window(now, self._trial_s, self._hand.changed_s)
        self._until_s = self._clock() + self._trial_s
        return None

    def _measure(self, now: Snapshot, window: Window) -> Concluded | None:
        reason = window.add(now)
        if reason is None and not self._hand.honoured(ClockPoint(*board_of(now).observed)):
            reason = "clocks"
        if reason is not None:
            return self._invalid(reason)
        # Hopeless is hopeless before the window ends, and however rough its joules, once something was served.
        overloaded = self._demand.waits(now.now_ns, HOPELESS) and self._demand.all_served
        if not overloaded and (self._clock() < self._until_s or (window.in_doubt and window.may_go_on)):
            return None
        if self._demand.changed(window.span_s):
            self._demand.forget()
            return self._invalid("load")
        return self._invalid("window") if window.in_doubt and not overloaded else self._concluded(window)

    def _concluded(self, window: Window) -> Concluded:
        evidence = window.evidence(self._demand, self._limits)
        record = evidence.record(self.point)
        return record, None if isinstance(record.outcome, Invalid) else evidence

    def _invalid(self, reason: str) -> Concluded:
        span_s = self._window.span_s if self._window else 0.0
        return TrialRecord(self.point, Invalid(reason), window_s=span_s), None
