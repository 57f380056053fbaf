# SPDX-License-Identifier: Apache-2.0
"""What a user would have without a search, and how much less a search's choice costs.

Three yardsticks, each at its best: maximum clocks at *their* cheapest feasible batch; the cheapest of four presets like
a vendor's at its cheapest feasible batch; the cheapest GPU clock and batch with every other knob at its top. They are
granted knowledge free of noise; what trying all of their points once takes and breaks is counted beside.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .search_replay import MARKS, Run
from .tables import Grid

PRESETS: tuple[dict[str, float], ...] = (
    {},
    {"cores": 12, "cpu_hz": 1.344e9, "gpu_hz": 726.75e6, "emc_hz": 3199e6},
    {"cores": 8, "cpu_hz": 1.6512e9, "gpu_hz": 522.75e6, "emc_hz": 3199e6},
    {"cores": 4, "cpu_hz": 1.0368e9, "gpu_hz": 318.75e6, "emc_hz": 2133e6},
)
"""Everything at its top, and three caps like those of nvpmodel's 50, 30 and 15 W modes on AGX Orin."""


@dataclass(frozen=True, slots=True)
class Yardstick:
    """A way without search: the cell it ends at (None: nothing feasible), what it tried, how much of that broke."""

    cell: int | None
    trials: int
    violations: int


def yardsticks(grid: Grid, slo_s: float) -> dict[str, Yardstick]:
    """The three, on one table at one limit."""
    tops = {name: values[-1] for name, values in grid.knobs.items() if name != "batch"}
    presets = [_snapped({**tops, **preset}, grid) for preset in PRESETS]
    gpu = [{**tops, "gpu_hz": value} for value in grid.knobs.get("gpu_hz", ())]
    return {
        "maximum_clocks": _best(grid, slo_s, _cells(grid, [tops])),
        "best_preset": _best(grid, slo_s, _cells(grid, presets)),
        "gpu_clock_only": _best(grid, slo_s, _cells(grid, gpu)),
    }


def savings(runs: Sequence[Run], grids: Mapping[str, Grid]) -> dict[str, Any]:
    """By yardstick and trials: mean saving of the point recommended, over the runs whose point keeps the limit.

    A run without a recommendation stays at maximum clocks and saves nothing; one whose point breaks is counted apart.
    """
    figures: dict[str, Any] = {"broken": {str(mark): 0 for mark in MARKS}}
    saved: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        grid = grids[run.table]
        references = yardsticks(grid, run.slo_s)
        for mark in map(str, MARKS):
            cell = run.best[mark] if run.best[mark] is not None else references["maximum_clocks"].cell
            if cell is None or not grid.feasible(run.slo_s)[cell]:
                figures["broken"][mark] += 1
                continue
            for name, reference in references.items():
                if reference.cell is not None:
                    share = 1 - float(grid.energy_j.flat[cell] / grid.energy_j.flat[reference.cell])
                    saved.setdefault(name, {}).setdefault(mark, []).append(share)
    return figures | {
        name: {mark: statistics.fmean(shares) for mark, shares in rows.items()} for name, rows in saved.items()
    }


def achievable(grid: Grid, slo_s: float) -> dict[str, Any]:
    """The optimum's saving over each yardstick, and what the yardsticks tried."""
    least = grid.cheapest(slo_s)
    rows: dict[str, Any] = {}
    for name, reference in yardsticks(grid, slo_s).items():
        ratio = math.nan
        if least is not None and reference.cell is not None:
            ratio = 1 - float(grid.energy_j.flat[least] / grid.energy_j.flat[reference.cell])
        rows[name] = {"optimum_saves": ratio, "trials": reference.trials, "violations": reference.violations}
    return rows


def _cells(grid: Grid, settings: Sequence[Mapping[str, float]]) -> npt.NDArray[np.bool_]:
    """A flat mask of the settings at every batch."""
    mask = np.zeros(grid.latency_s.size, dtype=bool)
    for setting in settings:
        for batch in grid.knobs.get("batch", (None,)):
            point = setting if batch is None else {**setting, "batch": batch}
            mask[grid.cell(point)] = True
    return mask


def _best(grid: Grid, slo_s: float, tried: npt.NDArray[np.bool_]) -> Yardstick:
    broken = int((tried & ~grid.feasible(slo_s)).sum())
    return Yardstick(grid.cheapest(slo_s, tried), int(tried.sum()), broken)


def _snapped(setting: Mapping[str, float], grid: Grid) -> dict[str, float]:
    """The nearest values that the grid has, in ratio."""
    return {
        name: min(grid.knobs[name], key=lambda offered: abs(math.log(offered / value)))
        for name, value in setting.items()
        if name in grid.knobs
    }
