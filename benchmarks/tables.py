# SPDX-License-Identifier: Apache-2.0
"""Tables of measurements as complete grids, with suspect cells filled in from their neighbours.

They are read where they lie, in the folder `DATA` names. A table becomes a `Grid`: arrays with one axis per knob. Cells
that are flagged or missing are filled in from one-step neighbours, in logs: for each knob the mean of both neighbours
where both are sound, of the one that is for `ONE_SIDED` knobs; the median of these over the knobs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
KNOBS = ("cores", "cpu_hz", "gpu_hz", "emc_hz", "batch")
ONE_SIDED = ("cores", "cpu_hz")
OUTLIER = 0.05
"""A reading of energy lower by more than this than its neighbours say is smoothed away."""


@dataclass(frozen=True)
class Grid:
    """One workload at every point of its knobs; arrays of one axis per knob, in the knobs' order."""

    name: str
    knobs: Mapping[str, tuple[float, ...]]
    latency_s: Values
    energy_j: Values
    """Per request."""
    recorded: Mapping[str, Any]
    """The rows as recorded, flagged ones included: what another workload's search gets as its prior."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(values) for values in self.knobs.values())

    def point(self, cell: int) -> dict[str, float]:
        """The knobs' values of a cell, numbered in C order."""
        where = np.unravel_index(cell, self.shape)
        return {name: values[int(at)] for (name, values), at in zip(self.knobs.items(), where, strict=True)}

    def cell(self, point: Mapping[str, float]) -> int:
        """The number of a point's cell; ValueError if the point is not on the grid."""
        where = [values.index(point[name]) for name, values in self.knobs.items()]
        return int(np.ravel_multi_index(where, self.shape))

    @cached_property
    def fastest(self) -> int:
        """Every clock at its top, the smallest batch."""
        return self.cell({name: values[0 if name == "batch" else -1] for name, values in self.knobs.items()})

    def slo_s(self, multiple: float) -> float:
        """A latency limit in seconds, as a multiple of the latency at maximum clocks and the smallest batch."""
        return multiple * float(self.latency_s.flat[self.fastest])

    def feasible(self, slo_s: float) -> npt.NDArray[np.bool_]:
        """Whether each cell keeps the limit, one flat array."""
        return self.latency_s.ravel() <= slo_s

    def cheapest(self, slo_s: float, among: npt.NDArray[np.bool_] | None = None) -> int | None:
        """The feasible cell of least energy, of those in the flat mask `among`; None if there is none."""
        allowed = self.feasible(slo_s) if among is None else self.feasible(slo_s) & among
        costs = np.where(allowed, self.energy_j.ravel(), np.inf)
        return int(costs.argmin()) if allowed.any() else None

    def smoothed(self) -> Grid:
        """The same with readings of energy replaced that lie more than `OUTLIER` below what their neighbours say."""
        says = np.exp(from_neighbours(np.log(self.energy_j), np.ones(self.shape, dtype=bool), tuple(self.knobs)))
        energy_j = np.where(self.energy_j < (1 - OUTLIER) * says, says, self.energy_j)
        return replace(self, energy_j=energy_j)


def inference_tables(data: Path) -> dict[str, Grid]:
    """The AGX Orin inference tables of the folder by workload; `FileNotFoundError` if there are none."""
    paths = sorted((data / "orin-agx").glob("infer_*.csv"))
    if not paths:
        raise FileNotFoundError(f"no infer_*.csv in {data / 'orin-agx'}")
    return {name: grid(name, columns(path)) for path in paths for name in [path.stem.removeprefix("infer_")]}


def columns(path: Path) -> dict[str, Any]:
    """The columns of a CSV file: numbers as arrays, text as lists."""
    header, *lines = path.read_text().splitlines()
    cells = zip(*(line.split(",") for line in lines), strict=True)
    return {name: _numbers(values) for name, values in zip(header.split(","), cells, strict=True)}


def grid(name: str, recorded: Mapping[str, Values], *, per_request: bool = False) -> Grid:
    """A grid from rows of `latency_s`, `power_w`, `flagged` and some of `KNOBS`; `latency_s` is a whole batch's.

    With `per_request` it is one request's. ValueError names cells without a measurement and without sound neighbours.
    """
    knobs = {knob: tuple(np.unique(recorded[knob]).tolist()) for knob in KNOBS if knob in recorded}
    requests = recorded["batch"] if "batch" in knobs and not per_request else 1.0
    energy_j = recorded["power_w"] * recorded["latency_s"] / requests
    where = tuple(np.searchsorted(values, recorded[knob]) for knob, values in knobs.items())
    shape = tuple(len(values) for values in knobs.values())
    sound = np.zeros(shape, dtype=bool)
    sound[where] = recorded["flagged"] == 0
    filled = {}
    for column in ("latency_s", "power_w"):
        logs = np.full(shape, math.nan)
        logs[where] = np.log(recorded[column])
        says = from_neighbours(logs, sound, tuple(knobs))
        filled[column] = np.exp(np.where(sound | np.isnan(says), logs, says))
    holes = np.argwhere(np.isnan(filled["latency_s"]))
    if holes.size:
        raise ValueError(f"{name}: no measurement and no sound neighbours at {holes.tolist()}")
    sizes = np.array(knobs["batch"]) if "batch" in knobs and not per_request else np.ones(1)
    axes = [len(sizes) if knob == "batch" else 1 for knob in knobs]
    product = filled["latency_s"] * filled["power_w"] / sizes.reshape(axes)
    return Grid(name, knobs, filled["latency_s"], product, {**recorded, "energy_j": energy_j, "name": name})


def from_neighbours(logs: Values, sound: npt.NDArray[np.bool_], knobs: Sequence[str]) -> Values:
    """Each cell as its one-step neighbours say, from sound ones alone; NaN where none says anything."""
    known = np.where(sound, logs, math.nan)
    says = []
    for axis, knob in enumerate(knobs):
        below, above = _shifted(known, axis, 1), _shifted(known, axis, -1)
        both = (below + above) / 2
        one = np.where(np.isnan(below), above, below) if knob in ONE_SIDED else both
        says.append(np.where(np.isnan(both), one, both))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.asarray(np.nanmedian(np.stack(says), axis=0))


def _shifted(values: Values, axis: int, by: int) -> Values:
    """Every cell's neighbour along an axis, NaN beyond the edge."""
    moved = np.roll(values, by, axis)
    edge = [slice(None)] * values.ndim
    edge[axis] = slice(0, 1) if by > 0 else slice(-1, None)
    moved[tuple(edge)] = math.nan
    return moved


def _numbers(values: Sequence[str]) -> Any:
    try:
        return np.array(values, dtype=float)
    except ValueError:
        return list(values)
