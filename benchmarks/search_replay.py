# SPDX-License-Identifier: Apache-2.0
"""Searches replayed on measured tables: what each tries, what it costs until it is near the optimum, what it breaks.

A trial reads its cell with noise: latency and energy are each multiplied by exp(0.02 N(0, 1)), independently, the same
draws for every method. What is judged is free of noise: after n trials the cheapest *truly* feasible point tried so far
against the cheapest feasible cell of the table. First samples count as trials. A violation is a trial whose own cell
lies beyond the limit.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from governor.errors import Infeasible
from governor.points import Best, Point, Table

from .tables import Grid

TRIALS = 30
NOISE = 0.02
MARKS = (12, 15, 30)
"""After this many trials the method is asked which point it would run at."""
GAPS = (10, 15, 25)
NEAR = (0.05, 0.10)
LATE = 25
"""Steps after so many trials are timed apart: those of the largest models."""
FAR = 1.5
"""A violation beyond this multiple of the limit is counted apart."""


class Tuner(Protocol):
    """What proposes points and learns from them; `governor.search.Search` is one."""

    def ask(self) -> Point | None:
        """The next point to try, None when no more are worth it."""
        ...

    def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
        """What a trial measured."""
        ...

    def best(self) -> Best | None:
        """The point it would run at."""
        ...


class Method(Protocol):
    """What makes tuners: `governor.points.bayesian_search` does."""

    def __call__(
        self, knobs: Mapping[str, Sequence[float]], slo_s: float, seed: int, prior: Sequence[Table] | None = None
    ) -> Tuner:
        """A tuner over `knobs` for a latency limit in seconds, with what was measured of other workloads."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """One method on one table with one seed: the cells tried in order, and what each step took."""

    table: str
    seed: int
    multiple: float
    slo_s: float
    cells: list[int]
    seconds: list[float]
    """Of `ask` and `tell` together, and of `best` where that was asked."""
    best: dict[str, int | None]
    """By trials: the cell it would run at."""
    gave_up: bool
    """It called the limit out of reach."""


def replay(
    method: Method, grid: Grid, seed: int, prior: Sequence[Table] | None, multiple: float = 4.0, trials: int = TRIALS
) -> Run:
    """One run; it ends early where the method has no more to ask."""
    slo_s = grid.slo_s(multiple)
    noise = np.exp(NOISE * np.random.default_rng((seed, 20)).standard_normal((trials, 2)))
    tuner = method({name: list(values) for name, values in grid.knobs.items()}, slo_s, seed, prior)
    cells: list[int] = []
    seconds: list[float] = []
    best: dict[str, int | None] = {}
    gave_up = False
    while len(cells) < trials:
        began_s = time.perf_counter()
        try:
            point = tuner.ask()
        except Infeasible:
            gave_up = True
            break
        if point is None:
            break
        cell = grid.cell(point)
        latency, energy = noise[len(cells)]
        tuner.tell(point, float(grid.latency_s.flat[cell] * latency), float(grid.energy_j.flat[cell] * energy))
        cells.append(cell)
        if len(cells) in MARKS:
            best[str(len(cells))] = _cell(grid, tuner.best())
        seconds.append(time.perf_counter() - began_s)
    at_end = _cell(grid, tuner.best())
    best |= {str(mark): at_end for mark in MARKS if str(mark) not in best}
    return Run(grid.name, seed, multiple, slo_s, cells, seconds, best, gave_up)


def priors(grids: Mapping[str, Grid], name: str) -> list[Table]:
    """What was recorded of every other workload, suspect rows and all."""
    return [other.recorded for key, other in grids.items() if key != name]


def score(runs: Sequence[Run], grids: Mapping[str, Grid]) -> dict[str, Any]:
    """The protocol's figures of a method over its runs, in the energies of `grids` (as filled in, or smoothed)."""
    gaps = [gap_after(run, grids[run.table]) for run in runs]
    over = [_over(run, grids[run.table]) for run in runs]
    first, every = zip(*((_count(ratios[:15]), _count(ratios)) for ratios in over), strict=True)
    figures: dict[str, Any] = {"runs": len(runs)}
    for share in NEAR:
        reached = [next((n for n, gap in enumerate(row, 1) if gap <= share), math.inf) for row in gaps]
        figures[f"trials_to_{share:.0%}"] = _finite(statistics.median(reached))
        figures[f"solved_{share:.0%}"] = sum(n <= TRIALS for n in reached) / len(runs)
    for trials in GAPS:
        figures[f"gap_after_{trials}"] = _finite(statistics.median(at(row, trials) for row in gaps))
    figures |= {"violations_in_15": statistics.fmean(first), "violations_in_30": statistics.fmean(every)}
    figures["worst_violation"] = max((max(ratios, default=0.0) for ratios in over), default=0.0)
    figures["trials_beyond_1.5x"] = sum(ratio > FAR for ratios in over for ratio in ratios)
    for mark in MARKS:
        chosen = [_chosen(run, grids[run.table], mark) for run in runs]
        sound = [gap for gap in chosen if math.isfinite(gap)]
        figures[f"best_gap_at_{mark}"] = statistics.median(sound) if sound else None
        figures[f"best_beyond_slo_at_{mark}"] = sum(gap == math.inf for gap in chosen)
        figures[f"no_best_at_{mark}"] = sum(math.isnan(gap) for gap in chosen)
    steps = [second for run in runs for second in run.seconds]
    late = [second for run in runs for second in run.seconds[LATE:]]
    figures["step_s"] = statistics.fmean(steps) if steps else None
    figures["late_step_s"] = statistics.median(late) if late else None
    figures["slowest_step_s"] = max(steps, default=None)
    figures["trials"] = statistics.fmean(len(run.cells) for run in runs)
    figures["gave_up"] = sum(run.gave_up for run in runs)
    return figures


def gap_after(run: Run, grid: Grid) -> list[float]:
    """After each trial: energy of the cheapest feasible point so far over the table's least, minus one."""
    feasible, energies = grid.feasible(run.slo_s), grid.energy_j.ravel()
    least = np.where(feasible, energies, np.inf).min()
    tried = [float(energies[cell]) if feasible[cell] else math.inf for cell in run.cells]
    return [float(gap) for gap in np.minimum.accumulate(tried) / least - 1] if tried else []


def at(gaps: Sequence[float], trials: int) -> float:
    """The gap after so many trials; a run that ended keeps its last."""
    return gaps[min(trials, len(gaps)) - 1] if gaps else math.inf


def violations(run: Run, grid: Grid) -> list[int]:
    """After each trial: how many lay beyond the limit so far."""
    return [int(count) for count in np.cumsum([ratio > 1 for ratio in _over(run, grid)])]


def _over(run: Run, grid: Grid) -> list[float]:
    """Each trial's true latency as a multiple of the limit."""
    return [float(grid.latency_s.flat[cell]) / run.slo_s for cell in run.cells]


def _count(ratios: Sequence[float]) -> int:
    return sum(ratio > 1 for ratio in ratios)


def _chosen(run: Run, grid: Grid, mark: int) -> float:
    """The gap of the point it would run at: infinite if that breaks the limit, NaN if there is none."""
    cell = run.best[str(mark)]
    if cell is None:
        return math.nan
    least = np.where(grid.feasible(run.slo_s), grid.energy_j.ravel(), np.inf).min()
    return float(grid.energy_j.flat[cell] / least - 1) if grid.feasible(run.slo_s)[cell] else math.inf


def _cell(grid: Grid, best: Best | None) -> int | None:
    return grid.cell(best.point) if best else None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
