# SPDX-License-Identifier: Apache-2.0
"""What the results of `make bench-plan` come to: targets with what was found, and the published claims side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import plan_instances as instances
from .plan_bars import BARS, BERT_S, EXPONENT, FLOOR_S, GAP, INFEASIBLE, PAPER_S, ROUNDED_PCT, SMALL_S
from .plan_instances import Instance
from .targets import Target, count

Row = Mapping[str, Any]
Found = Callable[[str, Instance], Row | None]
"""The result of a method on an instance, if there is one."""


def targets(found: Found) -> list[Target]:
    """All targets, on the rows there are."""
    return [
        _on_bars(found, "ours", "no dearer than the best figure known", _at_most("best_pct")),
        _on_bars(found, "fast", "2 s of search: no dearer than the annealer's 2 s", _at_most("annealer_pct")),
        _proven(found),
        _gaps(found),
        _accepted(found),
        _infeasible(found),
        _small(found),
        _captured(found),
        _growth(found),
        _seconds(found),
    ]


def label(instance: Instance) -> str:
    """A row's name."""
    size = f" {instance.ops}" if instance.ops else ""
    return f"{instance.name}{size} {instance.platform} {instance.share:g}"


def _bars(found: Found, method: str) -> list[tuple[Instance, Any, Row]]:
    rows = []
    for instance in instances.grid(full=False):
        row, bar = found(method, instance), BARS.get((instance.name, instance.platform, instance.share))
        if row is not None and bar is not None:
            rows.append((instance, bar, row))
    return rows


def _at_most(field: str) -> Callable[[Any, Row], bool]:
    return lambda bar, row: row.get("overhead_pct", math.inf) <= getattr(bar, field) + ROUNDED_PCT


def _on_bars(found: Found, method: str, what: str, met: Callable[[Any, Row], bool]) -> Target:
    return count(what, [(label(instance), met(bar, row)) for instance, bar, row in _bars(found, method)])


def _proven(found: Found) -> Target:
    rows = []
    for instance, bar, row in _bars(found, "ours"):
        if bar.proven_cpu_s is not None:
            quick = row["cpu_s"] <= max(FLOOR_S, bar.proven_cpu_s)
            rows.append(
                (f"{label(instance)}: {row['status']} in {row['cpu_s']:.1f} s", row["status"] == "optimal" and quick)
            )
    return count(f"optima known stay proven, in less CPU time (or {FLOOR_S:g} s)", rows)


def _gaps(found: Found) -> Target:
    rows = []
    for instance, _, row in _bars(found, "ours"):
        if instance.platform == "a72":
            gap = row.get("gap", 1.0)
            rows.append((f"{label(instance)}: {gap:.0%}", gap <= GAP))
    return count(f"a72: the proven gap is at most {GAP:.0%} of the overhead", rows)


def _accepted(found: Found) -> Target:
    rows = []
    for method in ("ours", "fast", "page", "recompute"):
        for instance, _, row in _bars(found, method):
            if "overhead_pct" in row:
                rows.append(
                    (f"{method} {label(instance)}", bool(row.get("accepted_by_poet") and row["accepted_by_ours"]))
                )
    return count("POET's evaluator, and ours, accept what is returned", rows)


def _infeasible(found: Found) -> Target:
    rows = []
    for instance in instances.grid(full=False):
        row = found("ours", instance)
        if row is not None and (instance.name, instance.platform, instance.share) in INFEASIBLE:
            rows.append((label(instance), row["status"] == "infeasible" and bool(row["smallest_budget_bytes"])))
    return count("a budget below the working set is infeasible, with the smallest that is not", rows)


def _small(found: Found) -> Target:
    rows = []
    for instance in (*instances.small(), *(i for i in instances.grid(full=False) if i.name == "linear")):
        row = found("ours", instance)
        if row is not None and row["status"] != "infeasible":
            done = row["status"] == "optimal" and row["cpu_s"] <= SMALL_S
            rows.append((f"{label(instance)}: {row['status']} in {row['cpu_s']:.1f} CPU s", done))
    return count(f"N of sixty at most: proven within {SMALL_S:g} s", rows)


def _captured(found: Found) -> Target:
    rows = []
    for instance in instances.captured():
        if instance.name == "bert_base" and (row := found("unhurried", instance)) is not None:
            name = f"{label(instance)}: {row['status']} in {row['cpu_s']:.1f} CPU s"
            rows.append((name, "overhead_pct" in row and row["cpu_s"] <= BERT_S))
    return count(f"BERT-base as captured: planned within {BERT_S:g} s", rows)


def growth(found: Found) -> dict[str, float]:
    """By kind of made-up step, the exponent of CPU seconds over N: least squares between logarithms."""
    exponents = {}
    for kind in ("chain", "residual", "transformer"):
        points = []
        for instance in instances.growing():
            row = found("unhurried", instance) if instance.name == kind else None
            if row is not None and "ops" in row:
                points.append((math.log(row["ops"]), math.log(row["cpu_s"])))
        if len(points) > 2:
            mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
            spread = sum((x - mean_x) ** 2 for x, _ in points)
            exponents[kind] = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return exponents


def _growth(found: Found) -> Target:
    rows = [(f"{kind}: N^{exponent:.2f}", exponent <= EXPONENT) for kind, exponent in growth(found).items()]
    rows += [
        (label(instance), "overhead_pct" in row)
        for instance in instances.growing()
        if (row := found("unhurried", instance)) is not None
    ]
    return count(f"CPU time grows no faster than N^{EXPONENT:g}, and a schedule is found at every N", rows)


def _seconds(found: Found) -> Target:
    every = [*instances.grid(full=False), *instances.small(), *instances.large(), *instances.captured()]
    rows = [(label(i), row["wall_s"] < PAPER_S) for i in every if (row := found("ours", i)) is not None]
    return count(f"a plan and its proof in less than the published {PAPER_S / 60:g} minutes", rows)


def claims(found: Found) -> dict[str, Any]:
    """The published claims beside what both sides come to here."""
    a72 = [i for i in instances.grid(full=False) if (i.name, i.platform) == ("resnet18", "a72")]
    plans = [row for i in instances.grid(full=True) if (row := found("ours", i)) is not None and "packed_bytes" in row]
    times = [row["wall_s"] for row in plans]
    return {
        "capuchin_on_a72_resnet18": {
            "published": {"capuchin_overhead_pct": [73, 141], "poet_overhead_pct": "below 1"},
            "poet_rules": _overheads(found, a72, ("ours", "capuchin")),
            "transfers_take_time": _overheads(found, instances.timed(), ("fast", "capuchin", "pofo")),
        },
        "pofo_on_tx2_resnet18": {
            "published": {"peak_saved": 0.083, "throughput_gained": 0.13},
            "here": {f"{i.share:g}": dict(row) for i in instances.on_tx2() if (row := found("versus_pofo", i))},
        },
        "peak_memory": {"published": "down by up to 2 x", "here": _halved(found)},
        "deadlines": _by_deadline(found),
        "seconds": {"published": PAPER_S, "here": {"median": _median(times), "most": max(times, default=None)}},
        "schedule_bytes": {
            "published": "a few hundred",
            "packed": _spread([row["packed_bytes"] for row in plans]),
            "json": _spread([row["json_bytes"] for row in plans]),
        },
        "growth": growth(found),
    }


def _overheads(found: Found, rows: Sequence[Instance], methods: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Percent by share and method."""
    return {
        f"{i.share:g}": {name: row.get("overhead_pct") for name in methods if (row := found(name, i)) is not None}
        for i in rows
    }


def _halved(found: Found) -> dict[str, dict[str, float]]:
    """At half of the keep-everything peak and below: the least share planned, and what it costs."""
    best: dict[str, dict[str, float]] = {}
    for instance in instances.grid(full=False):
        row = found("ours", instance)
        if row is not None and "overhead_pct" in row and instance.share <= 0.5:
            name = f"{instance.name} {instance.platform}"
            best[name] = {"peak_down_by": 1 / instance.share, "overhead_pct": row["overhead_pct"]}
    return best


def _by_deadline(found: Found) -> dict[str, dict[str, dict[str, float | None]]]:
    """By graph, deadline and what the planner may use: percent of overhead, None where there is no schedule."""
    table: dict[str, dict[str, dict[str, float | None]]] = {}
    for instance in instances.by_deadline():
        for method in ("fast", "page", "recompute"):
            if (row := found(method, instance)) is not None:
                of = table.setdefault(instance.name, {}).setdefault(f"{instance.deadline:g}", {})
                of[method] = row.get("overhead_pct")
    return table


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"least": min(values, default=None), "median": _median(values), "most": max(values, default=None)}
