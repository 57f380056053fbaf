# SPDX-License-Identifier: Apache-2.0
"""The program on CP-SAT: one worker, a fixed seed, effort in its deterministic seconds, all arithmetic exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import SolverMissing
from .booleans import Model

try:
    from ortools.sat.python import cp_model
except ModuleNotFoundError as error:
    raise SolverMissing("ortools") from error


@dataclass(frozen=True, slots=True)
class Answer:
    """What a solver found: `bound` and the values of the best assignment in the model's whole units.

    `exhausted`: nothing better is left, so `bound` is the optimum; it is None where no assignment exists.
    """

    bound: int | None
    values: tuple[bool, ...] | None
    exhausted: bool
    effort: float


def solve(
    model: Model,
    *,
    effort: float,
    most: int | None = None,
    fixed: Mapping[int, bool] | None = None,
    gap: float = 0.0,
    seconds: float | None = None,
    found: Callable[[tuple[bool, ...]], None] | None = None,
    bounded: Callable[[int], None] | None = None,
) -> Answer:
    """The least cost of the program up to `most`, within `effort` deterministic seconds and `seconds` of wall time.

    `fixed`: values of variables that are known. `gap`: the share of the cost by which the answer may fall short.
    `found` sees every better assignment, `bounded` every better bound.
    """
    program = cp_model.CpModel()
    variables = [program.new_bool_var(f"{name.letter}{name.number}.{name.stage}") for name in model.names]
    for clause in model.clauses:
        program.add_bool_or([variables[at - 1] if at > 0 else ~variables[-at - 1] for at in clause])
    for row in model.rows:
        coefficients, terms = zip(*((value, variables[at]) for value, at in row.terms), strict=True)
        program.add(cp_model.LinearExpr.weighted_sum(terms, coefficients) <= row.limit)
    cost = cp_model.LinearExpr.weighted_sum(variables, model.costs)
    program.minimize(cost)
    if most is not None:
        program.add(cost <= most)
    for variable, value in (fixed or {}).items():
        program.add(variables[variable] == value)
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.num_workers, parameters.random_seed, parameters.linearization_level = 1, 0, 2
    parameters.max_deterministic_time = effort
    parameters.relative_gap_limit, parameters.absolute_gap_limit = gap, 0.0
    if seconds is not None:
        parameters.max_time_in_seconds = seconds
    if bounded is not None:
        solver.best_bound_callback = lambda value: bounded(int(value))
    solver.solve(program, _Watch(variables, found) if found else None)
    status = solver.status_name()
    spent = float(solver.response_proto.deterministic_time)
    if status == "INFEASIBLE":
        return Answer(None, None, exhausted=True, effort=spent)
    values = None
    if status in ("OPTIMAL", "FEASIBLE"):
        values = tuple(bool(solver.boolean_value(variable)) for variable in variables)
    bound = max(0, int(solver.response_proto.inner_objective_lower_bound))
    return Answer(bound, values, exhausted=status == "OPTIMAL", effort=spent)


class _Watch(cp_model.CpSolverSolutionCallback):
    def __init__(self, variables: Sequence[cp_model.IntVar], found: Callable[[tuple[bool, ...]], None]) -> None:
        super().__init__()
        self.variables, self.found = variables, found

    def on_solution_callback(self) -> None:
        self.found(tuple(bool(self.boolean_value(variable)) for variable in self.variables))
