# SPDX-License-Identifier: Apache-2.0
"""The points that a search chooses from: every combination of the knobs' values, or a fair sample of very many."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence

from ..errors import UnknownPoint
from ..points import is_batch

KNOBS = ("cores", "cpu_hz", "gpu_hz", "gpu_min_hz", "emc_hz", "batch")
MOST = 8192
"""More combinations than this are sampled: with a batch limit for each of several models they multiply."""

Knobs = Mapping[str, tuple[float, ...]]


class Candidates:
    """The points, each with a number; a point of the table that was left out of the sample gets one when it is told."""

    def __init__(self, knobs: Mapping[str, Sequence[float]], seed: int) -> None:
        self.knobs = checked(knobs)
        self.points = _sampled(self.knobs, seed)
        self._numbers = {tuple(point.values()): number for number, point in enumerate(self.points)}

    @property
    def fastest(self) -> int:
        """The number of the point with every clock at its top and the smallest batches."""
        return self.number(fastest(self.knobs))

    def number(self, point: Mapping[str, float]) -> int:
        """The number of a point; raises `UnknownPoint` if it is none of the table."""
        key = tuple(float(point.get(name, math.nan)) for name in self.knobs)
        if key not in self._numbers:
            values = dict(zip(self.knobs, key, strict=True))
            if set(point) != set(self.knobs) or not _is_of(values, self.knobs):
                raise UnknownPoint(dict(point))
            self._numbers[key] = len(self.points)
            self.points.append(values)
        elif set(point) != set(self.knobs):
            raise UnknownPoint(dict(point))
        return self._numbers[key]


def checked(knobs: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    """The knobs in a fixed order; raises `ValueError` for unknown names, and for values that make no table."""
    unknown = {name for name in knobs if name not in KNOBS and not is_batch(name)}
    if unknown or not knobs:
        raise ValueError(f"knobs must be some of {KNOBS} or batch.MODEL, got {sorted(knobs)}")
    for name, values in knobs.items():
        if not values or list(values) != sorted(set(values)) or not 0 < values[0] <= values[-1] < math.inf:
            raise ValueError(f"{name}: values must be positive and ascend without repeats, got {list(values)}")
    order = sorted(knobs, key=lambda name: (KNOBS.index("batch" if is_batch(name) else name), name))
    return {name: tuple(float(value) for value in knobs[name]) for name in order}


def fastest(knobs: Knobs) -> dict[str, float]:
    """Every clock at its top, the smallest batches."""
    return {name: values[0] if is_batch(name) else values[-1] for name, values in knobs.items()}


def _sampled(knobs: Knobs, seed: int) -> list[dict[str, float]]:
    count = math.prod(len(values) for values in knobs.values())
    if count <= MOST:
        rows = itertools.product(*knobs.values())
        points = [dict(zip(knobs, row, strict=True)) for row in rows]
    else:
        rng = random.Random(seed)  # noqa: S311 - a sample, nothing secret
        drawn = {tuple(rng.choice(values) for values in knobs.values()) for _ in range(MOST)}
        drawn.add(tuple(fastest(knobs).values()))
        points = [dict(zip(knobs, row, strict=True)) for row in sorted(drawn)]
    return [point for point in points if _in_order(point)]


def _is_of(point: Mapping[str, float], knobs: Knobs) -> bool:
    return all(value in knobs[name] for name, value in point.items()) and _in_order(point)


def _in_order(point: Mapping[str, float]) -> bool:
    """Whether the GPU's lower limit lies at or below the upper one."""
    return point.get("gpu_min_hz", 0.0) <= point.get("gpu_hz", math.inf)
