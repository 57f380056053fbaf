# SPDX-License-Identifier: Apache-2.0
"""POET's training graphs as JSON files: nodes in a fixed order, the bytes of their outputs, and costs by platform.

One node is one op with one output. Costs are POET's: hand-counted flop over a platform's rate, and latency plus bytes
over bandwidth times the storage's power [Patil et al., ICML 2022, and the published definitions]; nothing was timed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GraphInvalid
from ..graph import Graph, Op, Phase, Storage
from ..problem import Costs, Limits, Problem, Semantics
from .platforms import load_platform


@dataclass(frozen=True)
class PoetGraph:
    """A graph file, checked. `edges` as they stand there, repetitions included: POET frees a repeated source twice."""

    name: str
    edges: tuple[tuple[int, int], ...]
    nodes: tuple[str, ...]
    backward: frozenset[int]
    sizes_bytes: tuple[int, ...]
    weights_bytes: int
    costs: Mapping[str, Costs]
    flops: tuple[float, ...] | None
    """Operations of each node, where a platform of the file gives its rate."""

    @property
    def activation_peak_bytes(self) -> int:
        """Most bytes of outputs at a time when each is held until its last use."""
        last = list(range(len(self.nodes)))
        for source, target in self.edges:
            last[source] = max(last[source], target)
        freed = [0] * len(self.nodes)
        held = peak = 0
        for node, size in enumerate(self.sizes_bytes):
            held += size
            peak = max(peak, held)
            freed[last[node]] += size
            held -= freed[node]
        return peak

    def costs_on(self, platform: str) -> Costs:
        """The file's own costs, or those of a shipped platform; raises `GraphInvalid` if neither is known."""
        if platform in self.costs:
            return self.costs[platform]
        if self.flops is None:
            raise GraphInvalid("platforms", f"{platform} is not among {', '.join(self.costs)}, and no rate is given")
        return load_platform(platform).costs(self.flops, self.sizes_bytes)

    def graph(self, semantics: Semantics) -> Graph:
        """One op and one storage per node; under `real` also the weights and gradients that POET does not count."""
        inputs: list[set[int]] = [set() for _ in self.nodes]
        for source, target in self.edges:
            inputs[target].add(source)
        ops = tuple(
            Op(name, "poet", tuple(sorted(inputs[node])), (node,), phase=self._phase(node))
            for node, name in enumerate(self.nodes)
        )
        storages = [Storage(name, size) for name, size in zip(self.nodes, self.sizes_bytes, strict=True)]
        if semantics == "real":
            storages.append(Storage("weights", self.weights_bytes, "parameter", pageable=False))
            storages.append(Storage("gradients", self.weights_bytes, "gradient", pageable=False))
        return Graph(self.name, ops, tuple(storages))

    def _phase(self, node: int) -> Phase:
        return "backward" if node in self.backward else "forward"

    def problem(
        self,
        platform: str,
        budget_bytes: int,
        deadline_s: float | None = None,
        *,
        semantics: Semantics = "poet",
        quota_bytes: int | None = None,
    ) -> Problem:
        """What a planner is asked."""
        graph, costs = self.graph(semantics), self.costs_on(platform)
        more = (0.0,) * (len(graph.storages) - len(self.nodes))
        columns = (costs.write_s, costs.write_j, costs.read_s, costs.read_j)
        write_s, write_j, read_s, read_j = (column + more for column in columns)
        whole = Costs(
            costs.time_s, costs.energy_j, costs.workspace_bytes, write_s, write_j, read_s, read_j, costs.idle_w
        )
        return Problem(graph, whole, Limits(budget_bytes, deadline_s, quota_bytes), semantics)


def load_graph(path: Path) -> PoetGraph:
    """Read a graph file; raises `GraphInvalid` naming what is wrong, `OSError` if it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise GraphInvalid(str(path), f"is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise GraphInvalid(str(path), "is not a JSON object")
    return parse_graph(found)


def parse_graph(found: Mapping[str, Any]) -> PoetGraph:
    """The graph of a file's content; raises `GraphInvalid`."""
    sizes = _sizes(found.get("cost_ram"))
    count = len(sizes)
    if found.get("N", count) != count:
        raise GraphInvalid("N", f"is {found['N']} for {count} values of cost_ram")
    nodes = found.get("nodes", [f"node{number}" for number in range(count)])
    if not isinstance(nodes, list) or len(nodes) != count:
        raise GraphInvalid("nodes", f"must be {count} names")
    edges = _edges(found.get("edges"), count)
    _check_connected(edges, nodes)
    platforms = found.get("platforms", {})
    if not isinstance(platforms, dict):
        raise GraphInvalid("platforms", "must be an object by platform")
    return PoetGraph(
        name=str(found.get("model", "graph")),
        edges=edges,
        nodes=tuple(map(str, nodes)),
        backward=frozenset(int(_number("backward", node)) for node in found.get("backward", ())),
        sizes_bytes=sizes,
        weights_bytes=int(_number("params_bytes", found.get("params_bytes", 0))),
        costs={name: _costs(f"platforms.{name}", costs, sizes) for name, costs in platforms.items()},
        flops=next((flops for costs in platforms.values() if (flops := _flops(costs))), None),
    )


def _number(where: str, value: object) -> float:
    """A finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise GraphInvalid(where, f"must be finite and not negative, got {value!r}")
    return value


def _sizes(found: object) -> tuple[int, ...]:
    if not isinstance(found, list) or not found:
        raise GraphInvalid("cost_ram", "must be the bytes of each node's output")
    sizes = [_number(f"cost_ram[{number}]", value) for number, value in enumerate(found)]
    return tuple(math.ceil(size) for size in sizes)


def _edges(found: object, count: int) -> tuple[tuple[int, int], ...]:
    if not isinstance(found, list):
        raise GraphInvalid("edges", "must be a list of [from, to]")
    edges = []
    for number, edge in enumerate(found):
        match edge:
            case [int(source), int(target)] if 0 <= source < count and 0 <= target < count:
                edges.append((source, target))
            case _:
                raise GraphInvalid(f"edges[{number}]", f"must be two of {count} nodes, got {edge!r}")
    backward = [(source, target) for source, target in edges if source >= target]
    if backward:
        source, target = backward[0]
        cyclic = source in _reached(edges, target)
        why = "closes a cycle" if cyclic else "goes backward: number the nodes in an order in which they can run"
        raise GraphInvalid(f"edge [{source}, {target}]", why)
    return tuple(edges)


def _reached(edges: Iterable[tuple[int, int]], start: int) -> set[int]:
    """The nodes that paths from `start` lead to, itself included."""
    after: dict[int, list[int]] = {}
    for source, target in edges:
        after.setdefault(source, []).append(target)
    seen, open_ends = {start}, [start]
    while open_ends:
        for target in after.get(open_ends.pop(), ()):
            if target not in seen:
                seen.add(target)
                open_ends.append(target)
    return seen


def _check_connected(edges: Sequence[tuple[int, int]], nodes: Sequence[object]) -> None:
    reached = _reached([*edges, *((target, source) for source, target in edges)], 0)
    for node, name in enumerate(nodes):
        if node not in reached:
            raise GraphInvalid(str(name), f"(node {node}) is not connected with {nodes[0]}")


def _costs(where: str, found: object, sizes: Sequence[int]) -> Costs:
    if not isinstance(found, dict):
        raise GraphInvalid(where, "must be an object")
    power_w = _power_w(where, found.get("chip"))
    read_j = _column(where, "energy_pagein_J", found, len(sizes))
    write_j = _column(where, "energy_pageout_J", found, len(sizes))
    return Costs(
        time_s=_column(where, "cost_cpu_s", found, len(sizes)),
        energy_j=_column(where, "energy_compute_J", found, len(sizes)),
        workspace_bytes=(0,) * len(sizes),
        write_s=tuple(value / power_w for value in write_j),
        write_j=write_j,
        read_s=tuple(value / power_w for value in read_j),
        read_j=read_j,
    )


def _column(where: str, name: str, found: Mapping[str, Any], count: int) -> tuple[float, ...]:
    column = found.get(name)
    if not isinstance(column, list) or len(column) != count:
        raise GraphInvalid(f"{where}.{name}", f"must be {count} numbers")
    return tuple(_number(f"{where}.{name}[{number}]", value) for number, value in enumerate(column))


def _power_w(where: str, chip: object) -> float:
    """Watts of the storage; raises `GraphInvalid` for one that moves nothing."""
    if not isinstance(chip, dict):
        raise GraphInvalid(f"{where}.chip", "must be an object")
    for name in ("PAGEIN_THROUGHPUT", "PAGEOUT_THROUGHPUT", "MEMORY_POWER"):
        if not _number(f"{where}.chip.{name}", chip.get(name)) > 0:
            raise GraphInvalid(f"{where}.chip.{name}", "must be above zero: nothing could be paged")
    return float(chip["MEMORY_POWER"])


def _flops(platform: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Operations of each node, from seconds and rate; None where the rate is not given."""
    rate = platform["chip"].get("FLOPS")
    if rate is None:
        return None
    per_s = _number("chip.FLOPS", rate)
    return tuple(seconds * per_s for seconds in platform["cost_cpu_s"])
