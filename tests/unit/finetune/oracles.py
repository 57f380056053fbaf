# SPDX-License-Identifier: Apache-2.0
"""What schedules may do, said a second time and in another way, and the best one by trying all: for tiny steps."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import count

from finetune.graph import Graph
from finetune.problem import Problem
from finetune.schedule import Entry


def _begun(graph: Graph, entries: Sequence[Entry], storage: int) -> bool:
    """Whether a carried storage lies on storage at first: a read is the first that is heard of it."""
    if graph.producers[storage] is not None:
        return False
    for act, number in entries:
        if act == "C" and storage in graph.touched(number):
            return False
        if act != "C" and number == storage:
            return act == "I"
    return False


def _in_ram(graph: Graph, entries: Sequence[Entry], end: int, storage: int) -> bool:
    for act, number in reversed(entries[:end]):
        if act == "F" and number == storage:
            return False
        if (act == "I" and number == storage) or (act == "C" and storage in graph.ops[number].outputs):
            return True
    return graph.producers[storage] is None and not _begun(graph, entries, storage)


def _on_storage(graph: Graph, entries: Sequence[Entry], end: int, storage: int) -> bool:
    for act, number in reversed(entries[:end]):
        if act == "C" and storage in graph.ops[number].updates:
            return False
        if act == "O" and number == storage:
            return True
    return _begun(graph, entries, storage)


def _runs(entries: Sequence[Entry], end: int, op: int) -> int:
    return sum(entry == ("C", op) for entry in entries[:end])


def legal(problem: Problem, entries: Sequence[Entry]) -> bool:
    """Whether a list obeys every rule but the deadline's; each rule looks through the whole past by itself."""
    graph = problem.graph
    everything = range(len(graph.storages))
    for end, (act, number) in enumerate(entries):
        if not 0 <= number < (len(graph.ops) if act == "C" else len(graph.storages)):
            return False
        held = {storage for storage in everything if _in_ram(graph, entries, end, storage)}
        if not (_computes if act == "C" else _moves)(problem, entries, end, held):
            return False
    begun_bytes = _size(problem, {storage for storage in graph.carried if _begun(graph, entries, storage)})
    if problem.limits.quota_bytes is not None and begun_bytes > problem.limits.quota_bytes:
        return False
    ran = range(len(graph.ops))
    if not all(_runs(entries, len(entries), op) for op in ran):
        return False
    for storage in everything:
        in_ram = _in_ram(graph, entries, len(entries), storage)
        begun = _begun(graph, entries, storage)
        must = graph.storages[storage].kept or (graph.producers[storage] is None and not begun)
        if (must and not in_ram) or (begun and (in_ram or not _on_storage(graph, entries, len(entries), storage))):
            return False
    return True


def _size(problem: Problem, storages: Sequence[int] | set[int]) -> int:
    return sum(problem.graph.storages[storage].size_bytes for storage in storages)


def _computes(problem: Problem, entries: Sequence[Entry], end: int, held: set[int]) -> bool:
    graph, number = problem.graph, entries[end].number
    op = graph.ops[number]
    needed = {*op.inputs, *op.updates}
    spoilt = {storage for act, other in entries[:end] if act == "C" for storage in graph.ops[other].updates}
    workspace = problem.costs.workspace_bytes[number] if problem.semantics == "real" else 0
    return (
        needed <= held
        and not needed & spoilt
        and (op.again or not _runs(entries, end, number))
        and all(_runs(entries, end, before) for before in range(number))
        and _size(problem, held) + _size(problem, op.outputs) + workspace <= problem.limits.budget_bytes
    )


def _moves(problem: Problem, entries: Sequence[Entry], end: int, held: set[int]) -> bool:
    graph, (act, number) = problem.graph, entries[end]
    stored = _on_storage(graph, entries, end, number)
    pageable = graph.storages[number].pageable
    if act == "F":
        return number in held and (graph.producers[number] is not None or stored)
    if act == "I":
        fits = _size(problem, held | {number}) <= problem.limits.budget_bytes
        return number not in held and stored and pageable and fits
    ever = {number} | {other for kind, other in entries[:end] if kind == "O"}
    ever |= {storage for storage in graph.carried if _begun(graph, entries, storage)}
    quota = problem.limits.quota_bytes
    return number in held and not stored and pageable and (quota is None or _size(problem, ever) <= quota)


State = tuple[frozenset[int], frozenset[int], frozenset[int], int]
"""In RAM, on storage, ever on storage where that has a limit, ops done."""


def least_overhead_j(problem: Problem) -> float | None:
    """The least overhead there is when time does not matter, by Dijkstra over all states; None if there is none.

    For steps without carried storages and updates, whose past is then wholly in the state.
    """
    ticket = count()
    open_ends: list[tuple[float, int, State]] = [(0.0, next(ticket), (frozenset(), frozenset(), frozenset(), 0))]
    done: set[State] = set()
    kept = {number for number, storage in enumerate(problem.graph.storages) if storage.kept}
    while open_ends:
        joules, _, state = heapq.heappop(open_ends)
        if state in done:
            continue
        done.add(state)
        if state[3] == len(problem.graph.ops) and kept <= state[0]:
            return joules
        for more_j, after in _next(problem, state):
            if after not in done:
                heapq.heappush(open_ends, (joules + more_j, next(ticket), after))
    return None


def _next(problem: Problem, state: State) -> Iterator[tuple[float, State]]:
    held, stored, ever, ran = state
    graph, costs, limits = problem.graph, problem.costs, problem.limits
    for storage in held:
        yield 0.0, (held - {storage}, stored, ever, ran)
        after = ever if limits.quota_bytes is None else ever | {storage}
        within = limits.quota_bytes is None or _size(problem, set(after)) <= limits.quota_bytes
        if storage not in stored and graph.storages[storage].pageable and within:
            yield costs.write_j[storage], (held, stored | {storage}, after, ran)
    for storage in stored - held:
        if _size(problem, set(held | {storage})) <= limits.budget_bytes:
            yield costs.read_j[storage], (held | {storage}, stored, ever, ran)
    for number, op in enumerate(graph.ops[: ran + 1]):
        workspace = costs.workspace_bytes[number] if problem.semantics == "real" else 0
        fits = _size(problem, set(held)) + _size(problem, op.outputs) + workspace <= limits.budget_bytes
        if fits and held.issuperset(op.inputs) and (op.again or number == ran):
            joules = costs.energy_j[number] if number < ran else 0.0
            yield joules, (held.union(op.outputs), stored, ever, max(ran, number + 1))
