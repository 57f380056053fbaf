# SPDX-License-Identifier: Apache-2.0
"""What a planner is asked: a graph, what each operation and each transfer costs, and the limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import GraphInvalid
from .graph import Graph

Semantics = Literal["poet", "real"]
"""`poet`: the published rules, where paging takes no time. `real`: one storage channel beside the processor."""

Only = Literal["both", "page", "recompute"]
"""What a planner may use to save memory."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds, joules and workspace of each op; seconds and joules to write and to read each storage.

    `idle_w`: what the board draws while the processor waits; an op's joules hold everything drawn while it runs.
    """

    time_s: tuple[float, ...]
    energy_j: tuple[float, ...]
    workspace_bytes: tuple[int, ...]
    write_s: tuple[float, ...]
    write_j: tuple[float, ...]
    read_s: tuple[float, ...]
    read_j: tuple[float, ...]
    idle_w: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """RAM at every instant, seconds of the step, and bytes on storage; None is no limit."""

    budget_bytes: int
    deadline_s: float | None = None
    quota_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One step to plan. Raises `GraphInvalid` for costs that are negative, not finite or not as many as they should."""

    graph: Graph
    costs: Costs
    limits: Limits
    semantics: Semantics = "real"

    def __post_init__(self) -> None:
        ops, storages = len(self.graph.ops), len(self.graph.storages)
        costs = self.costs
        for name, column, length in (
            ("time_s", costs.time_s, ops),
            ("energy_j", costs.energy_j, ops),
            ("workspace_bytes", costs.workspace_bytes, ops),
            ("write_s", costs.write_s, storages),
            ("write_j", costs.write_j, storages),
            ("read_s", costs.read_s, storages),
            ("read_j", costs.read_j, storages),
            ("idle_w", (costs.idle_w,), 1),
        ):
            _check(name, column, length)

    @property
    def base_energy_j(self) -> float:
        """Joules when every op runs once and nothing is paged: what no schedule can undercut."""
        return math.fsum(self.costs.energy_j)

    @property
    def base_time_s(self) -> float:
        """Seconds of the same."""
        return math.fsum(self.costs.time_s)


def _check(name: str, column: Sequence[float], length: int) -> None:
    if len(column) != length:
        raise GraphInvalid(name, f"has {len(column)} values for {length}")
    for number, value in enumerate(column):
        if not (math.isfinite(value) and value >= 0):
            raise GraphInvalid(f"{name}[{number}]", f"must be finite and not negative, got {value}")
