# SPDX-License-Identifier: Apache-2.0
"""The judge of schedules: what it lets pass, what it refuses, and what it says a schedule costs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import ScheduleInvalid
from finetune.graph import Graph, Op, Storage
from finetune.planning.paging import page_everything, working_set
from finetune.problem import Costs, Limits, Problem
from finetune.replay import Replayed, replay
from finetune.schedule import Entry, Schedule, keep_everything, schedule_of
from tests.unit.finetune.oracles import legal
from tests.unit.finetune.steps import chain, poet_problems, real_problems

ROOMY = 10**9


def roomy(problem: Problem) -> Problem:
    return replace(problem, limits=Limits(ROOMY))


def verdict(problem: Problem, schedule: Schedule) -> bool:
    try:
        replay(problem, schedule)
    except ScheduleInvalid:
        return False
    return True


def edited(schedule: Schedule, ops: int, storages: int, chance: random.Random) -> Schedule:
    """One entry removed, added, doubled, moved or changed."""
    entries = list(schedule)
    at, to = chance.randrange(len(entries)), chance.randrange(len(entries))
    act = chance.choice("CFOI")
    fresh = Entry(act, chance.randrange(ops if act == "C" else storages))
    match chance.randrange(5):
        case 0:
            del entries[at]
        case 1:
            entries.insert(at, fresh)
        case 2:
            entries.insert(to, entries[at])
        case 3:
            entries.insert(to, entries.pop(at))
        case 4:
            entries[at] = fresh
    return tuple(entries)


@settings(max_examples=60, deadline=None)
@given(st.one_of(real_problems(timed=False), poet_problems()), st.integers(0, 2**32), st.booleans())
def test_it_agrees_with_the_rules_said_another_way(problem: Problem, seed: int, paged: bool) -> None:
    """On schedules with up to eight random edits; deadlines left aside."""
    problem = replace(problem, limits=replace(problem.limits, deadline_s=None))
    chance = random.Random(seed)
    schedule = page_everything(problem.graph) if paged else keep_everything(problem.graph)
    for _ in range(8):
        assert verdict(problem, schedule) == legal(problem, schedule)
        schedule = edited(schedule, len(problem.graph.ops), len(problem.graph.storages), chance)


def spoilt(problem: Problem, schedule: Schedule, found: Replayed) -> Iterator[tuple[str, Problem, Schedule]]:
    """Every edit of some kinds that no rule allows; `problem` is as tight as the schedule allows."""
    graph = problem.graph
    first = {entry: at for at, entry in reversed(list(enumerate(schedule)))}
    for at, entry in enumerate(schedule):
        before, after = schedule[:at], schedule[at + 1 :]
        act, number = entry
        if act == "C":
            if Counter(schedule)[entry] == 1:
                yield "an op left out", problem, before + after
            yield "an op that is not there", problem, (*before, Entry("C", len(graph.ops)), *after)
            for storage in graph.ops[number].inputs:
                yield "an input freed before its use", problem, (*before, Entry("F", storage), *schedule[at:])
            if number and first[entry] == at:
                source = schedule[at - 1]
                if source == Entry("C", number - 1):
                    yield "ops in the wrong order", problem, (*schedule[: at - 1], entry, source, *after)
        elif act == "F":
            yield "freed twice", problem, (*before, entry, *schedule[at:])
        elif act == "I":
            yield "a read left out", problem, before + after
            yield "read twice", problem, (*before, entry, *schedule[at:])
        else:
            yield "written twice", problem, (*before, entry, *schedule[at:])
            if Entry("I", number) in after:
                yield "a write left out", problem, before + after
        yield "a storage that is not there", problem, (*before, Entry("F", len(graph.storages)), *schedule[at:])
    limits = problem.limits
    yield "a byte too little", replace(problem, limits=replace(limits, budget_bytes=found.peak_bytes - 1)), schedule
    late = replace(limits, deadline_s=found.step_time_s * 0.999)
    yield "too late", replace(problem, limits=late), schedule
    if found.stored_bytes:
        yield "over the quota", replace(problem, limits=replace(limits, quota_bytes=found.stored_bytes - 1)), schedule


def test_a_thousand_spoilt_schedules_are_refused() -> None:
    """Every one of them, of each kind at least ten."""
    kinds: Counter[str] = Counter()
    for layers in range(3, 9):
        for build in (keep_everything, page_everything):
            base = chain(layers, ROOMY)
            schedule = build(base.graph)
            found = replay(base, schedule)
            tight = replace(base, limits=Limits(found.peak_bytes, found.step_time_s, found.stored_bytes))
            assert verdict(tight, schedule)
            for kind, problem, wrong in spoilt(tight, schedule, found):
                assert not verdict(problem, wrong), (kind, wrong)
                kinds[kind] += 1
    assert sum(kinds.values()) >= 1000
    assert min(kinds.values()) >= 6, kinds


def test_the_refusal_names_the_entry_and_the_rule() -> None:
    """Position, entry and why."""
    problem = chain(3, ROOMY)
    with pytest.raises(ScheduleInvalid, match=r"entry 1 \(C 2\): op2 needs value1, which is not in RAM") as caught:
        replay(problem, schedule_of([["C", 0], ["C", 2]]))
    assert (caught.value.position, caught.value.entry) == (1, "C 2")


def test_overhead_is_what_is_done_beside_each_op_once() -> None:
    """Joules of ops done again and of transfers, and those of waiting at idle power."""
    problem = chain(2, ROOMY)
    rows = [["C", 0], ["O", 0], ["C", 1], ["F", 0], ["I", 0], ["C", 2], ["F", 2], ["C", 2], ["C", 3]]
    found = replay(problem, schedule_of(rows))
    assert found.overhead_j == pytest.approx(1.0 + 0.25 + 0.25)
    assert found.energy_j == pytest.approx(4.0 + 1.5)
    waiting = replace(problem, costs=replace(problem.costs, idle_w=2.0, read_s=(3.0,) * 4))
    late = replay(waiting, schedule_of([*rows[:-1], ["F", 0], ["I", 0], ["C", 3]]))
    assert late.step_time_s - late.compute_s > 0
    assert late.overhead_j == pytest.approx(1.0 + 3 * 0.25 + 2.0 * (late.step_time_s - late.compute_s))


def test_transfers_overlap_with_computing_and_a_reader_waits() -> None:
    """A write runs beside the next op; an op that needs what is being read starts when it is there."""
    problem = chain(2, ROOMY)
    slow = replace(problem, costs=replace(problem.costs, read_s=(5.0,) * 4, write_s=(1.0,) * 4))
    rows = [["C", 0], ["O", 0], ["C", 1], ["F", 0], ["I", 0], ["C", 2], ["C", 3]]
    found = replay(slow, schedule_of(rows))
    # op0 0-1, write 1-2 beside op1 1-2, read 2-7 beside op2 2-3, op3 7-8
    assert found.step_time_s == pytest.approx(8.0)
    assert found.channel_s == pytest.approx(6.0)
    assert replay(replace(slow, semantics="poet"), schedule_of(rows)).step_time_s == pytest.approx(4.0)


def test_ram_of_a_write_that_lasts_is_waited_for_not_overdrawn() -> None:
    """Freed while it is written, its bytes return when the write ends: later, and never above the budget."""
    rows = [["C", 0], ["O", 0], ["C", 1], ["F", 0], ["C", 2], ["F", 1], ["I", 0], ["C", 3]]
    problem = chain(2, 30)
    slow = replace(problem, costs=replace(problem.costs, write_s=(10.0,) * 4, read_s=(0.0,) * 4))
    found = replay(slow, schedule_of(rows))
    assert found.peak_bytes <= 30
    assert found.step_time_s == pytest.approx(2.0 + 1.0 + 9.0 + 0.0, abs=2.0)
    assert found.step_time_s >= replay(slow, schedule_of(rows)).compute_s + 7.0


def test_workspace_counts_while_an_op_runs_and_not_under_poet() -> None:
    """20 bytes of values and 7 of workspace."""
    problem = chain(2, ROOMY)
    problem = replace(problem, costs=replace(problem.costs, workspace_bytes=(0, 7, 0, 0)))
    every = replay(problem, keep_everything(problem.graph))
    assert max(every.planned_bytes) == 30
    tight = replace(problem, limits=Limits(26))
    with pytest.raises(ScheduleInvalid, match="op1 brings RAM to 27"):
        replay(tight, keep_everything(problem.graph))


def update_problem() -> Problem:
    """A weight on which a value depends, a gradient, and the weight's update."""
    storages = (Storage("weight", 40, "parameter"), Storage("value", 10), Storage("gradient", 40))
    ops = (
        Op("forward", "made up", (0,), (1,)),
        Op("backward", "made up", (1,), (2,)),
        Op("update", "sgd", (2,), (), (0,), again=False, phase="update"),
    )
    ones = (1.0,) * 3
    costs = Costs(ones, ones, (0, 0, 0), ones, ones, ones, ones)
    return Problem(Graph("update", ops, storages), costs, Limits(ROOMY))


def test_an_update_makes_the_copy_on_storage_stale() -> None:
    """A weight that lies on storage must be written again after its update, and be gone from RAM at the end."""
    problem = update_problem()
    rows = [["I", 0], ["C", 0], ["F", 0], ["C", 1], ["F", 1], ["I", 0], ["C", 2], ["F", 2]]
    with pytest.raises(ScheduleInvalid, match="does not lie on storage again"):
        replay(problem, schedule_of(rows))
    with pytest.raises(ScheduleInvalid, match="would be lost"):
        replay(problem, schedule_of([*rows, ["F", 0]]))
    found = replay(problem, schedule_of([*rows, ["O", 0], ["F", 0]]))
    assert found.peak_bytes == 80
    assert found.activation_peak_bytes == 80
    assert replay(problem, keep_everything(problem.graph)).activation_peak_bytes == 50


def test_nothing_reads_a_weight_after_its_update() -> None:
    """Computing again what depended on the old weight would give another result."""
    problem = update_problem()
    with pytest.raises(ScheduleInvalid, match="after its update"):
        replay(problem, schedule_of([["C", 0], ["C", 1], ["C", 2], ["F", 1], ["C", 0]]))


@settings(max_examples=40, deadline=None)
@given(real_problems())
def test_paging_everything_needs_no_more_than_an_op_alone(problem: Problem) -> None:
    """Where everything may be paged the working set is the smallest budget; with one byte less nothing runs."""
    every = tuple(replace(storage, pageable=True) for storage in problem.graph.storages)
    problem = replace(problem, graph=Graph("pageable", problem.graph.ops, every))
    unused = sum(every[number].size_bytes for number in problem.graph.carried if not problem.graph.users[number])
    least = working_set(problem).bytes
    schedule = page_everything(problem.graph)
    assert verdict(replace(problem, limits=Limits(least + unused)), schedule)
    assert not verdict(replace(problem, limits=Limits(least - 1)), schedule)


@pytest.mark.parametrize("row", [["X", 1], ["C"], ["C", -1], ["C", "1"], ["C", True], ["C", 1, 2], "C1", None])
def test_only_rows_of_an_act_and_an_index_are_entries(row: list[object]) -> None:
    """Anything else is refused where a schedule is read."""
    with pytest.raises((ValueError, TypeError)):
        schedule_of([row])
