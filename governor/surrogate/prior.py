# SPDX-License-Identifier: Apache-2.0
"""What was measured of other workloads teaches the search of a board before its first trial.

The physics of `roofline` is fitted to each table. What belongs to the board carries over, in watts: its static power,
and how joules fall with a clock. What belongs to a workload does not: taking two workloads for a third's likeness made
the search overconfident about batch sizes when it was tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..points import Table
from .calibration import Belief, Trials, calibrate, noise_of
from .candidates import KNOBS
from .roofline import NAMES, PRIOR_DEVIATION, PRIOR_MEAN, Offered, linearized
from .surfaces import FIGURES, NUMERICAL_FAILURES, RESIDUALS, alike, for_both, reference, space_of

OF_THE_BOARD = ("static_w", "memory_w", "gpu_exponent")
WATTS = ("static_w", "memory_w")
SPREAD = 0.25
"""How far these differ, as a deviation of logs, from one workload to the next."""
MOST_ROWS = 160
"""Of a large table so many are fitted, evenly spread; physics has 21 parameters."""
FEWEST_ROWS = 4


@dataclass(frozen=True, slots=True)
class Lesson:
    """One table's parameters (logs; watts are absolute) and their variances, `p` each."""

    theta: torch.Tensor
    variance: torch.Tensor


def lessons_of(tables: Sequence[Table]) -> tuple[Lesson, ...]:
    """What each table teaches; one that is too small, or that defies a fit, teaches nothing.

    Raises `ValueError` for a table without latencies or energies, or of unequal columns.
    """
    lessons = (_lesson(table) for table in tables)
    return tuple(lesson for lesson in lessons if lesson is not None)


def belief_of(lessons: Sequence[Lesson], power_w: float) -> Belief:
    """The prior for a workload whose first trial drew `power_w` watts."""
    precision, weighed = PRIOR_DEVIATION**-2, PRIOR_MEAN * PRIOR_DEVIATION**-2
    shared = torch.tensor([name in OF_THE_BOARD for name in NAMES])
    for lesson in lessons:
        weight = (lesson.variance + SPREAD**2).reciprocal() * shared
        precision, weighed = precision + weight, weighed + weight * (lesson.theta - _watts(power_w))
    deviation = torch.where(shared & (precision > PRIOR_DEVIATION**-2), (SPREAD**2 + 1 / precision).sqrt(), math.inf)
    return Belief(weighed / precision, torch.minimum(deviation, PRIOR_DEVIATION))


def _lesson(table: Table) -> Lesson | None:
    knobs, latency_s, energy_j = _columns(table)
    if len(latency_s) < FEWEST_ROWS or not knobs:
        return None
    points = [dict(zip(knobs, row, strict=True)) for row in zip(*knobs.values(), strict=True)]
    space = space_of(points, {name: sorted(set(values)) for name, values in knobs.items()})
    first, rate_hz = reference(space.settings), _rate_hz(table)
    seconds, batch = math.log(latency_s[first]), float(space.settings.batch[first])
    offered = Offered(1.0 / (rate_hz * latency_s[first])) if rate_hz else None
    power_w = energy_j[first] * (rate_hz or batch / latency_s[first])
    latency = torch.tensor(latency_s, dtype=torch.float64).log() - seconds
    period = offered.period if offered else 1.0 / batch
    energy = torch.tensor(energy_j, dtype=torch.float64).log() - math.log(energy_j[first] / period)
    rows = list(range(len(points)))
    residual = RESIDUALS[0] ** 2 * for_both(alike(space, rows))
    noise = noise_of([None] * (FIGURES * len(rows)))
    trials = Trials(space.settings, torch.cat([latency, energy]), residual, noise, offered)
    try:
        fit = calibrate(trials, Belief(PRIOR_MEAN, PRIOR_DEVIATION))
        _, slopes = linearized(fit.theta, trials.at, offered)
        held = slopes.T @ torch.linalg.solve(fit.covariance, slopes) + torch.diag(PRIOR_DEVIATION**-2)
        variance = torch.linalg.inv(held).diagonal()
    except NUMERICAL_FAILURES:
        return None
    return Lesson(fit.theta + _watts(power_w), variance)


def _rate_hz(table: Table) -> float | None:
    """The load under which a table was measured; None for batches back to back."""
    rate_hz = table.get("rate_hz")
    if rate_hz is not None and not 0 < rate_hz < math.inf:
        raise ValueError(f"prior {table.get('name', '')!r}: rate_hz must be positive and finite, got {rate_hz}")
    return rate_hz


def _watts(power_w: float) -> torch.Tensor:
    """What makes relative parameters absolute: log watts where they are powers, `p`."""
    return torch.tensor([math.log(power_w) if name in WATTS else 0.0 for name in NAMES], dtype=torch.float64)


def _columns(table: Table) -> tuple[dict[str, list[float]], list[float], list[float]]:
    """Knobs, latencies and energies of the rows that can be trusted, evenly thinned."""
    names = [name for name in KNOBS if name in table and name != "gpu_min_hz"]
    columns = [np.asarray(table[name], dtype=float) for name in (*names, "latency_s", "energy_j")]
    if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
        raise ValueError(f"prior {table.get('name', '')!r}: columns of unequal length")
    sound = np.all([np.isfinite(column) & (column > 0) for column in columns], axis=0)
    if "flagged" in table:
        sound &= np.asarray(table["flagged"], dtype=float) == 0
    rows = np.flatnonzero(sound)
    rows = rows[np.linspace(0, len(rows) - 1, min(MOST_ROWS, len(rows))).round().astype(int)] if len(rows) else rows
    kept = [column[rows].tolist() for column in columns]
    return dict(zip(names, kept, strict=False)), kept[-2], kept[-1]
