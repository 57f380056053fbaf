# SPDX-License-Identifier: Apache-2.0
"""Planning: what is returned has been judged, what is claimed is so, and what cannot be is said to be."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from finetune.errors import PlanInvalid, PlanMismatch
from finetune.front import front
from finetune.graph import Graph, Op, Storage
from finetune.plan import Plan, Progress, plan
from finetune.plan_file import parse_plan, read_plan, to_json, write_plan
from finetune.planning.limits import bytes_of, limits_of, plain_step, seconds_of
from finetune.planning.paging import working_set
from finetune.poet.graph_file import parse_graph
from finetune.poet.matrices import judge
from finetune.problem import Costs, Limits, Problem
from finetune.replay import replay
from tests.unit.finetune.oracles import least_overhead_j
from tests.unit.finetune.steps import chain, poet_file, poet_problems, real_problems

STEPS, EFFORT = 300, 0.2
RANDOM = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def quick(problem: Problem, *, effort: float = EFFORT) -> Plan:
    return plan(problem, steps=STEPS, effort=effort)


def check(problem: Problem, found: Plan) -> None:
    """What holds for every plan."""
    if not found.schedule:
        assert found.status in ("infeasible", "unknown")
        assert found.why
        assert found.smallest_budget_bytes is None or found.smallest_budget_bytes > problem.limits.budget_bytes
        return
    replayed = replay(problem, found.schedule)
    assert (replayed.energy_j, replayed.overhead_j) == (found.energy_j, found.overhead_j)
    assert replayed.step_time_s == found.step_time_s
    assert found.peak_bytes is not None
    assert replayed.peak_bytes <= found.peak_bytes <= problem.limits.budget_bytes
    assert 0 <= found.bound_j <= replayed.overhead_j
    assert found.overhead_gap == pytest.approx(1 - found.bound_j / (replayed.overhead_j or 1), abs=1e-6) or (
        not replayed.overhead_j
    )
    assert (found.status == "optimal") == (found.overhead_gap == 0)
    assert not found.cut_off


@RANDOM
@given(real_problems())
def test_every_plan_of_a_real_step_passes_the_judge(problem: Problem) -> None:
    """With the very figures that it states."""
    check(problem, quick(problem))


@RANDOM
@given(poet_problems())
def test_every_plan_under_poet_obeys_poets_rules(problem: Problem) -> None:
    """Its matrices break none, cost what the plan states, and peak where it states."""
    found = quick(problem)
    check(problem, found)
    if found.schedule:
        assert found.matrices is not None
        verdict = judge(problem, found.matrices)
        assert verdict.broken == ()
        assert verdict.overhead_j == pytest.approx(found.overhead_j)
        assert verdict.peak_bytes == found.peak_bytes


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(poet_problems(6, "real", timed=False))
def test_the_least_of_all_schedules_is_between_bound_and_plan(problem: Problem) -> None:
    """Tried out for tiny steps: an `optimal` plan is the least, and an infeasible one has none."""
    found, least_j = quick(problem), least_overhead_j(problem)
    if found.overhead_j is None:
        assert least_j is None or found.status == "unknown"
        return
    assert least_j is not None
    assert found.bound_j <= least_j * (1 + 1e-6) + 1e-9
    assert least_j <= found.overhead_j + 1e-9
    if found.status == "optimal":
        assert found.overhead_j == pytest.approx(least_j, rel=1e-5)


def test_the_same_question_gets_the_same_plan() -> None:
    """Seed and effort decide, the clock does not."""
    problem = chain(8, 90)
    first, second = quick(problem), quick(problem)
    assert replace(first, solve_s=0.0) == replace(second, solve_s=0.0)


def test_what_fits_is_left_as_it_is() -> None:
    """No overhead, proven without any search."""
    problem = chain(5, 10**6)
    found = plan(problem, wall_s=0.0)
    assert (found.status, found.overhead_j, found.overhead_gap) == ("optimal", 0.0, 0.0)
    assert found.peak_bytes == plain_step(problem).peak_bytes


def test_a_small_step_is_planned_to_the_optimum() -> None:
    """Half the memory: proven, and far below paging everything."""
    problem = chain(10, 0)
    problem = replace(problem, limits=limits_of(problem, "50%"))
    found = plan(problem, steps=3000, effort=5.0)
    assert found.status == "optimal"
    assert 0 < found.overhead_j <= 6 * 0.5


def test_a_budget_below_an_ops_need_is_infeasible_and_the_need_is_named() -> None:
    """Which op, how much, and the least that would do: with that much there is a plan."""
    problem = chain(6, 29)
    found = quick(problem)
    assert (found.status, found.smallest_budget_bytes) == ("infeasible", 30)
    assert found.why == "op7 alone needs 30 bytes, the budget is 29"
    assert quick(replace(problem, limits=Limits(30))).schedule


def test_a_deadline_below_the_computing_is_infeasible_and_no_budget_helps() -> None:
    """Seconds needed and seconds given."""
    found = quick(chain(6, 1000, deadline_s=11.5))
    assert found.status == "infeasible"
    assert found.why == "computing alone takes 12 s, the deadline is 11.5 s"
    assert found.smallest_budget_bytes is None


def test_a_budget_that_the_deadline_makes_too_small_is_told_with_the_least_that_is_not() -> None:
    """Slow storage and no time to compute again: the smallest budget is searched, and holds what it promises."""
    problem = chain(6, 60, deadline_s=12.0)
    problem = replace(problem, costs=replace(problem.costs, write_s=(50.0,) * 12, read_s=(50.0,) * 12))
    found = quick(problem)
    assert found.status in ("infeasible", "unknown")
    assert found.smallest_budget_bytes is not None
    assert 60 < found.smallest_budget_bytes <= plain_step(problem).peak_bytes
    assert quick(replace(problem, limits=Limits(found.smallest_budget_bytes, 12.0))).schedule


def test_a_search_with_more_room_that_ends_within_the_budget_is_a_plan() -> None:
    """What a short search misses at the budget itself; the least RAM named is never what was given."""
    reads = [(), (0,), (0,), (0,), (0,), (0,), (0,), (0, 1, 2), (0, 1, 3), (7,)]
    ops = tuple(Op(f"op{node}", "made up", inputs, (node,)) for node, inputs in enumerate(reads))
    storages = tuple(Storage(f"value{node}", 1) for node in range(10))
    fives, moves_s, moves_j = (5.0,) * 10, (1.5,) * 10, (2.5,) * 10
    costs = Costs(fives, (*fives[:7], 9.0, *fives[8:]), (5,) * 10, moves_s, moves_j, moves_s, moves_j)
    problem = Problem(Graph("wide", ops, storages), costs, Limits(4, 60.0), "poet")
    found = quick(problem)
    assert found.peak_bytes == 4
    check(problem, found)


def test_storage_too_small_for_any_page_leaves_computing_again() -> None:
    """A quota of no bytes is the same as paging being forbidden."""
    problem = replace(chain(6, 50), limits=Limits(50, None, 0))
    found = quick(problem)
    assert found.schedule
    assert {entry.act for entry in found.schedule} <= {"C", "F"}


@pytest.mark.parametrize(("only", "acts"), [("page", {"C", "F", "O", "I"}), ("recompute", {"C", "F"})])
def test_what_is_not_allowed_is_not_used(only: str, acts: set[str]) -> None:
    """Paging only computes each op once; recomputing only moves nothing."""
    problem = chain(6, 50)
    found = plan(problem, steps=STEPS, effort=EFFORT, only=only)  # type: ignore[arg-type]
    assert found.schedule
    assert {entry.act for entry in found.schedule} <= acts
    runs = sum(entry.act == "C" for entry in found.schedule)
    assert (runs == 12) == (only == "page")


def test_the_wall_cuts_and_the_plan_says_so() -> None:
    """At once over: what is at hand is returned, valid, with nothing proven."""
    problem = chain(10, 70)
    found = plan(problem, wall_s=0.0)
    assert found.cut_off
    assert found.schedule
    assert found.status == "feasible"
    replay(problem, found.schedule)


def test_progress_tells_the_best_and_the_bound() -> None:
    """The best never gets worse, the bound never lower, and the last are the plan's."""
    seen: list[Progress] = []
    found = plan(chain(10, 80), steps=STEPS, effort=EFFORT, progress=seen.append)
    best = [one.best_overhead_j for one in seen if one.best_overhead_j is not None]
    bound = [one.bound_overhead_j for one in seen if one.bound_overhead_j is not None]
    assert best == sorted(best, reverse=True)
    assert bound == sorted(bound)
    assert best[-1] == pytest.approx(found.overhead_j)
    assert {one.phase for one in seen} <= {"search", "proof"}
    assert [one.elapsed_s for one in seen] == sorted(one.elapsed_s for one in seen)


def test_a_start_is_never_undercut() -> None:
    """A plan is at least as good as the schedule it began with."""
    problem = chain(10, 80)
    good = plan(problem, steps=3000, effort=2.0)
    again = plan(problem, steps=1, effort=0.0, start=good.schedule)
    assert good.overhead_j is not None
    assert again.overhead_j is not None
    assert again.overhead_j <= good.overhead_j


def test_a_front_never_rises() -> None:
    """More RAM or more time never costs energy; the ends are the smallest budget and keeping everything."""
    problem = chain(6, 60)
    found = front(problem, steps=STEPS)
    for plans in (found.memory, found.time):
        joules = [one.overhead_j for one in plans if one.overhead_j is not None]
        assert all(after <= before for before, after in pairwise(joules))
    assert found.memory[0].budget_bytes == working_set(problem).bytes
    assert found.memory[-1].overhead_j == 0
    assert [one.schedule != () for one in found.time] == sorted(one.schedule != () for one in found.time)
    for one, deadline_s in zip(found.time, found.deadlines_s, strict=True):
        if one.schedule:
            replay(replace(problem, limits=Limits(60, deadline_s)), one.schedule)


def poet_plan() -> tuple[Problem, Plan]:
    found = parse_graph(poet_file(6))
    problem = found.problem("board", 1)
    problem = replace(problem, limits=limits_of(problem, "60%", "2x"))
    return problem, plan(problem, steps=STEPS, effort=EFFORT, platform="board", costs_from="a test")


def test_a_plan_file_brings_the_plan_back(tmp_path: Path) -> None:
    """Every field, the matrices as five keys of their own; for another graph it is refused."""
    problem, made = poet_plan()
    path = tmp_path / "plan.json"
    write_plan(path, made)
    back = read_plan(path, problem.graph)
    assert made.matrices is not None
    assert back.matrices is not None
    assert back.matrices.rows() == made.matrices.rows()
    assert replace(back, matrices=None) == replace(made, matrices=None)
    content = json.loads(path.read_bytes())
    assert content["format"] == 1
    assert {"R", "SRam", "SSd", "Min", "Mout"} <= set(content)
    assert {column.name for column in fields(Plan)} - {"matrices"} <= set(content)
    assert np.array(content["R"]).shape == (13, 13)
    with pytest.raises(PlanMismatch):
        read_plan(path, chain(3, 100).graph)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("format", 2), ("status", "best"), ("semantics", "ideal"), ("graph_digest", None), ("energy_j", "much")),
        *(("bound_j", -1.0), ("schedule", [["C"]]), ("schedule", None), ("schedule", []), ("peak_bytes", True)),
        *(("R", [[2]]), ("R", [[0, 1]]), ("Min", "none"), ("solve_s", float("nan"))),
    ],
)
def test_a_file_that_is_no_plan_is_refused(key: str, value: object) -> None:
    """Naming the field."""
    content = to_json(poet_plan()[1]) | {key: value}
    with pytest.raises(PlanInvalid, match=r".*"):
        parse_plan(content)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    """Whatever stands in it."""
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanInvalid):
        read_plan(path)


def test_limits_are_read_as_people_write_them() -> None:
    """Bytes with units, a share of the activations on top of what is fixed, seconds or a multiple of the plain step."""
    problem = parse_graph(poet_file(5)).problem("board", 1, semantics="real")
    plain = plain_step(problem)
    assert limits_of(problem, "50%").budget_bytes == 10_000 + plain.activation_peak_bytes // 2
    assert limits_of(problem, "12000", "1.5x", "1kB") == Limits(12_000, 1.5 * plain.step_time_s, 1000)
    assert (bytes_of("2 MiB"), bytes_of("1.5kB"), seconds_of("2.5e-3", 9.0)) == (2 << 20, 1500, 0.0025)
    for text in ("", "-5", "5 pounds", "50x", "1e3", "NaN"):
        with pytest.raises(ValueError, match="is not a number of bytes"):
            bytes_of(text)
    for text in ("", "soon", "-1", "inf", "1.3 y"):
        with pytest.raises(ValueError, match="is neither seconds nor"):
            seconds_of(text, 1.0)
