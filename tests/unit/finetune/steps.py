# SPDX-License-Identifier: Apache-2.0
"""Training steps made up for tests: small ones by hand, graph files as POET writes them, and random ones."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from finetune.graph import Graph, Op, Storage
from finetune.planning.limits import ROOMY, plain_step
from finetune.planning.paging import working_set
from finetune.problem import Costs, Limits, Problem, Semantics


def poet_file(layers: int, *, rate: float = 1e6, write_bytes_per_s: float = 1e5) -> dict[str, Any]:
    """A chain of layers, a loss and its backward chain as a graph file with one platform, `board`.

    Layer sizes and costs repeat with periods 3 and 4, so that no two choices are alike; one loss edge is given twice.
    """
    count = 2 * layers + 1
    loss = layers
    edges = [[node, node + 1] for node in range(layers)]
    for layer in reversed(range(layers)):
        node = 2 * layers - layer
        edges += [[layer, node], [node - 1, node]]
    edges.append([loss, loss + 1])
    sizes = [1000 * (1 + node % 3) for node in range(layers)]
    sizes = [*sizes, 4, *reversed(sizes)]
    flops = [0.0, *(1e4 * (1 + node % 4) for node in range(count - 1))]
    times = [flop / rate for flop in flops]
    moves = [(0.001 + size / write_bytes_per_s) * 0.3 for size in sizes]
    chip = {"FLOPS": rate, "PAGEIN_THROUGHPUT": 1e5, "PAGEOUT_THROUGHPUT": write_bytes_per_s, "MEMORY_POWER": 0.3}
    return {
        "model": "chain",
        "N": count,
        "edges": edges,
        "nodes": [f"layer{node}" for node in range(count)],
        "backward": list(range(loss + 1, count)),
        "cost_ram": sizes,
        "params_bytes": 5000,
        "platforms": {
            "board": {
                "chip": chip,
                "cost_cpu_s": times,
                "energy_compute_J": [2.0 * seconds for seconds in times],
                "energy_pagein_J": moves,
                "energy_pageout_J": moves,
            }
        },
    }


def chain(layers: int, budget_bytes: int, *, semantics: Semantics = "real", deadline_s: float | None = None) -> Problem:
    """Ops of 1 s and 1 J on storages of 10 bytes, forward and back; a transfer takes 0.1 s and 0.25 J."""
    count = 2 * layers
    ops = []
    for node in range(count):
        inputs = (node - 1,) if node else ()
        inputs += (count - 1 - node,) if node > layers else ()
        ops.append(Op(f"op{node}", "made up", inputs, (node,)))
    storages = tuple(Storage(f"value{node}", 10) for node in range(count))
    ones, tenths = (1.0,) * count, (0.1,) * count
    quarters = (0.25,) * count
    costs = Costs(ones, ones, (0,) * count, tenths, quarters, tenths, quarters)
    return Problem(Graph("chain", tuple(ops), storages), costs, Limits(budget_bytes, deadline_s), semantics)


@st.composite
def poet_problems(draw: st.DrawFn, most: int = 10, semantics: Semantics = "poet", *, timed: bool = True) -> Problem:
    """A random graph of ops of one output each, with a budget around what it needs."""
    count = draw(st.integers(min(5, most), most))
    ops = []
    for node in range(count):
        inputs = draw(st.sets(st.integers(0, node - 1), min_size=1, max_size=3)) if node else set()
        ops.append(Op(f"op{node}", "made up", tuple(sorted(inputs)), (node,)))
    storages = tuple(Storage(f"value{node}", draw(st.integers(1, 20))) for node in range(count))
    return _problem(draw, Graph("random", tuple(ops), storages), semantics, timed=timed)


@st.composite
def real_problems(draw: st.DrawFn, most: int = 8, *, timed: bool = True) -> Problem:
    """A random step: weights, ops of one or two outputs, workspaces, updates, things never paged or never redone."""
    storages = [
        Storage(f"weight{number}", draw(st.integers(1, 20)), "parameter", pageable=draw(st.booleans()))
        for number in range(draw(st.integers(0, 2)))
    ]
    weights = len(storages)
    ops: list[Op] = []
    for node in range(draw(st.integers(min(4, most), most))):
        made = range(weights, len(storages))
        inputs = draw(st.sets(st.sampled_from(made), min_size=1, max_size=3)) if made else set()
        if weights and draw(st.booleans()):
            inputs.add(draw(st.integers(0, weights - 1)))
        outputs = tuple(range(len(storages), len(storages) + draw(st.integers(1, 2))))
        storages += [
            Storage(f"value{number}", draw(st.integers(1, 20)), pageable=draw(st.integers(0, 4)) > 0)
            for number in outputs
        ]
        again = draw(st.integers(0, 4)) > 0
        ops.append(Op(f"op{node}", "made up", tuple(sorted(inputs)), outputs, again=again))
    last = len(storages) - 1
    for weight in range(weights):
        if draw(st.booleans()):
            ops.append(Op(f"update{weight}", "made up", (last,), (), (weight,), again=False, phase="update"))
    if draw(st.booleans()):
        storages[last] = Storage(storages[last].name, storages[last].size_bytes, "output", kept=True)
    return _problem(draw, Graph("random", tuple(ops), tuple(storages)), "real", timed=timed)


def _problem(draw: st.DrawFn, graph: Graph, semantics: Semantics, *, timed: bool) -> Problem:
    """Costs and limits for a graph; three budgets in four lie between what one op needs and what all needs."""
    ops, storages = len(graph.ops), len(graph.storages)

    def column(count: int, scale: float = 1.0) -> tuple[float, ...]:
        values = draw(st.lists(st.sampled_from((5, 1, 2, 9, 3, 0)), min_size=count, max_size=count))
        return tuple(value * scale for value in values)

    costs = Costs(
        time_s=column(ops) if timed else (0.0,) * ops,
        energy_j=column(ops),
        workspace_bytes=tuple(map(int, column(ops))),
        write_s=column(storages, 0.3) if timed else (0.0,) * storages,
        write_j=column(storages, 0.5),
        read_s=column(storages, 0.3) if timed else (0.0,) * storages,
        read_j=column(storages, 0.5),
        idle_w=draw(st.sampled_from((0.0, 0.5))) if timed else 0.0,
    )
    roomy = Problem(graph, costs, Limits(ROOMY), semantics)
    least, most = working_set(roomy).bytes, plain_step(roomy).peak_bytes
    budget_bytes = least + math.floor((most - least) * draw(st.sampled_from((0.5, 0.3, 0.7, 0.9, 0.1, 0.0, 1.0))))
    if draw(st.integers(0, 9)) == 0:
        budget_bytes = draw(st.integers(0, least))
    factor = draw(st.sampled_from((None, 2.0, 1.2, 1.0, 0.9))) if timed else None
    deadline_s = None if factor is None else factor * sum(costs.time_s)
    quota_bytes = draw(st.sampled_from((None, None, most // 3)))
    return Problem(graph, costs, Limits(budget_bytes, deadline_s, quota_bytes), semantics)
