# SPDX-License-Identifier: Apache-2.0
"""The governor's hand: one lease on the clocks and the instances' batch knobs, both renewed from the tick alone.

A governor that hangs or dies stops renewing, and both fall back by themselves: the clocks to what they were before the
lease, the knobs to config.pbtxt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from boards.clocks import Applied, ClockPoint, ClockTable
from telemetry.instance_page import Knobs

from .errors import LeaseLost, LeaseRefused

KNOBS_TTL_S = 2.0
log = logging.getLogger("teg.governor")


class Clocks(Protocol):
    """Clockd, as its client offers it. Every method may raise `ClockdUnavailable`."""

    def table(self) -> ClockTable:
        """The values the board offers."""
        ...

    def lease(self, point: ClockPoint, ttl_s: float) -> Applied:
        """Hold `point` for `ttl_s` seconds; raises `LeaseRefused`."""
        ...

    def renew(self, ttl_s: float) -> None:
        """Hold it for another `ttl_s` seconds; raises `LeaseLost`."""
        ...

    def release(self) -> None:
        """Give the clocks back."""
        ...


class Hand:
    """Holds one point, and one batch limit per instance; `write_knobs(instance, knobs, ttl_s)` reaches its page."""

    def __init__(
        self,
        clocks: Clocks,
        write_knobs: Callable[[str, Knobs, float], None],
        lease_ttl_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._clocks = clocks
        self._write = write_knobs
        self._ttl_s = lease_ttl_s
        self._clock = clock
        self._renewed_s = self._knobs_written_s = 0.0
        self._knobs: dict[str, Knobs] = {}
        self.point: ClockPoint | None = None
        """The point held, None without a lease."""
        self.changed_s = 0.0
        """When the point was last changed, on the clock given."""

    def hold(self, point: ClockPoint, batch_limits: Mapping[str, int], batch_wait_ns: int = 0) -> Applied:
        """Lease `point` and set batch limits by instance, and one wait; what became of the clocks.

        A point that asks for nothing needs no lease. Raises `LeaseRefused`; no lease is left then.
        """
        self._knobs = {instance: Knobs(limit, batch_wait_ns) for instance, limit in batch_limits.items()}
        self._write_knobs(KNOBS_TTL_S)
        if point == ClockPoint():
            self._let_go()
            applied = Applied(point, point, 0.0)
        else:
            applied = self._lease(point)
        self.changed_s = self._renewed_s = self._clock()
        return applied

    def keep(self) -> None:
        """Renew what is about to expire; raises `LeaseLost` if clockd has taken the lease back."""
        now_s = self._clock()
        if self.point is not None and now_s - self._renewed_s >= self._ttl_s / 4:
            self._clocks.renew(self._ttl_s)
            self._renewed_s = now_s
        if now_s - self._knobs_written_s >= KNOBS_TTL_S / 4:
            self._write_knobs(KNOBS_TTL_S)

    def honoured(self, observed: ClockPoint) -> bool:
        """Whether the clocks observed are those held."""
        return self.point is None or Applied(self.point, observed, 0.0).honoured

    def drop(self) -> None:
        """Forget the lease without a word to clockd, which has lost it or gone; the knobs expire."""
        self.point = None
        self._knobs = {}

    def release(self) -> None:
        """Give clocks and knobs back now."""
        self._write_knobs(0.0)
        self._knobs = {}
        self._let_go()

    def _lease(self, point: ClockPoint) -> Applied:
        try:
            applied = self._clocks.lease(point, self._ttl_s)
        except LeaseRefused:
            self._let_go()
            raise
        self.point = point
        return applied

    def _let_go(self) -> None:
        if self.point is not None:
            self.point = None
            try:
                self._clocks.release()
            except (LeaseLost, LeaseRefused) as error:
                # It has ended already, or clockd keeps trying to put the clocks back.
                log.warning("released: %s", error)

    def _write_knobs(self, ttl_s: float) -> None:
        self._knobs_written_s = self._clock()
        for instance, knobs in self._knobs.items():
            self._write(instance, knobs, ttl_s)
