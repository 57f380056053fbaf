# SPDX-License-Identifier: Apache-2.0
"""Which point to try next: constrained Bayesian optimisation over clocks and batch limits.

Minimise energy per request subject to a latency quantile, as PolyThrottle does [Yan, Wang, Venkataraman, arXiv
2310.19991; Gardner et al., ICML 2014], but with a mean that knows physics (`surrogate.roofline`), fitted to the trials
as they come (`surrogate.calibration`), and a price on violations (`surrogate.acquisition`). Nothing here touches the
machine.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from gpytorch.utils.warnings import GPInputWarning
from linear_operator.utils.warnings import NumericalWarning

from .errors import Infeasible
from .points import Best, Point, Predicted, Table
from .surrogate.acquisition import worth
from .surrogate.calibration import Belief
from .surrogate.candidates import Candidates
from .surrogate.observations import Observation, kept_cheapest, told_of, unmoved
from .surrogate.prior import belief_of, lessons_of
from .surrogate.surfaces import NUMERICAL_FAILURES, Space, Surfaces, Told, fit_surfaces, reference, space_of

ENOUGH = 5
"""Trials before an objective may be called out of reach."""
HOPELESS = 0.05
"""An objective is out of reach when everything tried missed it and nothing is likelier feasible than this."""
UNMOVED = 8
"""Trials before the search may be over; then a knob that none of them moved is moved: nobody knows what it is worth."""
SURE = 0.75
"""Probability of feasibility above which a point may be recommended, if any is."""
DOUBTFUL = 0.3
"""A trial believed less than this, on which the decision hangs, is repeated."""


class Fit(Protocol):
    """What fits surfaces to trials; `surfaces.fit_surfaces` in the product."""

    def __call__(
        self, space: Space, told: Told, belief: Belief, last: torch.Tensor | None, rate_hz: float | None
    ) -> Surfaces:
        """The surfaces, or one of `NUMERICAL_FAILURES`."""
        ...


class Search:
    """Ask for a point, tell what it measured; the same tells give the same asks.

    `knobs` maps any of `candidates.KNOBS` (and `batch.MODEL`) to its real values, ascending. `prior`: tables of other
    workloads. `regret` ends the search (`ask` returns None) once no untried point is expected to lower the energy by
    more than that share, its chance of being feasible counted in. `rate_hz`: requests per second offered to the whole
    board; None if batches follow one another without a pause. Raises `ValueError` for what makes no search.
    """

    def __init__(
        self,
        knobs: Mapping[str, Sequence[float]],
        slo_s: float,
        seed: int,
        prior: Sequence[Table] | None = None,
        regret: float | None = None,
        *,
        rate_hz: float | None = None,
        fit: Fit = fit_surfaces,
    ) -> None:
        for name, value in (("slo_s", slo_s), ("rate_hz", 1.0 if rate_hz is None else rate_hz)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        self._candidates = Candidates(knobs, seed)
        self.knobs = self._candidates.knobs
        self.slo_s = slo_s
        self.regret = regret
        self.rate_hz = rate_hz
        """May be set as more is known of the load, before the trials are told again."""
        self._fit = fit
        self._lessons = lessons_of(prior or ())
        self._told: list[Observation] = []
        self._asked: set[int] = set()
        self._repeated: set[int] = set()
        self._space: Space | None = None
        self._surfaces: tuple[int, Surfaces | None] = (0, None)
        """How many tells they were fitted to, and the surfaces."""

    @property
    def points(self) -> list[Point]:
        """Every candidate."""
        return self._candidates.points

    def ask(self) -> Point | None:
        """The next point to try; None once `regret` was given and is met, or every point was tried.

        Raises `Infeasible` when everything tried missed the SLO and nothing else is likely to meet it.
        """
        if self._candidates.fastest not in self._asked:
            return self._take(self._candidates.fastest)
        if len(self._asked) >= len(self.points):
            self._refuse_hopeless(None)
            return None
        surfaces = self._fitted()
        self._refuse_hopeless(surfaces)
        if surfaces is None:
            return self._take(self._nearest_to_best())
        if (doubtful := self._doubtful(surfaces)) is not None:
            self._repeated.add(doubtful)
            return self._take(doubtful)
        chosen = self._chosen(surfaces)
        return None if chosen is None else self._take(chosen)

    def tell(
        self,
        point: Mapping[str, float],
        latency_s: float,
        energy_j: float,
        *,
        latency_deviation: float | None = None,
        energy_deviation: float | None = None,
    ) -> None:
        """Record a trial: the latency quantile in seconds and joules per request, both finite, positive and noisy.

        How noisy: the standard deviations of their logs, None if nobody knows. Raises `ValueError` for other numbers
        and `UnknownPoint` for a point that is not on the table.
        """
        index = self._candidates.number(point)
        self._told.append(Observation(index, latency_s, energy_j, latency_deviation, energy_deviation))
        self._asked.add(index)

    def forget(self) -> None:
        """Forget what was told, to be told better figures of the same trials; no point is asked for again."""
        self._told.clear()
        self._surfaces = 0, None

    def best(self) -> Best | None:
        """The cheapest point tried that is feasible with confidence, else the cheapest that probably is; else None."""
        if not self._told:
            return None
        surfaces = self._fitted() if len(self._told) > 1 else None
        if surfaces is None:
            return self._cheapest_seen()
        index = self._cheapest(surfaces, SURE)
        index = self._cheapest(surfaces, 0.5) if index is None else index
        if index is None:
            return None
        expected = self._expected(surfaces, index)
        return Best(dict(self.points[index]), expected.energy_j, expected.latency_s, expected.probability_feasible)

    def predict(self, points: Sequence[Mapping[str, float]]) -> list[Predicted]:
        """What is expected of each of these points; `UnknownPoint` for one that is not on the table.

        With nothing told, or when the numerics fail, nothing is known: deviations are infinite.
        """
        numbers = [self._candidates.number(point) for point in points]
        surfaces = self._fitted() if self._told else None
        if surfaces is None:
            return [Predicted(math.nan, math.nan, math.inf, math.inf, 0.5) for _ in numbers]
        return [self._expected(surfaces, number) for number in numbers]

    def _chosen(self, surfaces: Surfaces) -> int | None:
        """The point that is worth most, of those along a knob that nobody moved if there is one; None: it is over."""
        tried = torch.zeros(len(self.points), dtype=torch.bool)
        tried[list(self._asked)] = True
        settled = len(self._told) >= UNMOVED
        aside = unmoved(self._told if settled else (), self.points, self.knobs) & ~tried
        if aside.any():
            tried = ~aside
        limit, told = math.log(self.slo_s), [seen.index for seen in self._told]
        best = self._cheapest(surfaces, 0.5)
        found = worth(surfaces, limit, None if best is None else float(surfaces.energy[best]), tried, told)
        over = self.regret is not None and settled and float(found.gain.max()) < self.regret
        return None if over and not aside.any() else int(found.value.argmax())

    def _take(self, index: int) -> Point:
        self._asked.add(index)
        return dict(self.points[index])

    def _expected(self, surfaces: Surfaces, index: int) -> Predicted:
        return Predicted(
            math.exp(float(surfaces.energy[index])),
            math.exp(float(surfaces.latency[index])),
            float(surfaces.energy_deviation[index]),
            float(surfaces.latency_deviation[index]),
            float(surfaces.feasible(self.slo_s)[index]),
        )

    def _cheapest(self, surfaces: Surfaces, sure: float) -> int | None:
        """The cheapest of the points told that are at least so likely feasible."""
        feasible = surfaces.feasible(self.slo_s)
        likely = [seen.index for seen in self._told if float(feasible[seen.index]) >= sure]
        return min(likely, key=lambda index: float(surfaces.energy[index]), default=None)

    def _cheapest_seen(self) -> Best | None:
        """What the trials alone say."""
        if (best := kept_cheapest(self._told, self.slo_s)) is None:
            return None
        trial = self._told[best]
        return Best(dict(self.points[trial.index]), trial.energy_j, trial.latency_s, 1.0)

    def _doubtful(self, surfaces: Surfaces) -> int | None:
        """The point to try again: the cheapest seen feasible, if that trial is hard to believe and was not repeated."""
        if len(self._told) < ENOUGH or (best := kept_cheapest(self._told, self.slo_s)) is None:
            return None
        index = self._told[best].index
        return index if float(surfaces.weights[best]) < DOUBTFUL and index not in self._repeated else None

    def _refuse_hopeless(self, surfaces: Surfaces | None) -> None:
        """Without surfaces the trials alone decide."""
        if len(self._told) < min(ENOUGH, len(self.points)) or kept_cheapest(self._told, self.slo_s) is not None:
            return
        if not any(seen.index == self._candidates.fastest for seen in self._told):
            return
        if surfaces is not None and float(surfaces.feasible(self.slo_s).max()) > HOPELESS:
            return
        raise Infeasible(min(seen.latency_s for seen in self._told), self.slo_s)

    def _nearest_to_best(self) -> int:
        """Without a model: the untried point nearest to the cheapest feasible one (else to the fastest)."""
        space = self._where()
        best = kept_cheapest(self._told, self.slo_s)
        anchor = self._candidates.fastest if best is None else self._told[best].index
        distances = (space.scaled - space.scaled[anchor]).norm(dim=1)
        distances[list(self._asked)] = math.inf
        return int(distances.argmin())

    def _where(self) -> Space:
        """The space of all candidates, made anew when a told point has joined them."""
        if self._space is None or len(self._space.scaled) != len(self.points):
            self._space = space_of(self.points, self.knobs)
            self._surfaces = 0, None
        return self._space

    def _belief(self, space: Space) -> Belief:
        """What is believed before the trials, given the power drawn nearest to the fastest point."""
        first = self._told[reference(space.settings[[seen.index for seen in self._told]])]
        batch = float(space.settings.batch[first.index])
        power_w = first.energy_j * (self.rate_hz or batch / first.latency_s)
        return belief_of(self._lessons, power_w)

    def _fitted(self) -> Surfaces | None:
        """The surfaces fitted to all tells; None without any, and when the numerics fail."""
        space = self._where()
        if not self._told or self._surfaces[0] == len(self._told):
            return self._surfaces[1] if self._told else None
        last = self._surfaces[1].calibration.theta if self._surfaces[1] else None
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", NumericalWarning)
            warnings.simplefilter("ignore", GPInputWarning)
            try:
                fitted = self._fit(space, told_of(self._told), self._belief(space), last, self.rate_hz)
            except NUMERICAL_FAILURES:
                fitted = None
        self._surfaces = len(self._told), fitted
        return fitted
