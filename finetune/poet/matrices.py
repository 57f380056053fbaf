# SPDX-License-Identifier: Apache-2.0
"""POET's own terms: a schedule as five 0/1 matrices, and its rules and its RAM written out [Patil et al., ICML 2022].

Row t is the stage that ends with the first run of node t, column i a node. `R`: computed in the stage; `SRam`, `SSd`:
in RAM, on storage when it begins; `Min`, `Mout`: read, written in it. What is read in a stage is in RAM from the next
one on; only what is in RAM when a stage begins can be written in it. What no node of a stage uses stays throughout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph
from ..problem import Problem
from ..schedule import Entry, Schedule, with_frees

Bits = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Matrices:
    """Five N x N matrices under the paper's names."""

    R: Bits
    SRam: Bits
    SSd: Bits
    Min: Bits
    Mout: Bits

    def rows(self) -> dict[str, list[list[int]]]:
        """As lists of 0 and 1, for a file."""
        named = {"R": self.R, "SRam": self.SRam, "SSd": self.SSd, "Min": self.Min, "Mout": self.Mout}
        return {name: bits.astype(int).tolist() for name, bits in named.items()}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What POET's program makes of a schedule: bytes at most, seconds of computing, joules of overhead, its faults."""

    peak_bytes: int
    compute_s: float
    overhead_j: float
    broken: tuple[str, ...]


@dataclass(slots=True)
class _Copy:
    """A stay of an output in RAM: how it began (C or I), in which stage, and the stage of its last use (-1: none)."""

    act: str
    stage: int
    last: int = -1


def edges_of(graph: Graph) -> list[tuple[int, int]]:
    """(source, target) for each input of each op, where op i makes storage i."""
    return [(source, target) for target, op in enumerate(graph.ops) for source in op.inputs]


def matrices(graph: Graph, schedule: Schedule) -> Matrices:
    """The matrices of a schedule that runs; never more computations or transfers than its list.

    POET can write an output no earlier than the stage after its own and read it no earlier than the stage after that:
    a read that comes sooner is replaced by keeping the output in RAM, a write is moved to where it costs no RAM if
    there is such a stage, and where it costs least otherwise.
    """
    count = len(graph.ops)
    made = Matrices(*(np.zeros((count, count), dtype=bool) for _ in range(5)))
    places = [_place(made, node, copies) for node, copies in enumerate(_stays(graph, schedule))]
    for node, (reads, ends) in enumerate(places):
        if reads:
            _write(graph, made, node, reads, ends)
    return made


def _stays(graph: Graph, schedule: Schedule) -> list[list[_Copy]]:
    """The stays of each node, in order."""
    copies: list[list[_Copy]] = [[] for _ in graph.ops]
    stage = 0
    for act, number in schedule:
        if act == "C":
            for source in graph.ops[number].inputs:
                copies[source][-1].last = stage
            copies[number].append(_Copy("C", stage, stage if number == stage else -1))
            stage += number == stage
        elif act == "I":
            copies[number].append(_Copy("I", stage))
    return copies


def _place(made: Matrices, node: int, copies: Iterable[_Copy]) -> tuple[list[int], list[int]]:
    """Set R and SRam of a node; the stages that begin with it read, and those in which its stays end."""
    runs, held = made.R[:, node], made.SRam[:, node]
    reads: list[int] = []
    ends: list[int] = []
    for copy in copies:
        if copy.last < 0:
            continue
        stage = first = copy.stage
        if copy.act == "C":
            runs[stage] |= not held[stage]
            first = stage + 1
        elif stage - ends[-1] >= 2 and (reads or held[: stage - 1].any() or stage - ends[0] >= 3):
            reads.append(stage)
        else:
            first = ends[-1] + 1
        held[first : copy.last + 1] = True
        ends.append(copy.last)
    return reads, ends


def _write(graph: Graph, made: Matrices, node: int, reads: Sequence[int], ends: Sequence[int]) -> None:
    """Set Min, Mout and SSd of a node that is read, and keep it one stage longer where there is no other way."""
    held = made.SRam[:, node]
    latest = reads[0] - 2
    free = np.flatnonzero(held[: latest + 1])
    if len(free):
        stage = int(free[0])
    else:
        late = [end + 1 for end in ends if end + 1 <= latest]
        stage = late[0] if len(late) == 1 else min(late, key=lambda one: _bytes_with(graph, made, one, node))
        held[stage] = True
    made.Mout[stage, node] = True
    made.SSd[stage + 1 : reads[-1], node] = True
    made.Min[[read - 1 for read in reads], node] = True


def _bytes_with(graph: Graph, made: Matrices, stage: int, node: int) -> int:
    """Most bytes of a stage were a node kept through it."""
    kept = made.SRam[stage : stage + 2].copy()
    kept[0, node] = True
    return int(_profile(_sizes(graph), edges_of(graph), made.R[stage : stage + 1], kept).max())


def _sizes(graph: Graph) -> NDArray[np.int64]:
    return np.array([graph.storages[op.outputs[0]].size_bytes for op in graph.ops], dtype=np.int64)


def ram_bytes(sizes_bytes: Sequence[int], edges: Iterable[tuple[int, int]], made: Matrices) -> NDArray[np.int64]:
    """U[t, k] of POET's program: bytes in RAM in stage t once node k has been passed. An edge twice frees twice."""
    return _profile(np.asarray(sizes_bytes, dtype=np.int64), edges, made.R, made.SRam)


def _profile(sizes: NDArray[np.int64], edges: Iterable[tuple[int, int]], runs: Bits, held: Bits) -> NDArray[np.int64]:
    """The same for the first stages of `held`, one less than it has or all; row t + 1 says what stage t keeps."""
    count = len(runs)
    kept = np.zeros((count, len(sizes)), dtype=bool)
    kept[: len(held) - 1] = held[1 : count + 1]
    steps = np.zeros((count, len(sizes) + 1), dtype=np.int64)
    targets: dict[int, Counter[int]] = {}
    for source, target in edges:
        targets.setdefault(source, Counter())[target] += 1
    for source, users in targets.items():
        ascending = np.array(sorted(users))
        used = runs[:, ascending]
        latest = len(ascending) - 1 - np.argmax(used[:, ::-1], axis=1)
        rows = np.flatnonzero(used.any(axis=1) & ~kept[:, source])
        times = np.array([users[target] for target in ascending.tolist()])
        steps[rows, ascending[latest[rows]] + 1] -= sizes[source] * times[latest[rows]]
    steps[:, :-1] += runs * sizes
    steps[:, 0] += held[:count] @ sizes
    result: NDArray[np.int64] = np.cumsum(steps[:, :-1], axis=1)
    return result


def judge(problem: Problem, made: Matrices, edges: Sequence[tuple[int, int]] | None = None) -> Verdict:
    """POET's rules on five matrices; `edges` as a graph file gives them, where they differ from the graph's."""
    graph, costs = problem.graph, problem.costs
    pairs = edges_of(graph) if edges is None else edges
    used = ram_bytes(_sizes(graph).tolist(), pairs, made)
    peak, compute_s = int(used.max()), float(made.R.sum(axis=0) @ np.array(costs.time_s))
    broken = _broken(made, pairs)
    if used.min() < 0:
        broken.append("U must not be negative")
    if peak > problem.limits.budget_bytes:
        broken.append(f"{peak} bytes exceed the budget of {problem.limits.budget_bytes}")
    deadline_s = problem.limits.deadline_s
    if deadline_s is not None and compute_s > deadline_s * (1 + 1e-9):
        broken.append(f"{compute_s:.6g} s of computing exceed the deadline of {deadline_s:.6g} s")
    counts = (
        (made.R.sum(axis=0) - 1, costs.energy_j),
        (made.Min.sum(axis=0), costs.read_j),
        (made.Mout.sum(axis=0), costs.write_j),
    )
    overhead_j = sum(float(times @ np.array(joules[: len(times)])) for times, joules in counts)
    return Verdict(peak, compute_s, overhead_j, tuple(broken))


def _broken(made: Matrices, edges: Iterable[tuple[int, int]]) -> list[str]:
    """The rules of section 2 of the paper's program that do not hold."""
    R, in_ram, on_storage, reads, writes = made.R, made.SRam, made.SSd, made.Min, made.Mout  # noqa: N806
    later = np.triu(np.ones_like(R), 1)
    now = later | np.eye(len(R), dtype=bool)
    absent = np.zeros_like(R)
    for source, target in edges:
        absent[:, target] |= R[:, target] & ~(R[:, source] | in_ram[:, source])
    rules: tuple[tuple[str, Any], ...] = (
        ("R[t,t] must be 1", ~R.diagonal()),
        ("R[t,i] must be 0 for i > t", R & later),
        ("SRam[t,i] must be 0 for i >= t", in_ram & now),
        ("SSd[t,i] must be 0 for i >= t", on_storage & now),
        ("Min[t,i] must be 0 for i > t", reads & later),
        ("Mout[t,i] must be 0 for i > t", writes & later),
        ("R[t,v] needs every input u in SRam[t,u] or R[t,u]", absent),
        ("SRam[t+1,i] needs SRam[t,i], R[t,i] or Min[t,i]", in_ram[1:] & ~(in_ram | R | reads)[:-1]),
        ("SSd[t+1,i] needs SSd[t,i] or Mout[t,i]", on_storage[1:] & ~(on_storage | writes)[:-1]),
        ("Min[t,i] needs SSd[t,i]", reads & ~on_storage),
        ("Mout[t,i] needs SRam[t,i]", writes & ~in_ram),
    )
    return [rule for rule, bad in rules if bad.any()]


def listed(graph: Graph, made: Matrices) -> Schedule:
    """The schedule of matrices that break no rule: writes and reads first in each stage, then its computations."""
    before = np.zeros(len(made.R), dtype=bool)
    entries: list[Entry] = []
    for stage, (runs, held, writes) in enumerate(zip(made.R, made.SRam, made.Mout, strict=True)):
        entries += [Entry("O", int(node)) for node in np.flatnonzero(writes)]
        entries += [Entry("I", int(node)) for node in np.flatnonzero(held & ~before)]
        entries += [Entry("C", int(node)) for node in np.flatnonzero(runs)]
        before = made.SRam[stage] | runs
    return with_frees(graph, entries)
