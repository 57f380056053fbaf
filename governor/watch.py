# SPDX-License-Identifier: Apache-2.0
"""Whether the point in force breaks its promise plainly: watched request by request, in whatever phase.

A window judged at its end may be late by a whole one. Between the ends, the last window's requests are looked at
whenever one of them is late; asked so often, luck must be ruled out further.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from telemetry.instance_page import Status

from .guard import Slo, chance_of_late
from .reader import InstanceView
from .traffic import FAILURES

PLAIN = 0.005
"""A breach is plain when luck would show so many late requests less often."""
ENOUGH = 10
"""Of fewer requests nothing is plain: the first ones may still wait behind those of the point before."""


class Watch:
    """Requests of the last window that arrived under the point in force, by instance."""

    def __init__(self, slos: Mapping[str, Slo]) -> None:
        self._slos = dict(slos)
        self._recent: dict[str, deque[tuple[int, bool]]] = {name: deque() for name in slos}
        """When each ended, and whether it was late."""
        self._since_s = float("-inf")
        self.broken = False
        """Whether the point in force has broken its promise."""

    def add(self, views: Iterable[InstanceView], since_s: float) -> None:
        """Take in what has finished; requests count if they arrived when the point was in force, `since_s`."""
        if since_s != self._since_s:
            self._since_s, self.broken = since_s, False
            for recent in self._recent.values():
                recent.clear()
        for view in views:
            if slo := self._slos.get(view.info.instance):
                self._look(view, slo)

    def _look(self, view: InstanceView, slo: Slo) -> None:
        recent = self._recent[view.info.instance]
        for sample in view.samples:
            failed = sample.status in FAILURES
            if sample.arrival_ns < 1e9 * self._since_s or not (failed or sample.status is Status.OK):
                continue
            late = failed or sample.latency_s > slo.limit_s
            recent.append((sample.end_ns, late))
            while recent[0][0] <= sample.end_ns - 1e9 * slo.window_s:
                recent.popleft()
            if late:
                self.broken |= plainly_broken(sum(late for _, late in recent), len(recent), slo)


def plainly_broken(late: int, total: int, slo: Slo) -> bool:
    """Whether so many late requests of `total` cannot be luck, asked at every late one."""
    return total >= ENOUGH and chance_of_late(late, total, 1 - slo.quantile) < PLAIN
