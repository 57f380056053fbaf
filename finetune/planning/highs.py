# SPDX-License-Identifier: Apache-2.0
"""The program's linear relaxation on HiGHS, and what its duals prove.

The bound does not rest on the solver's tolerances: any non-negative multipliers of the rows give one, each variable
contributing its reduced cost where that is negative (Neumaier and Shcherbina, 2004). The sums are taken here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import SolverMissing
from .booleans import Model

try:
    import highspy
except ModuleNotFoundError as error:
    raise SolverMissing("highspy") from error

EFFORT = 5e-10
"""Deterministic seconds per simplex iteration and non-zero."""
SLACK = 1e-9
"""Share of the summands by which a sum of doubles is mistrusted."""


@dataclass(frozen=True, slots=True)
class Relaxed:
    """`bound`: no assignment costs less, in the model's units. `reduced`: what a variable adds to it when it is moved.

    A positive entry is added when the variable is true, a negative one taken off when it is false.
    """

    bound: float
    reduced: tuple[float, ...]
    effort: float

    def fixed(self, most: float) -> dict[int, bool]:
        """The variables that have the same value in every assignment of a cost up to `most`."""
        spare = most - self.bound
        return {v: cost < 0 for v, cost in enumerate(self.reduced) if abs(cost) > max(spare, 0.0) * (1 + SLACK) + SLACK}


def relax(model: Model, seconds: float | None = None) -> Relaxed:
    """The relaxation's bound, rounded down; a weaker one where `seconds` of wall time cut it."""
    starts, columns, values, lower, upper = _matrix(model)
    count = len(model.names)
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = count, len(lower)
    scale = max(model.costs, default=1) or 1
    program.col_cost_ = np.array(model.costs, dtype=np.float64) / scale
    program.col_lower_, program.col_upper_ = np.zeros(count), np.ones(count)
    program.row_lower_, program.row_upper_ = lower, upper
    matrix = program.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.start_, matrix.index_, matrix.value_ = starts, columns, values
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    if seconds is not None:
        solver.setOptionValue("time_limit", max(0.01, seconds))
    solver.passModel(program)
    solver.run()
    duals = np.array(solver.getSolution().row_dual, dtype=np.float64) * scale
    iterations = max(1, solver.getInfo().simplex_iteration_count)
    bound, reduced = _proven(model, duals, (starts, columns, values, lower, upper))
    return Relaxed(bound, reduced, iterations * len(values) * EFFORT)


Matrix = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # type: ignore[type-arg]


def _matrix(model: Model) -> Matrix:
    """Clauses as sums of at least one true literal, rows over their greatest coefficient."""
    starts, columns, values, lower, upper = [0], [], [], [], []
    for clause in model.clauses:
        columns += [abs(literal) - 1 for literal in clause]
        values += [1.0 if literal > 0 else -1.0 for literal in clause]
        lower.append(1.0 - sum(literal < 0 for literal in clause))
        upper.append(math.inf)
        starts.append(len(columns))
    for row in model.rows:
        # A power of two divides exactly.
        unit = 2.0 ** max(0, max(abs(value) for value, _ in row.terms).bit_length() - 1)
        columns += [variable for _, variable in row.terms]
        values += [value / unit for value, _ in row.terms]
        lower.append(-math.inf)
        upper.append(row.limit / unit)
        starts.append(len(columns))
    return (
        np.array(starts, dtype=np.int32),
        np.array(columns, dtype=np.int32),
        np.array(values),
        np.array(lower),
        np.array(upper),
    )


def _proven(model: Model, duals: np.ndarray, matrix: Matrix) -> tuple[float, tuple[float, ...]]:  # type: ignore[type-arg]
    """The bound that multipliers prove, and the reduced costs, whatever the solver thought of them."""
    starts, columns, values, lower, upper = matrix
    at_least = np.isfinite(lower)
    if len(duals) != len(lower):
        duals = np.zeros(len(lower))
    duals = np.where(at_least, np.maximum(duals, 0.0), np.minimum(duals, 0.0))
    rows = np.repeat(np.arange(len(lower)), np.diff(starts))
    products = duals[rows] * values
    costs = np.array(model.costs, dtype=np.float64)
    reduced = costs - np.bincount(columns, weights=products, minlength=len(costs))
    sides = duals * np.where(at_least, lower, upper)
    doubt = SLACK * (float(np.abs(products).sum()) + float(np.abs(sides).sum())) * 1e-3
    bound = math.fsum(sides.tolist()) + math.fsum(np.minimum(reduced, 0.0).tolist()) - doubt
    return max(0.0, bound), tuple(reduced.tolist())
