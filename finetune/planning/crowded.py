# SPDX-License-Identifier: Apache-2.0
"""Recomputations that exceed the budget inside a stage: where they are, and rows that make room for them.

The stage-end program counts RAM only at each stage's own op. Where a schedule is refused for what happens before it,
`leave_room` counts RAM there as well, for the order in which an answer is read: reads, then ops ascending. Its rows may
forbid what another order allows, so they serve to find schedules and prove nothing. Rows that prove: `moments.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..poet.matrices import edges_of, matrices, ram_bytes
from ..problem import Problem
from ..schedule import Schedule
from .booleans import ALWAYS, Name
from .hoist import bytes_along
from .model import StageEnd
from .moments import Moment, occupied


def crowded_in(problem: Problem, schedule: Schedule) -> set[Moment]:
    """The moments of a schedule at which RAM exceeds the budget."""
    graph, budget_bytes = problem.graph, problem.limits.budget_bytes
    if problem.semantics == "poet":
        sizes = [graph.storages[op.outputs[0]].size_bytes for op in graph.ops]
        used = ram_bytes(sizes, edges_of(graph), matrices(graph, schedule))
        return {Moment(int(stage), int(op)) for stage, op in np.argwhere(used > budget_bytes) if op <= stage}
    stage = 0
    found = set()
    for entry, held_bytes in zip(schedule, bytes_along(problem, schedule), strict=True):
        if entry.act == "C":
            if held_bytes > budget_bytes:
                found.add(Moment(stage, entry.number))
            stage += entry.number == stage
    return found


def leave_room(program: StageEnd, moments: Iterable[Moment]) -> None:
    """Add the rows of these moments to a program."""
    for moment in sorted(moments, key=lambda moment: (moment.stage, moment.op)):
        _row(program, moment.stage, moment.op)


def _row(program: StageEnd, stage: int, op: int) -> None:
    """When the op runs in the stage: what it reads, makes and works with, and all that is there before and after."""
    model, graph = program.model, program.graph
    runs = ALWAYS if op == stage else program.literal("R", op, stage)
    if runs is None:
        return
    found = graph.ops[op]
    fixed = occupied(program, op)
    terms = []
    for storage in range(len(graph.storages)):
        if storage in program.stages.fixed or storage in {*found.inputs, *found.outputs} or not program.size(storage):
            continue
        pairs = _there(program, storage, stage, op)
        if (ALWAYS, ALWAYS) in pairs:
            fixed += program.size(storage)
        elif pairs:
            model.add(Name("H", storage, stage * (program.end + 1) + op), 0.0)
            held = len(model.names)
            terms.append((program.size(storage), held - 1))
            for before, after in pairs:
                model.clause([held], [before, after])
    model.at_most(terms, program.budget - fixed, runs)


def _there(program: StageEnd, storage: int, stage: int, op: int) -> list[tuple[int, int]]:
    """Pairs of literals: both true, the storage is in RAM before the op runs in the stage and needed after it."""
    graph, poet = program.graph, program.problem.semantics == "poet"
    made = program.made[storage]
    if made >= stage:
        return []
    before = [program.stay(storage, stage), program.literal("I", storage, stage)]
    if 0 <= made < op:
        before.append(program.literal("R", made, stage))
    users = [user for user in graph.users[storage] if op < user < stage]
    after = [program.literal("R", user, stage) for user in users]
    after.append(ALWAYS if storage in program.stages.needs[stage] and op != stage else program.stay(storage, stage + 1))
    pairs = [(one, other) for one in before if one is not None for other in after if other is not None]
    written = program.literal("O", storage, 0)
    if poet and made == stage - 1 and written is not None:
        # It can be written in the stage after its own, and lies in RAM all through it.
        pairs.append((written, ALWAYS))
    return pairs
