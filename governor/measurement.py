# SPDX-License-Identifier: Apache-2.0
"""One trial from the moment its clocks are granted: let them settle, measure until enough is known, conclude.

A trial ends as soon as its joules and its latency are known well enough (`window.known`), with `trial_s` as a typical
length: a quarter of it is the least, four times it the most. It is cut short once the requests seen prove the objective
broken, and at once when one of them waits so long that no point which keeps the objective would let it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from boards.clocks import ClockPoint

from .demand import Demand
from .hand import Hand
from .points import Point
from .reader import Snapshot
from .trial import Evidence, Invalid, TrialRecord, Violated
from .window import Window, board_of

SETTLE_S = 0.17
"""After a change of clocks, the slowest one's settling (EMC), with a margin.

The power sensor's averaging is no matter of waiting: the window knows which of its readings still show the past.
"""

SETTLE_MAX_S = 10.0
"""Requests that arrived before the change must be answered by then."""

Concluded = tuple[TrialRecord, Evidence | None]


class Measurement:
    """A trial at `point` that lasts about `trial_s` seconds, as its confidence needs."""

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
        self._settled_s = clock() + SETTLE_S

    @property
    def measuring(self) -> bool:
        """Whether everything has settled."""
        return self._window is not None

    def tick(self, now: Snapshot) -> Concluded | None:
        """One more look; the trial's record, and its evidence unless it is invalid, once it is over."""
        return self._settle(now) if self._window is None else self._measure(now, self._window)

    def _settle(self, now: Snapshot) -> Concluded | None:
        """Wait until the clocks settled and every request in flight arrived after the change."""
        old = self._demand.began_before(self._hand.changed_s)
        if self._clock() < self._settled_s or (old and self._clock() < self._settled_s + SETTLE_MAX_S):
            return None
        if old:
            return self._invalid("backlog")
        self._demand.mark()
        self._window = Window(now, self._trial_s, self._hand.changed_s, self._demand.traffic.keys())
        return None

    def _measure(self, now: Snapshot, window: Window) -> Concluded | None:
        reason = window.add(now)
        if reason is None and not self._hand.honoured(ClockPoint(*board_of(now).observed)):
            reason = "clocks"
        if reason is not None:
            return self._invalid(reason)
        standing = window.standing(self._demand, self._limits)
        # Hopeless is hopeless however rough its joules, once there are any and something was served.
        broken = standing.broken or self._demand.waits_unsafely(now.now_ns)
        hopeless = broken and window.may_be_cut and self._demand.all_served
        enough = window.may_end and standing.known and not window.in_doubt
        if not (hopeless or enough) and window.may_go_on:
            return None
        return self._conclude(now, window, hopeless)

    def _conclude(self, now: Snapshot, window: Window, hopeless: bool) -> Concluded:
        if self._demand.changed(window.span_s) or (hopeless and self._demand.surged(now.now_ns)):
            self._demand.forget()
            return self._invalid("load")
        if window.in_doubt and not hopeless:
            return self._invalid("window")
        evidence = window.evidence(self._demand, self._limits, broken=hopeless).bounded()
        record = evidence.record(self.point)
        # A point is never blamed for more than its usual load, be it luck: it has to miss under no more than that.
        if isinstance(record.outcome, Violated) and self._demand.busier(window.span_s):
            return self._invalid("load")
        return record, None if isinstance(record.outcome, Invalid) else evidence

    def _invalid(self, reason: str) -> Concluded:
        span_s = self._window.span_s if self._window else 0.0
        return TrialRecord(self.point, Invalid(reason), window_s=span_s), None
