# SPDX-License-Identifier: Apache-2.0
"""What all planners here share: decisions about gaps become a schedule, and a schedule has a curve of planned bytes.

A gap is a stretch of ops that do not touch a storage between two that do. A planner says for some gaps that the storage
is paged or made again; `lower` walks the step and brings back whatever an op lacks, as late as it can.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from finetune.errors import ScheduleInvalid
from finetune.graph import Graph
from finetune.problem import Problem
from finetune.replay import replay
from finetune.schedule import Entry, Schedule, begins_on_storage, with_frees

Choice = Literal["page", "recompute"]


class NoSchedule(Exception):
    """The planner has no schedule for this problem; the message says why."""


class Gap(NamedTuple):
    """Ops `after` and `before` touch a storage, none between them does."""

    storage: int
    after: int
    before: int


def gaps(graph: Graph) -> list[Gap]:
    """Every gap of a storage that the step itself makes, by storage, then by position."""
    found = []
    for storage, producer in enumerate(graph.producers):
        if producer is None or not graph.storages[storage].size_bytes:
            continue
        touches = (producer, *graph.users[storage])
        found += [Gap(storage, a, b) for a, b in itertools.pairwise(touches) if b - a > 1]
    return found


def saved(graph: Graph) -> list[Gap]:
    """The gap of each storage that the forward pass makes and the backward pass reads, in the order of production.

    Raises `NoSchedule` for a graph whose ops do not say where the backward pass begins.
    """
    if all(op.phase == "forward" for op in graph.ops):
        raise NoSchedule("the graph does not say where its backward pass begins")
    found = []
    for gap in gaps(graph):
        if graph.ops[gap.after].phase == "forward" and graph.ops[gap.before].phase == "backward":
            found.append(gap)
    return sorted(found, key=lambda gap: (graph.producers[gap.storage] or 0, gap.storage))


def may(graph: Graph, gap: Gap, choice: Choice) -> bool:
    """Whether a storage may be paged, or its op run again."""
    producer = graph.producers[gap.storage]
    if choice == "page":
        return graph.storages[gap.storage].pageable
    return producer is not None and graph.ops[producer].again


def lower(graph: Graph, choices: Mapping[Gap, Choice], *, retain: bool = True) -> Schedule:
    """The schedule of these choices. `retain`: what comes back only because another op is run again stays from then on.

    Raises `NoSchedule` where something is missing that may not be made again.
    """
    walk = _Lowering(graph, choices, retain)
    for number in range(len(graph.ops)):
        walk.run(number)
    return with_frees(graph, walk.entries)


class _Lowering:
    def __init__(self, graph: Graph, choices: Mapping[Gap, Choice], retain: bool) -> None:
        self.graph, self.retain = graph, retain
        self.open: dict[tuple[int, int], Choice] = {(gap.storage, gap.after): c for gap, c in choices.items()}
        self.absent: dict[int, Choice] = {}
        """Storages that are not in RAM although they will be used."""
        self.stored: set[int] = set()
        self.entries: list[Entry] = []

    def run(self, number: int) -> None:
        op = self.graph.ops[number]
        back = bring_back(self.graph, (*op.inputs, *op.updates), self.absent, self.stored)
        self.entries += [*back, Entry("C", number)]
        touched = self.graph.touched(number)
        for storage in touched:
            self.absent.pop(storage, None)
            if (choice := self.open.get((storage, number))) is not None:
                if choice == "page" and storage not in self.stored:
                    self.entries.append(Entry("O", storage))
                    self.stored.add(storage)
                self.absent[storage] = choice
        if self.retain:
            for entry in back:
                outputs = self.graph.ops[entry.number].outputs if entry.act == "C" else (entry.number,)
                for storage in outputs:
                    if storage not in touched:
                        self.absent.pop(storage, None)


def bring_back(graph: Graph, wanted: Iterable[int], absent: Collection[int], stored: Collection[int]) -> list[Entry]:
    """Reads and computations that make what is wanted present, each after what it needs itself."""
    entries: dict[Entry, int] = {}
    todo = [storage for storage in wanted if storage in absent]
    seen = set(todo)
    while todo:
        storage = todo.pop()
        producer = graph.producers[storage]
        if producer is None:
            raise NoSchedule(f"{graph.storages[storage].name} is gone, and no op makes it")
        if storage in stored:
            entries[Entry("I", storage)] = producer
            continue
        op = graph.ops[producer]
        if not op.again:
            raise NoSchedule(f"{op.name} may not be computed again")
        entries[Entry("C", producer)] = producer
        for needed in op.inputs:
            if needed in absent and needed not in seen:
                seen.add(needed)
                todo.append(needed)
    return sorted(entries, key=lambda entry: (entries[entry], entry))


def usage(problem: Problem, schedule: Schedule) -> list[int]:
    """Planned bytes while each entry is under way, as the judge counts them, whatever the budget."""
    graph, costs = problem.graph, problem.costs
    began = begins_on_storage(graph, schedule)
    size = [storage.size_bytes for storage in graph.storages]
    resident = set(graph.carried) - began
    planned, found = sum(size[number] for number in resident), []
    for entry in schedule:
        during = 0
        if entry.act == "C":
            outputs = graph.ops[entry.number].outputs
            workspace = costs.workspace_bytes[entry.number] if problem.semantics == "real" else 0
            during = planned + sum(size[number] for number in outputs) + workspace
            made = [number for number in outputs if number not in resident]
            resident.update(made)
            planned += sum(size[number] for number in made)
        elif entry.act == "I":
            resident.add(entry.number)
            planned += size[entry.number]
        elif entry.act == "F":
            resident.discard(entry.number)
            planned -= size[entry.number]
        found.append(max(planned, during))
    return found


def prefetch(problem: Problem, schedule: Schedule) -> Schedule:
    """The same schedule with reads begun so early that computing hides them, where RAM allows; last read first."""
    entries = list(schedule)
    costs, budget = problem.costs, problem.limits.budget_bytes
    busy_from_s = float("inf")
    for position in [number for number, entry in enumerate(entries) if entry.act == "I"][::-1]:
        entry = entries[position]
        used, clock_s = usage(problem, tuple(entries)), _clock_s(problem, entries)
        size = problem.graph.storages[entry.number].size_bytes
        start_s = min(clock_s[position], busy_from_s) - costs.read_s[entry.number]
        to = position
        while to and clock_s[to] > start_s and used[to - 1] + size <= budget:
            if entries[to - 1].act != "C" and entries[to - 1].number == entry.number:
                break
            if entries[to - 1].act == "C" and entry.number in problem.graph.touched(entries[to - 1].number):
                break
            to -= 1
        entries.insert(to, entries.pop(position))
        busy_from_s = min(start_s, clock_s[to])
    return tuple(entries)


def _clock_s(problem: Problem, entries: Sequence[Entry]) -> list[float]:
    """Seconds of computing before each entry."""
    found, now_s = [], 0.0
    for entry in entries:
        found.append(now_s)
        now_s += problem.costs.time_s[entry.number] if entry.act == "C" else 0.0
    return found


def judged(problem: Problem, schedule: Schedule) -> Schedule:
    """The schedule, or with its reads moved up, whichever the judge finds cheaper; `NoSchedule` if it takes neither."""
    candidates = [schedule] if problem.semantics == "poet" else [prefetch(problem, schedule), schedule]
    accepted: list[tuple[float, Schedule]] = []
    why = ""
    for candidate in candidates:
        try:
            accepted.append((replay(problem, candidate).overhead_j, candidate))
        except ScheduleInvalid as error:
            why = str(error)
    if not accepted:
        raise NoSchedule(why)
    return min(accepted, key=lambda pair: pair[0])[1]
