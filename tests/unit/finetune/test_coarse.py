# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from finetune.errors import ScheduleInvalid
from finetune.graph import Graph, Op, Storage
from finetune.planning.coarse import coarsen
from finetune.problem import Costs, Limits, Problem
from finetune.replay import Replayed, replay
from finetune.schedule import Entry, Schedule, keep_everything, with_frees
from tests.unit.finetune.steps import real_problems


def costed(graph: Graph, budget_bytes: int = 1 << 30, workspace_bytes: tuple[int, ...] | None = None) -> Problem:
    ops, storages = (1.0,) * len(graph.ops), (0.5,) * len(graph.storages)
    workspaces = workspace_bytes or (0,) * len(graph.ops)
    return Problem(graph, Costs(ops, ops, workspaces, storages, storages, storages, storages), Limits(budget_bytes))


def normalised_twice() -> Problem:
    """Two layers, each a product and a normalisation with its own tiny statistics and weights, forward and back."""
    storages = [
        Storage("batch", 1000, "input", pageable=False),
        *(Storage(name, 1000, "parameter") for name in ("w0", "w1")),
        *(Storage(name, 1, "parameter") for name in ("bias0", "bias1")),
        *(Storage(name, 1, "gradient") for name in ("bias0.grad", "bias1.grad")),
        *(Storage(name, 1000) for name in ("a0", "n0", "a1", "n1", "d1", "d0")),
        *(Storage(name, 1) for name in ("mean0", "mean1", "g1", "g0")),
    ]
    at = {storage.name: number for number, storage in enumerate(storages)}

    def op(name: str, reads: str, makes: str = "", changes: str = "") -> Op:
        inputs, outputs, updates = (tuple(at[word] for word in words.split()) for words in (reads, makes, changes))
        return Op(name, "made up", inputs, outputs, updates, again=not changes)

    ops = [
        op("product0", "batch w0", "a0"),
        op("mean0", "a0", "mean0"),
        op("norm0", "a0 mean0 bias0", "n0"),
        op("product1", "n0 w1", "a1"),
        op("mean1", "a1", "mean1"),
        op("norm1", "a1 mean1 bias1", "n1"),
        op("back1", "n1 a1 mean1 w1", "d1"),
        op("sum1", "d1", "g1"),
        op("add1", "g1", "", "bias1.grad"),
        op("back0", "d1 a0 mean0", "d0"),
        op("sum0", "d0", "g0"),
        op("add0", "g0", "", "bias0.grad"),
    ]
    return costed(Graph("normalised", tuple(ops), tuple(storages)))


def test_ops_that_only_tiny_storages_tell_apart_become_one() -> None:
    """Statistics join the op whose result they describe, small gradients the op that makes the large one."""
    small = coarsen(normalised_twice(), tiny_bytes=10, tiny_share=0.1)
    names = [[small.whole.graph.ops[op].name for op in group] for group in small.groups]
    assert names == [
        ["product0", "mean0"],
        ["norm0"],
        ["product1", "mean1"],
        ["norm1"],
        ["back1", "sum1", "add1"],
        ["back0", "sum0", "add0"],
    ]
    assert all(op.again for op in small.problem.graph.ops)
    assert {small.problem.graph.storages[at].name for at in range(len(small.storages))}.isdisjoint({"mean0", "g1"})
    assert small.problem.base_energy_j == small.whole.base_energy_j


def test_computing_a_group_again_repeats_only_what_is_gone() -> None:
    """Statistics are kept, and a small gradient is not added twice."""
    small = coarsen(normalised_twice(), tiny_bytes=10, tiny_share=0.1)
    order = [0, 1, 2, 3, 4, 0, 5]
    entries = [Entry("C", number) for number in order]
    a0 = next(at for at, storage in enumerate(small.problem.graph.storages) if storage.name == "a0")
    entries.insert(2, Entry("F", a0))
    expanded = small.expand(tuple(entries))
    names = [small.whole.graph.ops[entry.number].name for entry in expanded if entry.act == "C"]
    assert names.count("product0") == 2
    assert all(names.count(name) == 1 for name in ("mean0", "norm0", "add1", "add0"))
    replay(small.whole, expanded)


def test_without_tiny_storages_nothing_changes_that_can_be_decided() -> None:
    """A step whose storages are alike keeps its ops."""
    small = coarsen(normalised_twice(), tiny_bytes=0)
    assert len(small.problem.graph.ops) == len(small.whole.graph.ops)
    assert small.problem.limits == small.whole.limits


def test_a_large_change_is_never_repeated() -> None:
    """An op that changes a weight does not join one that makes something, which may be computed again."""
    storages = (Storage("w", 1000, "parameter"), Storage("x", 1000), Storage("y", 1000), Storage("t", 1))
    ops = (
        Op("make", "made up", (0,), (1,)),
        Op("tiny", "made up", (1,), (3,)),
        Op("change", "made up", (3,), (), (0,), again=False),
        Op("end", "made up", (1,), (2,)),
    )
    small = coarsen(costed(Graph("changes", ops, storages)), tiny_bytes=10, tiny_share=1.0)
    assert (2,) in small.groups


def rewound(problem: Problem, choices: list[int]) -> Schedule | None:
    """A schedule that drops, pages and computes again at random; None where that cannot be."""
    graph = problem.graph
    entries: list[Entry] = []
    for number in range(len(graph.ops)):
        entries.append(Entry("C", number))
        choice = choices[number % len(choices)] + number
        again = choice % (number + 1)
        if choice % 3 == 0 and graph.ops[again].again:
            entries += [Entry("F", storage) for storage in graph.ops[again].outputs]
            entries.append(Entry("C", again))
    trial = tuple(entries)
    return trial if accepted(problem, with_frees(graph, trial)) else None


def accepted(problem: Problem, schedule: Schedule) -> Replayed | None:
    try:
        return replay(problem, schedule)
    except ScheduleInvalid:
        return None


@settings(max_examples=100, deadline=None)
@given(real_problems(most=8), st.integers(0, 15), st.lists(st.integers(0, 1000), min_size=1, max_size=8))
def test_what_the_small_problem_allows_the_whole_one_does(problem: Problem, tiny: int, choices: list[int]) -> None:
    """Expanded schedules are accepted within the whole budget and cost no more joules of computing."""
    roomy = replace(problem, limits=Limits(1 << 30))
    small = coarsen(roomy, tiny_bytes=tiny, tiny_share=1.0)
    for entries in (keep_everything(small.problem.graph), rewound(small.problem, choices)):
        if entries is None:
            continue
        schedule = with_frees(small.problem.graph, entries)
        planned = accepted(small.problem, schedule)
        assume(planned is not None)
        assert planned is not None
        reserve_bytes = roomy.limits.budget_bytes - small.problem.limits.budget_bytes
        tight = replace(problem, limits=Limits(planned.peak_bytes + reserve_bytes))
        found = replay(tight, small.expand(schedule))
        assert found.overhead_j <= planned.overhead_j * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("share", [0.0, 0.002, 0.5])
def test_what_is_tiny_is_a_small_share(share: float) -> None:
    """Small steps, where everything is small, keep their decisions."""
    whole = normalised_twice()
    small = coarsen(whole, tiny_bytes=1 << 20, tiny_share=share)
    made = sum(storage.size_bytes for storage in whole.graph.storages[7:])
    gone = set(range(len(whole.graph.storages))) - set(small.storages)
    assert sum(whole.graph.storages[storage].size_bytes for storage in gone) <= share * made
