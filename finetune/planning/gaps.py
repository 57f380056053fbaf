# SPDX-License-Identifier: Apache-2.0
"""What there is to decide: over each gap between two uses of a storage, whether it stays in RAM or how it comes back.

A storage is there from its producer (or from the start of the step), then used by some ops, and then no longer needed
(or until the end of the step). Gap k of a storage follows its k-th use; gap 0 follows its making. Over each gap one
choice is made:

    KEEP    it stays in RAM
    DROP    it is freed and computed again
    PAGE    it is written to storage, unless a copy lies there, freed, and read back

`_LAZILY`: when it comes back within the gap, only because something else is computed from it, it goes again at once;
otherwise it then stays until its next use. For a carried storage the gap from its last use to its first of the next
step is one: if that is paged, it lies on storage when the step begins and when it ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..problem import Only, Problem

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

KEEP, DROP, DROP_LAZILY, PAGE, PAGE_LAZILY = range(5)


class Arrays(NamedTuple):
    """A problem as columns, for compiled code. Rows of unequal length: row i lies at `start[i]:start[i + 1]`.

    Ops are followed by one more that costs nothing and reads whatever is made and must be in RAM when the step ends.
    """

    input_start: Ints
    inputs: Ints
    """What each op reads or changes."""
    output_start: Ints
    outputs: Ints
    again: Ints
    time_s: Floats
    energy_j: Floats
    workspace: Ints
    size: Ints
    producer: Ints
    """The op that makes each storage, -1 for a carried one."""
    last_use: Ints
    """The last op that uses it; the end for what must be there then."""
    changed: Ints
    """The op that changes it, or one after the end."""
    write_s: Floats
    write_j: Floats
    read_s: Floats
    read_j: Floats
    idle_w: float
    base_j: float
    base_s: float
    budget: int
    deadline_s: float
    quota: int
    timed: bool
    """Semantics `real`."""


class Gaps(NamedTuple):
    """The gaps where there is something to decide, by storage."""

    storage: Ints
    begins: Ints
    """The op whose use, or making, comes before the gap."""
    ends: Ints
    """The op whose use comes after it."""
    allowed: Ints
    """Gap -> its choices (`n x 5`), KEEP first; -1 where there are fewer."""
    choices: Ints
    """How many choices each has."""


def arrays_of(problem: Problem) -> Arrays:
    """The problem as columns."""
    graph, costs, limits = problem.graph, problem.costs, problem.limits
    end, timed = len(graph.ops), problem.semantics == "real"
    kept = [number for number, storage in enumerate(graph.storages) if storage.kept]
    last = [max([producer or 0, *users]) for producer, users in zip(graph.producers, graph.users, strict=True)]
    changed = {storage: number for number, op in enumerate(graph.ops) for storage in op.updates}
    return Arrays(
        *_rows([*(sorted({*op.inputs, *op.updates}) for op in graph.ops), kept]),
        *_rows([*(list(op.outputs) for op in graph.ops), []]),
        again=_ints([*(op.again and not op.updates for op in graph.ops), False]),
        time_s=np.array([*costs.time_s, 0.0]),
        energy_j=np.array([*costs.energy_j, 0.0]),
        workspace=_ints([*costs.workspace_bytes, 0] if timed else [0] * (end + 1)),
        size=_ints(storage.size_bytes for storage in graph.storages),
        producer=_ints(-1 if producer is None else producer for producer in graph.producers),
        last_use=_ints(
            end if storage.kept or producer is None else use
            for storage, producer, use in zip(graph.storages, graph.producers, last, strict=True)
        ),
        changed=_ints(changed.get(number, end + 1) for number in range(len(graph.storages))),
        write_s=np.array(costs.write_s),
        write_j=np.array(costs.write_j),
        read_s=np.array(costs.read_s),
        read_j=np.array(costs.read_j),
        idle_w=costs.idle_w if timed else 0.0,
        base_j=problem.base_energy_j,
        base_s=problem.base_time_s,
        budget=limits.budget_bytes,
        deadline_s=np.inf if limits.deadline_s is None else limits.deadline_s,
        quota=2**62 if limits.quota_bytes is None else limits.quota_bytes,
        timed=timed,
    )


def gaps_of(problem: Problem, only: Only) -> Gaps:
    """Where there is something to decide, given what a plan may use."""
    rows: list[tuple[int, int, int]] = []
    allowed: list[list[int]] = []
    end = len(problem.graph.ops)
    for storage, (producer, users) in enumerate(zip(problem.graph.producers, problem.graph.users, strict=True)):
        if not users:
            continue
        if producer is None:
            spans = [((users[-1], users[0]), _home(problem, only, storage))]
            inner = list(pairwise(users))
        else:
            spans, inner = [], list(pairwise((producer, *users, end)))
        spans += [(span, _choices(problem, only, storage, *span)) for span in inner]
        for (begins, ends), choices in spans:
            if len(choices) > 1:
                rows.append((storage, begins, ends))
                allowed.append(choices)
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    padded = np.array([choices + [-1] * (5 - len(choices)) for choices in allowed], dtype=np.int64).reshape(-1, 5)
    counts = _ints(len(choices) for choices in allowed)
    return Gaps(columns[:, 0].copy(), columns[:, 1].copy(), columns[:, 2].copy(), padded, counts)


def _home(problem: Problem, only: Only, storage: int) -> list[int]:
    """Where a carried storage may live between two steps."""
    found = problem.graph.storages[storage]
    elsewhere = found.pageable and not found.kept and only != "recompute" and found.size_bytes > 0
    return [KEEP, PAGE_LAZILY] if elsewhere else [KEEP]


def _choices(problem: Problem, only: Only, storage: int, begins: int, ends: int) -> list[int]:
    """What may be done with a storage between two ops."""
    graph = problem.graph
    found, producer = graph.storages[storage], graph.producers[storage]
    choices = [KEEP]
    if found.size_bytes == 0 or ends - begins < 2:
        return choices
    if producer is not None and only != "page" and graph.ops[producer].again and not graph.ops[producer].updates:
        choices += [DROP, DROP_LAZILY]
    # POET writes in the stage after the making at the earliest, and reads in the one after that.
    soonest = 3 if problem.semantics == "poet" and begins == producer else 2
    if found.pageable and only != "recompute" and ends - begins >= soonest:
        choices += [PAGE, PAGE_LAZILY]
    return choices


def _rows(rows: list[list[int]]) -> tuple[Ints, Ints]:
    return _ints(accumulate(map(len, rows), initial=0)), _ints(number for row in rows for number in row)


def _ints(values: Iterable[int | bool]) -> Ints:
    return np.array(list(values), dtype=np.int64)
