# SPDX-License-Identifier: Apache-2.0
"""The least overhead of a tiny step by trying everything: Dijkstra over all that a step can be like between entries."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import chain, combinations, count
from typing import NamedTuple

from finetune.problem import Problem


class State(NamedTuple):
    """`begun`: what lay on storage first, `read`: of these what was read; `ran`: ops that have run."""

    held: frozenset[int]
    stored: frozenset[int]
    ever: frozenset[int]
    ran: int
    begun: frozenset[int]
    read: frozenset[int]


def exhaustive_overhead_j(problem: Problem) -> float | None:
    """Joules, when neither idling nor the deadline counts; None if no schedule fits. Carried storages included."""
    ticket = count()
    heap = [(0.0, next(ticket), state) for state in _begins(problem)]
    done: set[State] = set()
    while heap:
        joules, _, state = heapq.heappop(heap)
        if state in done:
            continue
        done.add(state)
        if _ends(problem, state):
            return joules
        for more_j, after in chain(_moves(problem, state), _computes(problem, state)):
            if after not in done:
                heapq.heappush(heap, (joules + more_j, next(ticket), after))
    return None


def _size(problem: Problem, storages: frozenset[int]) -> int:
    return sum(problem.graph.storages[storage].size_bytes for storage in storages)


def _within_quota(problem: Problem, ever: frozenset[int]) -> bool:
    quota = problem.limits.quota_bytes
    return quota is None or _size(problem, ever) <= quota


def _begins(problem: Problem) -> Iterator[State]:
    graph = problem.graph
    may = [number for number in graph.carried if graph.storages[number].pageable and not graph.storages[number].kept]
    for many in range(len(may) + 1):
        for chosen in map(frozenset, combinations(may, many)):
            if _within_quota(problem, chosen):
                yield State(frozenset(graph.carried) - chosen, chosen, chosen, 0, chosen, frozenset())


def _ends(problem: Problem, state: State) -> bool:
    graph = problem.graph
    kept = {number for number, storage in enumerate(graph.storages) if storage.kept}
    stay = kept | (set(graph.carried) - state.begun)
    away = state.begun <= state.stored - state.held and state.begun <= state.read
    return state.ran == len(graph.ops) and stay <= state.held and away


def _moves(problem: Problem, state: State) -> Iterator[tuple[float, State]]:
    graph, costs = problem.graph, problem.costs
    for storage in state.held:
        if graph.producers[storage] is not None or storage in state.stored:
            yield 0.0, state._replace(held=state.held - {storage})
        ever = state.ever | {storage}
        if storage not in state.stored and graph.storages[storage].pageable and _within_quota(problem, ever):
            yield costs.write_j[storage], state._replace(stored=state.stored | {storage}, ever=ever)
    for storage in state.stored - state.held:
        held = state.held | {storage}
        if graph.storages[storage].pageable and _size(problem, held) <= problem.limits.budget_bytes:
            read = state.read | (state.begun & {storage})
            yield costs.read_j[storage], state._replace(held=held, read=read)


def _computes(problem: Problem, state: State) -> Iterator[tuple[float, State]]:
    graph, costs = problem.graph, problem.costs
    changed = {storage for op in graph.ops[: state.ran] for storage in op.updates}
    for number, op in enumerate(graph.ops[: state.ran + 1]):
        first = number == state.ran
        needed = {*op.inputs, *op.updates}
        workspace = costs.workspace_bytes[number] if problem.semantics == "real" else 0
        meanwhile = sum(graph.storages[storage].size_bytes for storage in op.outputs) + workspace
        fits = _size(problem, state.held) + meanwhile <= problem.limits.budget_bytes
        if fits and needed <= state.held and not needed & changed and (first or op.again):
            after = state._replace(held=state.held.union(op.outputs), ran=state.ran + first)
            yield 0.0 if first else costs.energy_j[number], after._replace(stored=after.stored - set(op.updates))
