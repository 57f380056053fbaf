# SPDX-License-Identifier: Apache-2.0
"""A smaller problem in place of a captured one: what is too small to matter is decided once and for all.

A tiny storage is in RAM from its making to its last use; its bytes are set aside from the budget, and it leaves the
graph (or, if it is carried, is never paged). Consecutive ops that only tiny storages told apart become one: all big
storages that one of them touches the other touches too, so together they need no more memory than the needier of the
two alone. A schedule of the small problem becomes one of the whole by `expand`, at no more joules and within budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..graph import Graph, Op
from ..problem import Costs, Problem
from ..schedule import Entry, Schedule, with_frees

TINY_BYTES = 64 << 10
TINY_SHARE = 0.002
"""What the step makes and is tiny is at most this share of what it makes in all."""


@dataclass(frozen=True, slots=True)
class Coarse:
    """`problem` is the small one. `groups`: the ops of `whole` in each of its ops, `storages` those of its storages."""

    whole: Problem
    problem: Problem
    groups: tuple[tuple[int, ...], ...]
    storages: tuple[int, ...]

    def expand(self, schedule: Schedule) -> Schedule:
        """The schedule of `whole` that a schedule of `problem` stands for."""
        graph, big = self.whole.graph, set(self.storages)
        resident: set[int] = set()
        computed: set[int] = set()
        entries: list[Entry] = []
        for act, number in schedule:
            if act == "C":
                for op in self.groups[number]:
                    made = big.intersection(graph.ops[op].outputs)
                    # Again, what is still in RAM need not be made; what is tiny never went away.
                    if number not in computed or made - resident:
                        entries.append(Entry("C", op))
                    resident |= made
                computed.add(number)
            else:
                storage = self.storages[number]
                entries.append(Entry(act, storage))
                resident = resident - {storage} if act == "F" else resident | {storage}
        return with_frees(graph, entries)


def coarsen(problem: Problem, tiny_bytes: int = TINY_BYTES, tiny_share: float = TINY_SHARE) -> Coarse:
    """The small problem of a large one; the same problem where nothing is tiny."""
    graph = problem.graph
    tiny = _tiny(graph, tiny_bytes, tiny_share)
    gone = {storage for storage in tiny if graph.producers[storage] is not None and not graph.storages[storage].kept}
    left = tuple(storage for storage in range(len(graph.storages)) if storage not in gone)
    groups = _groups(graph, tiny)
    small = Graph(
        graph.name,
        tuple(_merged(graph, group, {old: new for new, old in enumerate(left)}) for group in groups),
        tuple(
            replace(graph.storages[storage], pageable=graph.storages[storage].pageable and storage not in tiny)
            for storage in left
        ),
    )
    budget_bytes = max(0, problem.limits.budget_bytes - _reserve(graph, gone))
    limits = replace(problem.limits, budget_bytes=budget_bytes)
    return Coarse(
        problem, Problem(small, _costs(problem, groups, gone, left), limits, problem.semantics), tuple(groups), left
    )


def _tiny(graph: Graph, tiny_bytes: int, tiny_share: float) -> set[int]:
    """The smallest storages, as long as they are small and together a small share."""
    made = [storage for storage, producer in enumerate(graph.producers) if producer is not None]
    room = tiny_share * sum(graph.storages[storage].size_bytes for storage in made)
    found = {storage for storage in graph.carried if graph.storages[storage].size_bytes < tiny_bytes}
    for storage in sorted(made, key=lambda number: graph.storages[number].size_bytes):
        room -= graph.storages[storage].size_bytes
        if room < 0 or graph.storages[storage].size_bytes >= tiny_bytes:
            break
        found.add(storage)
    return found


def _groups(graph: Graph, tiny: set[int]) -> list[tuple[int, ...]]:
    """Runs of ops that only tiny storages tell apart; at most one op of each makes anything that is not tiny."""
    groups: list[list[int]] = []
    touched: set[int] = set()
    makes = changes = False
    for number, op in enumerate(graph.ops):
        big = set(graph.touched(number)) - tiny
        op_makes = bool(set(op.outputs) - tiny)
        # An update that somebody could read too late, or that a second computing would repeat.
        op_changes = any(storage not in tiny or len(graph.users[storage]) > 1 for storage in op.updates)
        alike = big <= touched or touched <= big
        if groups and alike and not (makes and op_makes) and not ((makes or op_makes) and (changes or op_changes)):
            groups[-1].append(number)
            touched |= big
            makes, changes = makes or op_makes, changes or op_changes
        else:
            groups.append([number])
            touched, makes, changes = big, op_makes, op_changes
    return [tuple(group) for group in groups]


def _merged(graph: Graph, group: Sequence[int], renumbered: dict[int, int]) -> Op:
    ops = [graph.ops[number] for number in group]
    outputs = {storage for op in ops for storage in op.outputs}
    updates = {storage for op in ops for storage in op.updates}
    inputs = {storage for op in ops for storage in op.inputs} - outputs - updates
    # Changing what nobody reads (a tiny gradient) happens the first time only, so the group may be computed again.
    again = all(op.again for op in ops if set(op.outputs) & renumbered.keys())
    lonely = {storage for storage in updates if len(graph.users[storage]) == 1} if again and outputs else set()

    def new(storages: set[int]) -> tuple[int, ...]:
        return tuple(renumbered[storage] for storage in sorted(storages) if storage in renumbered)

    name = ops[0].name if len(ops) == 1 else f"{ops[0].name} to {ops[-1].name}"
    detail = "; ".join(f"{op.target} {op.detail}" for op in ops)
    return Op(
        name,
        ops[0].target if len(ops) == 1 else "together",
        new(inputs),
        new(outputs),
        new(updates - lonely),
        again,
        ops[0].phase,
        detail,
    )


def _reserve(graph: Graph, gone: set[int]) -> int:
    """Bytes for all that left the graph, and for the copies that an op makes of them when it is computed again."""
    total = sum(graph.storages[storage].size_bytes for storage in gone)
    copies = [sum(graph.storages[storage].size_bytes for storage in gone.intersection(op.outputs)) for op in graph.ops]
    return total + max(copies, default=0)


def _costs(problem: Problem, groups: Sequence[Sequence[int]], gone: set[int], left: Sequence[int]) -> Costs:
    costs = problem.costs
    return replace(
        costs,
        time_s=tuple(sum(costs.time_s[op] for op in group) for group in groups),
        energy_j=tuple(sum(costs.energy_j[op] for op in group) for group in groups),
        workspace_bytes=tuple(_workspace(problem, group, gone) for group in groups),
        write_s=tuple(costs.write_s[storage] for storage in left),
        write_j=tuple(costs.write_j[storage] for storage in left),
        read_s=tuple(costs.read_s[storage] for storage in left),
        read_j=tuple(costs.read_j[storage] for storage in left),
    )


def _workspace(problem: Problem, group: Sequence[int], gone: set[int]) -> int:
    """What the neediest op of a group takes beyond all that the group reads and makes."""
    graph = problem.graph

    def bytes_of(storages: set[int]) -> int:
        return sum(graph.storages[storage].size_bytes for storage in storages - gone)

    outputs = {storage for op in group for storage in graph.ops[op].outputs}
    live = {storage for op in group for storage in graph.touched(op)} - outputs
    whole_bytes, worst_bytes = bytes_of(live | outputs), 0
    for op in group:
        live |= set(graph.ops[op].outputs)
        worst_bytes = max(worst_bytes, bytes_of(live) + problem.costs.workspace_bytes[op])
    return max(0, worst_bytes - whole_bytes)
