# SPDX-License-Identifier: Apache-2.0
"""A training step as a chain of blocks, for dynamic programmes that know nothing else.

The forward pass is cut wherever a single storage leads on; between two cuts lies a block, a residual one for instance.
Storages that lead on for more than a quarter of the pass (masks, position codes) stay in RAM and are no cut's concern.
Where blocks are too many, neighbours with the least to save are joined. A graph that has no cut is one block.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune.problem import Problem
from finetune.schedule import keep_everything

from .lowering import saved, usage

MOST_BLOCKS = 40
PINNED_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Block:
    """Forward ops `first` to `last`; what enters, what it saves besides, and the RAM it needs, what enters included.

    `plain_bytes`: its forward pass when nothing is saved; `saving_bytes`: when all is saved; `backward_bytes`: its
    gradients, with its own record in RAM and nothing of the blocks before it.
    """

    first: int
    last: int
    enters: int | None
    record: tuple[int, ...]
    backward: tuple[int, ...]
    plain_bytes: int
    saving_bytes: int
    backward_bytes: int


def blocks(problem: Problem) -> list[Block]:
    """The step's blocks in the order of the forward pass; raises `NoSchedule` if there is no backward pass."""
    graph = problem.graph
    wanted = {gap.storage for gap in saved(graph)}
    cuts = _joined(problem, _cuts(problem), wanted)
    of: dict[int, int] = {}
    for number, (first, last, _) in enumerate(cuts):
        of |= dict.fromkeys((s for op in range(first, last + 1) for s in graph.ops[op].outputs), number)
    behind = _backward(problem, of, len(cuts))
    schedule = keep_everything(graph)
    held = dict.fromkeys(range(len(graph.ops)), 0)
    for entry, used in zip(schedule, usage(problem, schedule), strict=True):
        if entry.act == "C":
            held[entry.number] = used
    carried = sum(graph.storages[number].size_bytes for number in graph.carried)
    size = [storage.size_bytes for storage in graph.storages]
    found = []
    for number, (first, last, enters) in enumerate(cuts):
        before = sum(size[s] for s in wanted if of[s] < number and s != enters) + carried
        entering = {cut[2] for cut in cuts}
        record = tuple(sorted(s for s in wanted if of[s] == number and s not in entering))
        found.append(
            Block(
                first,
                last,
                enters,
                record,
                tuple(behind[number]),
                _plain(problem, first, last, enters),
                max(held[op] for op in range(first, last + 1)) - before,
                max((held[op] for op in behind[number]), default=before) - before,
            )
        )
    return found


def pinned(problem: Problem) -> set[int]:
    """Storages that lead on for so long that no block owns them."""
    ends = _forward_ends(problem)
    length = sum(op.phase == "forward" for op in problem.graph.ops)
    producers = problem.graph.producers
    return {s for s, end in ends.items() if end - (producers[s] or 0) > max(8, PINNED_SHARE * length)}


def _forward_ends(problem: Problem) -> dict[int, int]:
    """The last forward user of each storage that the step makes."""
    graph = problem.graph
    return {
        storage: max((user for user in graph.users[storage] if graph.ops[user].phase == "forward"), default=producer)
        for storage, producer in enumerate(graph.producers)
        if producer is not None and graph.ops[producer].phase == "forward"
    }


def _cuts(problem: Problem) -> list[tuple[int, int, int | None]]:
    """First op, last op and entering storage of each block."""
    ends, aside = _forward_ends(problem), pinned(problem)
    last_forward = max(number for number, op in enumerate(problem.graph.ops) if op.phase == "forward")
    across: dict[int, list[int]] = {}
    for storage, end in ends.items():
        if storage not in aside:
            for op in range(problem.graph.producers[storage] or 0, end):
                across.setdefault(op, []).append(storage)
    found: list[tuple[int, int, int | None]] = []
    first, enters = 0, None
    for op in range(last_forward):
        leading = across.get(op, [])
        if len(leading) == 1:
            found.append((first, op, enters))
            first, enters = op + 1, leading[0]
    return [*found, (first, last_forward, enters)]


def _joined(
    problem: Problem, cuts: list[tuple[int, int, int | None]], wanted: set[int]
) -> list[tuple[int, int, int | None]]:
    graph = problem.graph

    def saves(cut: tuple[int, int, int | None]) -> int:
        made = (s for op in range(cut[0], cut[1] + 1) for s in graph.ops[op].outputs if s in wanted)
        return sum(graph.storages[s].size_bytes for s in made)

    while len(cuts) > MOST_BLOCKS:
        at = min(range(len(cuts) - 1), key=lambda number: saves(cuts[number]) + saves(cuts[number + 1]))
        cuts[at : at + 2] = [(cuts[at][0], cuts[at + 1][1], cuts[at][2])]
    return cuts


def _backward(problem: Problem, of: dict[int, int], count: int) -> list[list[int]]:
    """The other ops by block, last block first: each belongs to the latest block that it reads, and keeps the order."""
    graph = problem.graph
    found: list[list[int]] = [[] for _ in range(count)]
    now = count - 1
    for number, op in enumerate(graph.ops):
        if op.phase != "forward":
            read = [of[storage] for storage in op.inputs if storage in of]
            now = min(now, max(read, default=now))
            found[now].append(number)
    return found


def _plain(problem: Problem, first: int, last: int, enters: int | None) -> int:
    """The most RAM in a block's forward pass when nothing outlives its last forward use."""
    graph, ends = problem.graph, _forward_ends(problem)
    workspace = problem.costs.workspace_bytes if problem.semantics == "real" else (0,) * len(graph.ops)
    live = set() if enters is None else {enters}
    most = 0
    for op in range(first, last + 1):
        live |= set(graph.ops[op].outputs)
        most = max(most, sum(graph.storages[s].size_bytes for s in live) + workspace[op])
        live -= {s for s in live if ends[s] <= op}
    return most
