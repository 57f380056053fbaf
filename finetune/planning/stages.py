# SPDX-License-Identifier: Apache-2.0
"""When what may happen: the stages in which an optimal schedule can need to compute, read or drop a storage.

Stage t runs from the first execution of op t - 1 to that of op t. Storages that recomputations can link form a *part*.
Between two stages in which a part is used by first executions, its storages can be brought into the smallest state that
they pass through right after the first of them, and stay in it until the second: no schedule is lost when a part acts
only in the stage of such a use and in the one after it, and a part without recomputations only in the stage of a use.
What costs more on its own than the cap is no loss either, nor is a recomputation that costs more than to write and read
what it makes, where nothing but joules limits paging.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..problem import Only, Problem


@dataclass(frozen=True, slots=True)
class Stages:
    """What is left to decide, for a problem of n ops; stage n is the end of the step.

    `needs`: the storages that each stage's first execution reads. `again`: the stages in which an op may run a second
    time. `events`: the stages in which a storage may come or go. `last`: the last stage that can need a storage.
    `fixed`: the storages that lie in RAM throughout. `paged`: those that may go to storage. `tiny`: those not worth a
    question, left in RAM once they are made; a bound counts them as nothing. `every`: what happens
    inside a stage counts too.
    """

    needs: tuple[frozenset[int], ...]
    again: tuple[tuple[int, ...], ...]
    events: tuple[tuple[int, ...], ...]
    last: tuple[int, ...]
    fixed: frozenset[int]
    paged: frozenset[int]
    tiny: frozenset[int]
    every: bool = False


LARGE_OPS = 300
"""From here on tiny storages are left out."""
TINY_SHARE = 1e-4
"""Of the budget: a storage smaller than this is tiny."""


def stages_of(problem: Problem, *, cap_j: float, only: Only = "both", every: bool = False) -> Stages:
    """The stages of a problem whose schedules of an overhead above `cap_j` are of no interest.

    `every`: a storage may come or go in any stage, as it must where RAM inside the stages counts too.
    """
    graph, costs = problem.graph, problem.costs
    end = len(graph.ops)
    tiny = _tiny(problem)
    paged = frozenset(
        number
        for number, storage in enumerate(graph.storages)
        if storage.pageable
        and storage.size_bytes
        and number not in tiny
        and only != "recompute"
        and _page_j(problem, number) <= cap_j
    )
    fixed = frozenset(number for number in graph.carried if number not in paged)
    needs = [frozenset({*op.inputs, *op.updates}) - fixed for op in graph.ops]
    kept = {number for number, storage in enumerate(graph.storages) if storage.kept}
    needs.append(frozenset(kept | set(graph.carried)) - fixed)
    updated = {storage: number for number, op in enumerate(graph.ops) for storage in op.updates}
    until = [min((updated.get(storage, end) for storage in op.inputs), default=end) for op in graph.ops]
    most_j = [_most_j(problem, number, paged, tiny, cap_j) for number in range(end)]
    able = [
        op.again
        and not op.updates
        and only != "page"
        and costs.energy_j[number] <= most_j[number]
        and not tiny.issuperset(op.outputs)
        for number, op in enumerate(graph.ops)
    ]
    last = [max((stage for stage in (*users, -1)), default=-1) for users in graph.users]
    for storage in needs[end]:
        last[storage] = end
    # Right after its first run an op need not run again, unless it makes room inside the next stage.
    soonest = 1 if every else 2
    reach = [0] * end
    for number in range(end - 1, -1, -1):
        op = graph.ops[number]
        if able[number]:
            reach[number] = min(until[number], max((last[storage] for storage in op.outputs), default=0))
        if reach[number] >= number + soonest:
            for storage in op.inputs:
                last[storage] = max(last[storage], reach[number])
    twice = [value >= number + soonest for number, value in enumerate(reach)]
    acts = [tuple(range(end + 1))] * len(graph.storages)
    if not every:
        acts = _events(problem, needs, [until[number] if twice[number] else None for number in range(end)], fixed)
    events = tuple(
        tuple(stage for stage in acts[number] if (_made(problem, number) < stage <= last[number]))
        for number in range(len(graph.storages))
    )
    again = tuple(
        tuple(
            stage for stage in (acts[op.outputs[0]] if op.outputs else ()) if number + soonest <= stage <= reach[number]
        )
        for number, op in enumerate(graph.ops)
    )
    return Stages(tuple(needs), again, events, tuple(last), fixed, paged, tiny, every)


def _tiny(problem: Problem) -> frozenset[int]:
    if len(problem.graph.ops) < LARGE_OPS:
        return frozenset()
    most = TINY_SHARE * problem.limits.budget_bytes
    return frozenset(number for number, storage in enumerate(problem.graph.storages) if storage.size_bytes < most)


def channel_binds(problem: Problem) -> bool:
    """Whether the deadline could limit what is paged: writing and reading everything once per use takes longer."""
    limits, costs = problem.limits, problem.costs
    if limits.deadline_s is None or problem.semantics == "poet":
        return False
    reads = sum(costs.read_s[number] * (1 + len(users)) for number, users in enumerate(problem.graph.users))
    return reads + 2 * sum(costs.write_s) > limits.deadline_s


def _most_j(problem: Problem, op: int, paged: frozenset[int], tiny: frozenset[int], cap_j: float) -> float:
    """The joules above which computing an op again is never the best way to its outputs."""
    wanted = {storage for storage in problem.graph.ops[op].outputs if problem.graph.users[storage]} - tiny
    if problem.limits.quota_bytes is not None or channel_binds(problem) or not paged.issuperset(wanted):
        return cap_j
    return min(cap_j, sum(_page_j(problem, storage) for storage in wanted))


def _made(problem: Problem, storage: int) -> int:
    producer = problem.graph.producers[storage]
    return -1 if producer is None else producer


def _page_j(problem: Problem, storage: int) -> float:
    """The least that one journey to storage costs; what is carried may lie there to begin with."""
    written = problem.costs.write_j[storage] if problem.graph.producers[storage] is not None else 0.0
    return problem.costs.read_j[storage] + written


def _events(
    problem: Problem, needs: list[frozenset[int]], again: list[int | None], fixed: frozenset[int]
) -> list[tuple[int, ...]]:
    """For each storage the stages in which its part acts, ascending.

    `again`: for an op that may run again the stage after which it may not, as what it reads is changed; else None.
    """
    graph = problem.graph
    root = list(range(len(graph.storages)))

    def find(storage: int) -> int:
        while root[storage] != storage:
            root[storage] = root[root[storage]]
            storage = root[storage]
        return storage

    linked = set()
    for number, op in enumerate(graph.ops):
        if again[number] is not None:
            around = [storage for storage in (*op.outputs, *op.inputs) if storage not in fixed]
            for storage in around:
                root[find(storage)] = find(around[0])
            linked.update(around)
    stages: dict[int, set[int]] = {}
    for op, until in zip(graph.ops, again, strict=True):
        if until is not None and until < len(graph.ops):
            stages.setdefault(find(op.outputs[0]), set()).update((until, until + 1))
    for stage, needed in enumerate(needs):
        made = set(graph.ops[stage].outputs) if stage < len(graph.ops) else set()
        for storage in needed | made:
            found = stages.setdefault(find(storage), set())
            found.add(stage)
            if storage in linked and stage < len(graph.ops):
                found.add(stage + 1)
    return [tuple(sorted(stages.get(find(number), ()))) for number in range(len(graph.storages))]
