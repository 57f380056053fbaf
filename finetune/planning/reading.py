# SPDX-License-Identifier: Apache-2.0
"""From a solver's answer to a schedule: entries stage by stage, the useless pruned, writes placed, frees derived."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..graph import Graph
from ..problem import Problem
from ..schedule import Entry, Schedule, with_frees
from .model import StageEnd

Arrange = Callable[[int, list[int], list[int]], list[Entry]]
"""The entries before a stage's own op, from the stage, the storages to read and the ops to compute again."""


def schedule_from(program: StageEnd, chosen: Sequence[bool], arrange: Arrange | None = None) -> Schedule:
    """The schedule that an assignment of the program's variables means; `replay` has yet to judge it."""
    graph = program.graph
    reads: dict[int, list[int]] = {}
    again: dict[int, list[int]] = {}
    begun: set[int] = set()
    for name, true in zip(program.model.names, chosen, strict=True):
        if true and name.letter == "I":
            reads.setdefault(name.stage, []).append(name.number)
        elif true and name.letter == "R":
            again.setdefault(name.stage, []).append(name.number)
        elif true and name.letter == "Z":
            begun.add(name.number)
    entries: list[Entry] = []
    for stage in range(len(graph.ops) + 1):
        wanted, ops = sorted(reads.get(stage, ())), sorted(again.get(stage, ()))
        entries += (arrange or in_order(graph))(stage, wanted, ops)
        if stage < len(graph.ops):
            entries.append(Entry("C", stage))
    return with_frees(graph, _with_writes(program.problem, _pruned(graph, entries, begun), begun))


def in_order(graph: Graph) -> Arrange:
    """Ops in their order, each read as late as its first reader allows."""

    def arrange(stage: int, reads: list[int], ops: list[int]) -> list[Entry]:
        entries: list[Entry] = []
        for op in ops:
            entries += [Entry("I", storage) for storage in reads if storage in graph.ops[op].inputs]
            reads = [storage for storage in reads if storage not in graph.ops[op].inputs]
            entries.append(Entry("C", op))
        return entries + [Entry("I", storage) for storage in reads]

    return arrange


def _pruned(graph: Graph, entries: Sequence[Entry], begun: set[int]) -> list[Entry]:
    """Without reads and recomputations that nobody uses; what lies on storage at first is read once at least."""
    first = {entry.number: place for place, entry in reversed(list(enumerate(entries))) if entry.act == "I"}
    needed = {number for number, storage in enumerate(graph.storages) if storage.kept}
    needed |= set(graph.carried) - begun
    seen = [0] * len(graph.ops)
    for entry in entries:
        if entry.act == "C":
            seen[entry.number] += 1
    found = []
    for place, entry in reversed(list(enumerate(entries))):
        made = graph.ops[entry.number].outputs if entry.act == "C" else (entry.number,)
        if entry.act == "C":
            seen[entry.number] -= 1
        begins = entry.act == "I" and entry.number in begun and first[entry.number] == place
        if needed.isdisjoint(made) and not begins and (entry.act == "I" or seen[entry.number]):
            continue
        needed -= set(made)
        if entry.act == "C":
            needed |= {*graph.ops[entry.number].inputs, *graph.ops[entry.number].updates}
        found.append(entry)
    return found[::-1]


def _with_writes(problem: Problem, entries: list[Entry], begun: set[int]) -> list[Entry]:
    """With the writes that later reads need: early under `real`, where they take time, else with the last use."""
    graph = problem.graph
    after: dict[int, list[Entry]] = {}
    before: dict[int, list[Entry]] = {}
    updated = {storage: number for number, op in enumerate(graph.ops) for storage in op.updates}
    reads: dict[int, list[int]] = {}
    uses: dict[int, list[int]] = {}
    update_at: dict[int, int] = {}
    for place, entry in enumerate(entries):
        if entry.act == "I":
            reads.setdefault(entry.number, []).append(place)
            continue
        for storage in graph.touched(entry.number):
            uses.setdefault(storage, []).append(place)
        for storage in graph.ops[entry.number].updates:
            update_at[storage] = place
    for storage in sorted(reads):
        changed = update_at.get(storage, len(entries))
        if storage in updated and (storage in begun or reads[storage][-1] > changed):
            after.setdefault(changed, []).append(Entry("O", storage))
        if storage not in begun and reads[storage][0] < changed:
            touched = [place for place in uses.get(storage, ()) if place < reads[storage][0]]
            if problem.semantics == "real" and touched:
                after.setdefault(touched[0], []).append(Entry("O", storage))
            elif len(touched) > 1 or (touched and graph.producers[storage] is None):
                before.setdefault(touched[-1], []).append(Entry("O", storage))
            elif touched:
                after.setdefault(touched[-1], []).append(Entry("O", storage))
            else:
                before.setdefault(0, []).append(Entry("O", storage))
    found: list[Entry] = []
    for place, entry in enumerate(entries):
        found += [*before.get(place, ()), entry, *after.get(place, ())]
    return found
