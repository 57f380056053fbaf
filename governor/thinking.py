# SPDX-License-Identifier: Apache-2.0
"""What runs beside the ticks: the search is made, told of the trials, and asked for the next point.

A search is not trusted. A point that is off the table, or that broke the objective within the hour, is not tried: the
search is asked again, a few times. Nor is such a point held, however good the search thinks it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from .errors import Infeasible, UnknownPoint
from .lessons import Lessons, load_of, measured
from .points import Best, KnowsLoad, Point, Proposal, Searcher, Table, project
from .trial import TrialRecord

ASKS = 5
"""Proposals in a row that may not be tried, after which the best point is held and the search asked again later."""

Arrivals = Mapping[str, tuple[float, ...]]
Make = Callable[[Sequence[Table]], Searcher]
log = logging.getLogger("teg.governor")


class Thinking:
    """The search over `knobs` for a limit of `slo_s` seconds; `make` makes it from prior tables when first needed."""

    def __init__(self, lessons: Lessons, knobs: Mapping[str, Sequence[float]], slo_s: float, make: Make) -> None:
        self.knobs = {name: tuple(float(value) for value in values) for name, values in knobs.items()}
        self._lessons, self._slo_s, self._make = lessons, slo_s, make
        self._search: Searcher | None = None

    def propose(
        self, arrivals_s: Arrivals, now_s: float, left: Callable[[], int], priors: Callable[[], Sequence[Table]]
    ) -> Proposal:
        """What to try next while trials are `left`, and the best so far, at the load of these arrivals by instance.

        Takes a second or more on a slow processor. Whatever the search may raise comes out.
        """
        if not self.knobs:
            return Proposal(None, None)
        moved = self._lessons.judge_again(arrivals_s)
        if self._lessons.outdate(arrivals_s) or self._search is None:
            self._search, moved = self._made(priors()), True
        if moved:
            if isinstance(self._search, KnowsLoad):
                self._search.rate_hz = sum(load_of(arrivals_s).values()) or None
            self.tell_all()
        best = self._allowed(self._search.best(), now_s)
        if left() <= 0:
            return Proposal(None, best, self._verdict(best))
        try:
            return self._next(self._search, best, now_s)
        except Infeasible as error:
            return Proposal(None, best, str(error))

    def tell(self, record: TrialRecord) -> None:
        """Tell the search, if there is one by now, of a trial that measured something."""
        if self._search is None or record.energy_j is None or record.latency_s is None or not measured(record):
            return
        try:
            # Told of the trial's half-widths too, it ended farther from the optimum: docs/search.md.
            self._search.tell(record.point, record.latency_s, record.energy_j)
        except (UnknownPoint, ValueError) as error:
            # A history that somebody wrote by hand must not stop the governor.
            log.warning("a trial of the history teaches nothing: %s", error)

    def tell_all(self) -> None:
        """Tell the search everything from the beginning."""
        if self._search is not None:
            self._search.forget()
            for record in project(self._lessons.current, self.knobs):
                self.tell(record)

    def _made(self, priors: Sequence[Table]) -> Searcher:
        """A new search; without the prior if that is more than it can take, since others may have written it."""
        try:
            return self._make(priors)
        except Exception as error:
            if not priors:
                raise
            log.warning("the search begins without what was measured of other workloads: %s", error)
            return self._make(())

    def _next(self, search: Searcher, best: Best | None, now_s: float) -> Proposal:
        strayed = 0
        for _ in range(ASKS):
            point = search.ask()
            if point is None:
                return Proposal(None, best, self._verdict(best), strayed=strayed)
            strayed += not self._on_table(point)
            if self._on_table(point) and not self._lessons.avoided(point, now_s):
                return Proposal(dict(point), best, strayed=strayed)
            log.info("not tried: %s", point)
        return Proposal(None, best, insists=True, strayed=strayed)

    def _allowed(self, best: Best | None, now_s: float) -> Best | None:
        """The search's best, or the cheapest trial that kept the objective where that may not be held."""
        if best is not None and self._on_table(best.point) and not self._lessons.avoided(best.point, now_s):
            return best
        found = self._lessons.cheapest(now_s)
        return found if found is not None and self._on_table(found.point) else None

    def _on_table(self, point: Point) -> bool:
        return point.keys() == self.knobs.keys() and all(value in self.knobs[name] for name, value in point.items())

    def _verdict(self, best: Best | None) -> str:
        """Why there is no best point, in words."""
        seen = [record.latency_s for record in self._lessons.current if record.latency_s is not None]
        if best is not None or not seen:
            return ""
        return str(Infeasible(min(seen), self._slo_s))
