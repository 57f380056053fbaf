# SPDX-License-Identifier: Apache-2.0
"""POET's graph files, platforms, matrices and rules."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import GraphInvalid
from finetune.graph import Graph, Op, Storage
from finetune.planning.accepted import accept
from finetune.planning.limits import plain_step
from finetune.planning.paging import page_everything
from finetune.poet.graph_file import load_graph, parse_graph
from finetune.poet.matrices import Matrices, edges_of, judge, listed, matrices, ram_bytes
from finetune.poet.platforms import load_platform, platform_names
from finetune.problem import Limits, Problem
from finetune.replay import replay
from finetune.schedule import keep_everything, schedule_of
from tests.unit.finetune.steps import chain, poet_file, poet_problems

ROOMY = 10**9


def u_by_the_paper(sizes: list[int], edges: list[tuple[int, int]], made: Matrices) -> list[list[int]]:
    """U of the published program, row by row and rule by rule."""
    count = len(sizes)
    result = []
    for t in range(count):
        kept = made.SRam[t + 1] if t + 1 < count else np.zeros(count, dtype=bool)
        row = [sizes[0] * int(made.R[t, 0]) + sum(sizes[i] for i in range(count) if made.SRam[t, i])]
        for k in range(count - 1):
            freed = 0
            for i, target in edges:
                if target == k:
                    later = sum(int(made.R[t, j]) for j in {v for u, v in edges if u == i} if j > k)
                    hazard = 1 - int(made.R[t, k]) + int(kept[i]) + later
                    freed += sizes[i] * (hazard == 0)
            row.append(row[-1] + sizes[k + 1] * int(made.R[t, k + 1]) - freed)
        result.append(row)
    return result


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 7), st.integers(0, 2**32))
def test_ram_is_that_of_the_published_program(layers: int, seed: int) -> None:
    """Byte for byte, on any matrices, with the edge that is given twice."""
    chance = np.random.default_rng(seed)
    found = parse_graph(poet_file(layers))
    count = len(found.nodes)
    made = Matrices(*(chance.random((count, count)) < chance.random() for _ in range(5)))
    expected = u_by_the_paper(list(found.sizes_bytes), list(found.edges), made)
    assert ram_bytes(found.sizes_bytes, found.edges, made).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(poet_problems())
def test_matrices_obey_every_rule_and_cost_no_more_than_their_schedule(problem: Problem) -> None:
    """And the schedule made of them again costs the same and needs no more RAM than POET counts."""
    roomy = replace(problem, limits=Limits(ROOMY))
    for schedule in (keep_everything(problem.graph), page_everything(problem.graph)):
        made = matrices(problem.graph, schedule)
        found = judge(roomy, made)
        assert found.broken == ()
        assert found.overhead_j <= replay(roomy, schedule).overhead_j + 1e-9
        again = listed(problem.graph, made)
        replayed = replay(replace(problem, limits=Limits(found.peak_bytes)), again)
        assert replayed.overhead_j == pytest.approx(found.overhead_j)
        back = matrices(problem.graph, again)
        assert all(np.array_equal(*pair) for pair in zip(back.rows().values(), made.rows().values(), strict=True))


def broken(change: Callable[[Matrices], None], budget_bytes: int = ROOMY, deadline_s: float | None = None) -> str:
    problem = replace(chain(3, budget_bytes, semantics="poet"), limits=Limits(budget_bytes, deadline_s))
    rows = [["C", 0], ["C", 1], ["O", 0], ["F", 0], ["C", 2], ["C", 3], ["C", 4], ["I", 0], ["C", 5]]
    made = matrices(problem.graph, schedule_of(rows))
    change(made)
    return "; ".join(judge(problem, made).broken)


def set_bit(name: str, stage: int, node: int, value: bool) -> Callable[[Matrices], None]:
    def change(made: Matrices) -> None:
        getattr(made, name)[stage, node] = value

    return change


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (set_bit("R", 2, 2, False), "R[t,t] must be 1"),
        (set_bit("R", 1, 4, True), "R[t,i] must be 0 for i > t"),
        (set_bit("SRam", 2, 3, True), "SRam[t,i] must be 0 for i >= t"),
        (set_bit("SSd", 2, 3, True), "SSd[t,i] must be 0 for i >= t"),
        (set_bit("Min", 1, 4, True), "Min[t,i] must be 0 for i > t"),
        (set_bit("Mout", 1, 4, True), "Mout[t,i] must be 0 for i > t"),
        (set_bit("SRam", 5, 4, False), "R[t,v] needs every input u"),
        (set_bit("Min", 4, 0, False), "SRam[t+1,i] needs SRam[t,i], R[t,i] or Min[t,i]"),
        (set_bit("Mout", 1, 0, False), "SSd[t+1,i] needs SSd[t,i] or Mout[t,i]"),
        (set_bit("SSd", 4, 0, False), "Min[t,i] needs SSd[t,i]"),
        (set_bit("SRam", 1, 0, False), "Mout[t,i] needs SRam[t,i]"),
    ],
)
def test_each_rule_is_checked(change: Callable[[Matrices], None], rule: str) -> None:
    """One bit wrong breaks it, and none breaks none."""
    assert rule in broken(change)
    assert broken(lambda made: None) == ""


def test_budget_and_deadline_are_rules_too() -> None:
    """Peak bytes in POET's count, seconds of computing alone."""
    assert "exceed the budget of 29" in broken(lambda made: None, budget_bytes=29)
    assert "exceed the deadline of 5.5 s" in broken(lambda made: None, deadline_s=5.5)
    assert broken(lambda made: None, deadline_s=6.0) == ""


def test_a_read_too_soon_for_poet_becomes_keeping() -> None:
    """Written in the stage after its own at the earliest, read in the one after that: in RAM from the fourth on."""
    ops = (
        Op("op0", "made up", (), (0,)),
        Op("op1", "made up", (0,), (1,)),
        Op("op2", "made up", (0,), (2,)),
        Op("op3", "made up", (1, 2), (3,)),
        Op("op4", "made up", (1, 3), (4,)),
    )
    graph = Graph("diamond", ops, tuple(Storage(f"value{number}", 10) for number in range(5)))
    soon = [["C", 0], ["C", 1], ["O", 1], ["F", 1], ["C", 2], ["I", 1], ["C", 3], ["C", 4]]
    made = matrices(graph, schedule_of(soon))
    assert made.Min.sum() == made.Mout.sum() == 0
    assert made.SRam[:, 1].tolist() == [False, False, True, True, True]


def test_refused_by_poet_is_not_accepted() -> None:
    """A list within the budget whose write needs one more stage of RAM in POET's terms."""
    problem = chain(4, ROOMY, semantics="poet")
    schedule = page_everything(problem.graph)
    least = replay(problem, schedule).peak_bytes
    found = accept(problem, schedule)
    assert found
    tight = replace(problem, limits=Limits(found.peak_bytes))
    assert accept(tight, schedule)
    if found.peak_bytes > least:
        assert accept(replace(problem, limits=Limits(found.peak_bytes - 1)), schedule) is None


def test_a_graph_file_is_read_as_it_stands(tmp_path: Path) -> None:
    """Sizes, edges with repetitions, costs, peak; transfers' seconds from joules and the storage's power."""
    content = poet_file(5)
    path = tmp_path / "chain.json"
    path.write_text(json.dumps(content))
    found = load_graph(path)
    assert list(map(list, found.edges)) == content["edges"]
    assert found.activation_peak_bytes == plain_step(found.problem("board", ROOMY)).activation_peak_bytes
    costs = found.problem("board", ROOMY).costs
    assert costs.energy_j == tuple(content["platforms"]["board"]["energy_compute_J"])
    assert costs.read_s[0] == pytest.approx(0.001 + content["cost_ram"][0] / 1e5)
    assert len(edges_of(found.graph("poet"))) == len(set(found.edges)) == len(found.edges) - 1


def test_under_real_the_weights_and_gradients_are_counted() -> None:
    """What POET leaves out stands beside the activations and never leaves RAM."""
    found = parse_graph(poet_file(5))
    real, poet = (plain_step(found.problem("board", ROOMY, semantics=kind)) for kind in ("real", "poet"))
    assert real.peak_bytes == poet.peak_bytes + 2 * 5000
    assert real.activation_peak_bytes == poet.activation_peak_bytes


def change(where: str, value: Any) -> dict[str, Any]:
    content = poet_file(4)
    place: Any = content
    *path, last = (int(key) if key.isdecimal() else key for key in where.split("."))
    for key in path:
        place = place[key]
    place[last] = value
    return content


@pytest.mark.parametrize(
    ("where", "value", "why"),
    [
        ("edges.0", [1, 0], r"edge \[1, 0\]: goes backward"),
        ("edges.1", [3, 1], r"edge \[3, 1\]: goes backward|closes a cycle"),
        ("edges.0", [0, 99], r"edges\[0\]: must be two of 9 nodes"),
        ("edges.0", [0, 0], r"edge \[0, 0\]: closes a cycle"),
        ("edges.0", "01", r"edges\[0\]: must be two of"),
        ("edges", [], "is not connected with"),
        ("N", 7, "N: is 7 for 9"),
        ("nodes", ["a"], "nodes: must be 9 names"),
        ("cost_ram.2", -1, r"cost_ram\[2\]: must be finite and not negative, got -1"),
        ("cost_ram.2", math.nan, r"cost_ram\[2\]: must be finite"),
        ("cost_ram", [], "cost_ram: must be the bytes"),
        ("params_bytes", -5, "params_bytes: must be"),
        ("platforms.board.cost_cpu_s.1", -1.0, r"platforms.board.cost_cpu_s\[1\]: must be"),
        ("platforms.board.energy_compute_J.1", math.inf, r"energy_compute_J\[1\]: must be finite"),
        ("platforms.board.energy_pagein_J.1", "free", r"energy_pagein_J\[1\]: must be"),
        ("platforms.board.energy_pageout_J", [1.0], "energy_pageout_J: must be 9 numbers"),
        ("platforms.board.chip.PAGEIN_THROUGHPUT", 0, "PAGEIN_THROUGHPUT: must be above zero: nothing could be paged"),
        ("platforms.board.chip.PAGEOUT_THROUGHPUT", 0.0, "PAGEOUT_THROUGHPUT: must be above zero"),
        ("platforms.board.chip", None, "chip: must be an object"),
        ("platforms", [], "platforms: must be an object"),
    ],
)
def test_a_graph_file_that_is_not_sound_is_refused(where: str, value: Any, why: str) -> None:
    """The error names the place."""
    with pytest.raises(GraphInvalid, match=why):
        parse_graph(change(where, value))


def test_a_cycle_is_told_from_a_bad_order() -> None:
    """An edge back along a path closes a cycle."""
    content = poet_file(4)
    content["edges"].append([6, 2])
    with pytest.raises(GraphInvalid, match=r"edge \[6, 2\]: closes a cycle"):
        parse_graph(content)


def test_a_lone_node_is_refused() -> None:
    """Named with its number."""
    content = poet_file(4)
    content["edges"] = [edge for edge in content["edges"] if 8 not in edge]
    with pytest.raises(GraphInvalid, match=r"layer8: \(node 8\) is not connected with layer0"):
        parse_graph(content)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, text: str) -> None:
    """Whatever stands in it."""
    path = tmp_path / "graph.json"
    path.write_text(text)
    with pytest.raises(GraphInvalid, match="is not"):
        load_graph(path)


def test_every_shipped_platform_gives_costs() -> None:
    """POET's four as published; the one it has no rates for is derived, and says so."""
    names = platform_names()
    assert {"m0", "m4", "a72", "a72nocache", "jetsontx2"} <= set(names)
    for name in names:
        platform = load_platform(name)
        assert (platform.origin == "derived") == (name == "jetsontx2")
        costs = platform.costs((1e6, 0.0), (1000, 0))
        assert costs.time_s == (1e6 / platform.flop_per_s, 0.0)
        assert costs.write_s[0] > costs.write_s[1] == platform.write_latency_s
        assert costs.read_j[0] == pytest.approx(costs.read_s[0] * platform.transfer_w)


def test_a_graph_file_can_be_planned_for_a_platform_that_it_does_not_know() -> None:
    """Its operations are seconds times rate."""
    found = parse_graph(poet_file(4))
    costs = found.costs_on("a72")
    assert costs.time_s[1] * load_platform("a72").flop_per_s == pytest.approx(1e4)
    with pytest.raises(GraphInvalid, match="is neither a file nor one of a72"):
        found.costs_on("abacus")


@pytest.mark.parametrize(
    ("key", "value"), [("write_bytes_per_s", 0), ("flop_per_s", -1), ("flop_per_j", math.nan), ("idle_w", "low")]
)
def test_a_platform_that_cannot_be_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    """Naming the figure."""
    path = tmp_path / "board.json"
    fields = {name: getattr(load_platform("a72"), name) for name in load_platform("a72").__slots__}
    path.write_text(json.dumps(fields | {key: value}))
    with pytest.raises(GraphInvalid, match=key):
        load_platform(str(path))
    path.write_text(json.dumps({key: value}))
    with pytest.raises(GraphInvalid, match="must have exactly"):
        load_platform(str(path))
