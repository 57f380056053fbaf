# SPDX-License-Identifier: Apache-2.0
"""POET's mixed-integer program (Patil et al., ICML 2022), rule by rule, as sparse rows for any solver.

N nodes and N stages; node t is computed for the first time in stage t. `R[t,i]` computed, `SRam[t,i]` in RAM and
`SSd[t,i]` on storage at the start of stage t, `Min[t,i]` read and `Mout[t,i]` written during it, `Free[t,(i,k)]` freed
right after node k, `U[t,k]` RAM once node k has been passed. Two things help the solvers and change no optimum: the
objective is the overhead alone, scaled so that the plain step costs 10,000; RAM is in thousandths of the budget.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import numpy.typing as npt

from finetune.poet.matrices import Matrices
from finetune.problem import Problem
from finetune.schedule import Entry, Schedule, with_frees

from .lowering import NoSchedule

BASE = 1e4
RAM = 1e3
NAMES = ("R", "SRam", "SSd", "Min", "Mout")

Array = npt.NDArray[Any]


@dataclass
class Program:
    """Columns in the order R, SRam, SSd, Min, Mout (row by row), Free, U; rows as lists of (column, factor)."""

    nodes: int
    edges: tuple[tuple[int, int], ...]
    cost: Array
    upper: Array
    binaries: int
    starts: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def row(self, terms: list[tuple[int, float]], low: float, high: float) -> None:
        """One more constraint."""
        self.starts.append(len(self.columns))
        for column, factor in terms:
            self.columns.append(column)
            self.factors.append(factor)
        self.low.append(low)
        self.high.append(high)

    def at(self, name: str, t: int, i: int) -> int:
        """The column of a matrix's entry."""
        return (NAMES.index(name) * self.nodes + t) * self.nodes + i

    def write(self, path: Path) -> None:
        """As an MPS file."""
        infinite = highspy.kHighsInf
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(self.cost), len(self.low)
        model.col_cost_, model.col_lower_, model.col_upper_ = self.cost, np.zeros(len(self.cost)), self.upper
        model.row_lower_ = np.array([-infinite if value == -np.inf else value for value in self.low])
        model.row_upper_ = np.array([infinite if value == np.inf else value for value in self.high])
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_ = np.array([*self.starts, len(self.columns)])
        model.a_matrix_.index_, model.a_matrix_.value_ = np.array(self.columns), np.array(self.factors)
        kinds = highspy.HighsVarType
        model.integrality_ = [kinds.kInteger] * self.binaries + [kinds.kContinuous] * (len(self.cost) - self.binaries)
        solver = highspy.Highs()
        solver.setOptionValue("output_flag", False)
        solver.passModel(model)
        solver.writeModel(str(path))


def program(problem: Problem) -> Program:
    """POET's program for a problem; raises `NoSchedule` for a graph with ops that make several storages, or none."""
    graph, costs, limits = problem.graph, problem.costs, problem.limits
    nodes = len(graph.ops)
    if any(op.outputs != (number,) for number, op in enumerate(graph.ops)):
        raise NoSchedule("POET's program knows one output per node, and nothing carried")
    edges = tuple((u, v) for v, op in enumerate(graph.ops) for u in sorted(set(op.inputs)))
    binaries = 5 * nodes * nodes + nodes * len(edges)
    scale = BASE / (problem.base_energy_j or 1.0)
    once = np.ones((nodes, 1))
    cost = np.concatenate(
        [
            (once * np.array(costs.energy_j) * scale - np.diag(costs.energy_j) * scale).ravel(),
            np.zeros(2 * nodes * nodes),
            (once * np.array(costs.read_j) * scale).ravel(),
            (once * np.array(costs.write_j) * scale).ravel(),
            np.zeros(nodes * len(edges) + nodes * nodes),
        ]
    )
    upper = np.concatenate([_reach(nodes), np.ones(nodes * len(edges)), np.full(nodes * nodes, RAM)])
    found = Program(nodes, edges, cost, upper, binaries)
    again = [op.again for op in graph.ops]
    for t in range(nodes):
        found.row([(found.at("R", t, t), 1)], 1, 1)
        for i in range(t):
            if not again[i]:
                found.row([(found.at("R", t, i), 1)], 0, 0)
    _flow(found)
    _memory(found, np.array([storage.size_bytes for storage in graph.storages]) * (RAM / limits.budget_bytes))
    if limits.deadline_s is not None:
        share = [seconds / limits.deadline_s for seconds in costs.time_s]
        found.row([(found.at("R", t, i), share[i]) for t in range(nodes) for i in range(t + 1)], -np.inf, 1)
    return found


def _reach(nodes: int) -> Array:
    """Upper limits of the five matrices: nothing beyond the frontier (rule 1)."""
    upto, below = np.tri(nodes), np.tri(nodes, k=-1)
    return np.concatenate([part.ravel() for part in (upto, below, below, upto, upto)])


def _flow(found: Program) -> None:
    """Rules 2 to 5: where an output can come from."""
    at, nodes = found.at, found.nodes
    for t in range(nodes):
        for u, v in found.edges:
            if v <= t:
                found.row([(at("R", t, v), 1), (at("R", t, u), -1), (at("SRam", t, u), -1)], -np.inf, 0)
        for i in range(t + 1):
            if t + 1 < nodes:
                sources = [(at(name, t, i), -1.0) for name in ("SRam", "R", "Min")]
                found.row([(at("SRam", t + 1, i), 1), *sources], -np.inf, 0)
                sources = [(at(name, t, i), -1.0) for name in ("SSd", "Mout")]
                found.row([(at("SSd", t + 1, i), 1), *sources], -np.inf, 0)
            found.row([(at("Min", t, i), 1), (at("SSd", t, i), -1)], -np.inf, 0)
            found.row([(at("Mout", t, i), 1), (at("SRam", t, i), -1)], -np.inf, 0)


def _memory(found: Program, size: Array) -> None:
    """Rules 6 and 7: when an output is freed, and that RAM is enough after every node of every stage."""
    at, nodes, edges = found.at, found.nodes, found.edges
    users: list[list[int]] = [[] for _ in range(nodes)]
    freed: list[list[int]] = [[] for _ in range(nodes)]
    for number, (i, k) in enumerate(edges):
        users[i].append(k)
        freed[k].append(number)
    free0, ram0 = 5 * nodes * nodes, found.binaries
    for t in range(nodes):
        for number, (i, k) in enumerate(edges):
            # hazards: k is not run, i is kept, i is used later in the stage
            hazards = [(at("R", t, k), -1.0)] + [(at("R", t, j), 1.0) for j in users[i] if j > k]
            if t + 1 < nodes:
                hazards.append((at("SRam", t + 1, i), 1.0))
            free = free0 + t * len(edges) + number
            found.row([(free, 1), *hazards], 0, np.inf)
            most = float(len(hazards))
            found.row([(free, most), *hazards], -np.inf, most - 1)
        held = [(at("SRam", t, i), -size[i]) for i in range(t)]
        found.row([(ram0 + t * nodes, 1), (at("R", t, 0), -size[0]), *held], 0, 0)
        for k in range(nodes - 1):
            frees = [(free0 + t * len(edges) + number, size[edges[number][0]]) for number in freed[k]]
            now, then = ram0 + t * nodes + k, ram0 + t * nodes + k + 1
            found.row([(then, 1), (now, -1), (at("R", t, k + 1), -size[k + 1]), *frees], 0, 0)


def matrices(nodes: int, values: Array) -> Matrices:
    """The five matrices of a solution; raises `NoSchedule` for one that is not integral."""
    parts = values[: 5 * nodes * nodes].reshape(5, nodes, nodes)
    whole = np.rint(parts)
    if np.abs(parts - whole).max() > 1e-4:
        raise NoSchedule("the solver's answer is not integral")
    return Matrices(*whole.astype(bool))


def listed(problem: Problem, found: Matrices) -> Schedule:
    """The matrices as a schedule: reads arrive with the next stage, what is there already is not made again."""
    graph, nodes = problem.graph, len(problem.graph.ops)
    entries: list[Entry] = []
    resident: set[int] = set()
    stored: set[int] = set()
    for t in range(nodes):
        kept = set(np.flatnonzero(found.SRam[t]).tolist())
        for i in sorted(kept - resident):
            entries.append(Entry("I", i))
        resident = set(kept)
        for i in np.flatnonzero(found.Mout[t]).tolist():
            if i not in stored:
                entries.append(Entry("O", i))
                stored.add(i)
        for i in np.flatnonzero(found.R[t]).tolist():
            if i not in resident:
                entries.append(Entry("C", i))
                resident.add(i)
    return with_frees(graph, entries)
