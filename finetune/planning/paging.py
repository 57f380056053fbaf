# SPDX-License-Identifier: Apache-2.0
"""How little RAM a step can do with: what one op alone needs, and the schedule that pages everything else."""

from __future__ import annotations

from dataclasses import dataclass

from ..graph import Graph
from ..problem import Problem
from ..schedule import Entry, Schedule, with_frees


@dataclass(frozen=True, slots=True)
class WorkingSet:
    """Bytes that no schedule can do without, and what needs them."""

    bytes: int
    what: str


def needs(problem: Problem) -> list[WorkingSet]:
    """What each op needs at once: what it touches, its workspace, and what can never leave RAM; last the step's end."""
    graph = problem.graph
    sizes = [storage.size_bytes for storage in graph.storages]
    fixed = {number for number in graph.carried if not graph.storages[number].pageable}
    found = []
    for number, op in enumerate(graph.ops):
        held = sum(sizes[storage] for storage in fixed.union(graph.touched(number)))
        workspace = problem.costs.workspace_bytes[number] if problem.semantics == "real" else 0
        found.append(WorkingSet(held + workspace, op.name))
    at_end = fixed | {number for number, storage in enumerate(graph.storages) if storage.kept}
    return [*found, WorkingSet(sum(sizes[number] for number in at_end), "the end of the step")]


def working_set(problem: Problem) -> WorkingSet:
    """The most that one op needs at once."""
    return max(needs(problem), key=lambda found: found.bytes)


def page_everything(graph: Graph) -> Schedule:
    """Whatever may be paged is in RAM only while an op touches it: least RAM, most transfers."""
    walk = _Walk(graph)
    for number in range(len(graph.ops)):
        walk.compute(number)
    kept = [number for number, storage in enumerate(graph.storages) if storage.kept]
    walk.entries += [Entry("I", number) for number in kept if number not in walk.resident]
    return with_frees(graph, walk.entries)


class _Walk:
    """What is in RAM and on storage between two ops."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.entries: list[Entry] = []
        storages = graph.storages
        self.stored = {
            number
            for number in graph.carried
            if storages[number].pageable and graph.users[number] and not storages[number].kept
        }
        self.resident = set(graph.carried) - self.stored
        self.begun = frozenset(self.stored)

    def compute(self, number: int) -> None:
        """Read what is missing, compute, write what is wanted again."""
        op, touched = self.graph.ops[number], self.graph.touched(number)
        missing = [storage for storage in touched if storage not in self.resident and storage not in op.outputs]
        self.entries += [Entry("I", storage) for storage in missing]
        self.entries.append(Entry("C", number))
        self.resident.update(touched)
        self.stored -= set(op.updates)
        for storage in touched:
            self._leave(number, storage)

    def _leave(self, number: int, storage: int) -> None:
        found, users = self.graph.storages[storage], self.graph.users[storage]
        used_again = bool(users) and users[-1] > number
        carried_in_ram = self.graph.producers[storage] is None and storage not in self.begun
        if not found.pageable or carried_in_ram or (found.kept and not used_again):
            return
        self.resident.remove(storage)
        if (used_again or storage in self.begun) and storage not in self.stored:
            self.entries.append(Entry("O", storage))
            self.stored.add(storage)
