# SPDX-License-Identifier: Apache-2.0
"""Which point to try next: constrained Bayesian optimisation over clocks and batch limit, after PolyThrottle.

Minimise energy per request subject to a latency quantile: a few first points, then the largest product of expected
improvement and probability of feasibility [Yan, Wang, Venkataraman, arXiv 2310.19991; Gardner et al., ICML 2014].
What differs from the paper, each to lose less time or to break the objective less:

* the first points are not random but the fastest one and a step from it along each knob;
* models are of log energy and log latency over log knobs, where power laws are straight lines (a linear kernel beside
  a Matérn one), and the acquisition is computed in logs, which does not vanish in the tails;
* once a feasible point is known, only points that are likelier feasible than not are tried.

Tensors are float64: candidates `n x d` (scaled log knobs in [0, 1]), observations `m x d` and `m x 1`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from botorch.acquisition.analytic import LogConstrainedExpectedImprovement, LogProbabilityOfFeasibility
from botorch.models.model_list_gp_regression import ModelListGP

from .errors import Infeasible, UnknownPoint
from .points import Best, Table
from .surfaces import fit_surfaces

KNOBS = ("cores", "cpu_hz", "gpu_hz", "gpu_min_hz", "emc_hz", "batch")
ENOUGH = 5
"""Trials before the models are asked for their opinion, and before an objective may be called out of reach."""

CHUNK = 2048
LIKELY = 0.5
"""Once a feasible point is known, one less likely feasible than this is not tried while likelier ones remain."""

SURE = 0.75
"""Probability of feasibility above which a point may be recommended, if any is."""

Point = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Observation:
    """What one trial showed."""

    index: int
    latency_s: float
    energy_j: float


class Search:
    """Ask for a point, tell what it measured; the same tells give the same asks.

    `knobs` maps any of `KNOBS` to its real values, ascending. `regret` ends the search (`ask` returns None) once no
    point is expected to improve the best energy by more than that fraction.
    """

    def __init__(
        self,
        knobs: Mapping[str, Sequence[float]],
        slo_s: float,
        seed: int,
        prior: Sequence[Table] | None = None,
        regret: float | None = None,
    ) -> None:
        self.knobs = _checked(knobs)
        if not slo_s > 0:
            raise ValueError(f"slo_s must be positive, got {slo_s}")
        self.slo_s = slo_s
        self.regret = regret
        self.points = _grid(self.knobs)
        self._index = {tuple(point.values()): number for number, point in enumerate(self.points)}
        self._candidates = _features(self.points, self.knobs)
        self._told: list[Observation] = []
        self._asked: set[int] = set()
        self._first = _first_points(self.points, self.knobs)
        self._seed = seed
        self._model: tuple[int, ModelListGP | None] = (0, None)
        """How many tells it was fitted to, and the models."""

    def ask(self) -> dict[str, float] | None:
        """The next point to try; None once `regret` was given and is met, or every point was tried.

        Raises `Infeasible` when the fastest point and every other first point missed the SLO.
        """
        self._refuse_hopeless()
        for index in self._first:
            if index not in self._asked:
                return self._take(index)
        open_points = [number for number in range(len(self.points)) if number not in self._asked]
        if not open_points:
            return None
        model = self._fit() if self._told else None
        if model is None:
            return self._take(self._nearest_to_best(open_points))
        scores = self._acquire(model, open_points)
        if self.regret is not None and self._incumbent() is not None and float(scores.max()) < math.log(self.regret):
            return None
        return self._take(open_points[int(scores.argmax())])

    def tell(self, point: Point, latency_s: float, energy_j: float) -> None:
        """Record a trial: the latency quantile in seconds and joules per request, both finite, positive and noisy.

        Raises `ValueError` for other numbers and `UnknownPoint` for a point that is not on the grid.
        """
        for name, value in (("latency_s", latency_s), ("energy_j", energy_j)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and positive, got {value}; an unmeasured trial is not told")
        key = tuple(float(point[name]) if name in point else math.nan for name in self.knobs)
        if key not in self._index or set(point) != set(self.knobs):
            raise UnknownPoint(dict(point))
        index = self._index[key]
        self._told.append(Observation(index, latency_s, energy_j))
        self._asked.add(index)

    def forget(self) -> None:
        """Forget what was told, to be told better figures of the same trials; no point is asked for again."""
        self._told.clear()
        self._model = 0, None

    def best(self) -> Best | None:
        """The cheapest point tried that is feasible with confidence, or the cheapest seen feasible; None before any."""
        if not self._told:
            return None
        model = self._fit() if len(self._told) >= ENOUGH else None
        seen = sorted({observation.index for observation in self._told})
        judged = [self._judge(index) for index in seen] if model is None else self._smooth(model, seen)
        feasible = [best for best in judged if best.latency_s <= self.slo_s]
        sure = [best for best in feasible if best.probability_feasible >= SURE]
        return min(sure or feasible, key=lambda best: best.energy_j, default=None)

    def _take(self, index: int) -> dict[str, float]:
        self._asked.add(index)
        return dict(self.points[index])

    def _refuse_hopeless(self) -> None:
        missed = all(seen.latency_s > self.slo_s for seen in self._told)
        fastest_known = any(seen.index == self._first[0] for seen in self._told)
        if len(self._told) >= ENOUGH and missed and fastest_known:
            raise Infeasible(min(seen.latency_s for seen in self._told), self.slo_s)

    def _incumbent(self) -> float | None:
        energies = [seen.energy_j for seen in self._told if seen.latency_s <= self.slo_s]
        return min(energies, default=None)

    def _nearest_to_best(self, open_points: list[int]) -> int:
        """Without a model: the untried point nearest to the cheapest feasible one (else to the fastest)."""
        told = [seen for seen in self._told if seen.latency_s <= self.slo_s]
        anchor = min(told, key=lambda seen: seen.energy_j).index if told else self._first[0]
        distances = (self._candidates[open_points] - self._candidates[anchor]).norm(dim=1)
        return open_points[int(distances.argmin())]

    def _fit(self) -> ModelListGP | None:
        """Models of log energy (column 0) and log latency (column 1); None when the numerics fail."""
        if self._model[0] == len(self._told):
            return self._model[1]
        inputs = self._candidates[[seen.index for seen in self._told]]
        logs = [[math.log(seen.energy_j), math.log(seen.latency_s)] for seen in self._told]
        self._model = len(self._told), fit_surfaces(inputs, torch.tensor(logs, dtype=torch.float64), self._seed)
        return self._model[1]

    def _acquire(self, model: ModelListGP, open_points: list[int]) -> torch.Tensor:
        """Log of (expected improvement x probability of feasibility) in log energy, `n`."""
        incumbent = self._incumbent()
        limits: dict[int, tuple[float | None, float | None]] = {1: (None, math.log(self.slo_s))}
        if incumbent is None:
            acquisition: Any = LogProbabilityOfFeasibility(model, constraints=limits)
        else:
            acquisition = LogConstrainedExpectedImprovement(
                model, best_f=math.log(incumbent), objective_index=0, constraints=limits, maximize=False
            )
        chunks = torch.split(self._candidates[open_points].unsqueeze(1), CHUNK)
        with torch.no_grad():
            scores = torch.cat([acquisition(chunk) for chunk in chunks])
            likely = LogProbabilityOfFeasibility(model, constraints=limits)
            feasible = torch.cat([likely(chunk) for chunk in chunks]) >= math.log(LIKELY)
        return scores.where(feasible, -torch.inf) if incumbent is not None and feasible.any() else scores

    def _smooth(self, model: ModelListGP, seen: list[int]) -> list[Best]:
        """What the models say of points already tried: noise averaged over their neighbours."""
        with torch.no_grad():
            posterior = model.posterior(self._candidates[seen])
        mean, deviation = posterior.mean, posterior.variance.sqrt()
        feasible = torch.special.ndtr((math.log(self.slo_s) - mean[:, 1]) / deviation[:, 1])
        rows = zip(seen, mean.exp().tolist(), feasible.tolist(), strict=True)
        return [Best(dict(self.points[index]), energy, latency, sure) for index, (energy, latency), sure in rows]

    def _judge(self, index: int) -> Best:
        """What the trials alone say of a point, before there are enough for a model."""
        told = [seen for seen in self._told if seen.index == index]
        latency_s = sum(seen.latency_s for seen in told) / len(told)
        energy_j = sum(seen.energy_j for seen in told) / len(told)
        return Best(dict(self.points[index]), energy_j, latency_s, float(latency_s <= self.slo_s))


def _checked(knobs: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    unknown = set(knobs) - set(KNOBS)
    if unknown or not knobs:
        raise ValueError(f"knobs must be some of {KNOBS}, got {sorted(knobs)}")
    for name, values in knobs.items():
        if not values or list(values) != sorted(set(values)) or values[0] <= 0:
            raise ValueError(f"{name}: values must be positive and ascend without repeats, got {list(values)}")
    return {name: tuple(float(value) for value in knobs[name]) for name in KNOBS if name in knobs}


def _grid(knobs: Mapping[str, tuple[float, ...]]) -> list[dict[str, float]]:
    """Every combination, but for those whose lower GPU limit lies above the upper one."""
    points = [dict(zip(knobs, values, strict=True)) for values in itertools.product(*knobs.values())]
    return [point for point in points if point.get("gpu_min_hz", 0.0) <= point.get("gpu_hz", math.inf)]


def _features(points: list[dict[str, float]], knobs: Mapping[str, tuple[float, ...]]) -> torch.Tensor:
    """Scaled logs of the knobs, `n x d` in [0, 1]; a knob of one value is a constant 0."""
    columns = []
    for name, values in knobs.items():
        low, span = math.log(values[0]), math.log(values[-1] / values[0])
        columns.append([(math.log(point[name]) - low) / span if span else 0.0 for point in points])
    return torch.tensor(columns, dtype=torch.float64).T


def _first_points(points: list[dict[str, float]], knobs: Mapping[str, tuple[float, ...]]) -> list[int]:
    """The fastest point (every clock at its top, smallest batch), then one step from it along each knob.

    A step goes to the middle value of a clock, or to the next larger batch.
    """
    fastest = {name: values[0] if name == "batch" else values[-1] for name, values in knobs.items()}
    star = [fastest]
    for name, values in knobs.items():
        step = values[min(1, len(values) - 1)] if name == "batch" else values[len(values) // 2]
        star.append({**fastest, name: step})
    return list(dict.fromkeys(points.index(point) for point in star if point in points))
