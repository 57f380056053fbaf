# SPDX-License-Identifier: Apache-2.0
"""out/bench/plan.json as tables; `python -m benchmarks.plan_markdown docs/benchmarks.md` puts them into that file.

In a document they go between two marks, in the place of what stands there; without one they are printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .documents import publish, table, target_cells

OUT = Path("out/bench/plan.json")
MARK = "bench-plan"
Row = Mapping[str, Any]
PEERS = {
    "page": "paging only",
    "recompute": "recompute only",
    "page_greedy": "page greedy",
    "page_everything": "page all",
    "chen_sqrt": "Chen sqrt(n)",
    "chen_any": "Chen, any length",
    "capuchin": "Capuchin",
    "pofo": "rotor/POFO",
    "highs": "POET, HiGHS",
    "cbc": "POET, CBC",
}


def markdown(summary: Row) -> str:
    """Targets, the grid, made-up and captured steps, growth, and the claims."""
    rows = list(summary["rows"].values())
    poet = [row for row in rows if row["instance"]["suite"] == "poet" and row["instance"]["semantics"] == "poet"]
    made = [row for row in rows if row["instance"]["suite"] == "made" and {"ours", "capuchin"} & set(row["methods"])]
    growing = [row for row in rows if "unhurried" in row["methods"] and row["instance"]["suite"] == "made"]
    captured = [row for row in rows if row["instance"]["suite"] == "captured"]
    parts = [
        "Targets:",
        table(["", "rows", "target"], [target_cells(aim) for aim in summary["targets"]]),
        "POET's graphs, POET's rules, deadline 2 x (overhead in %; seconds of CPU):",
        table(
            ["graph", "board", "RAM", "ours (2 s)", "ours, proof", "bound", "gap", "CPU s", "I/O / base"],
            [[*_where(row), *_ours(row)] for row in poet],
        ),
        "The same rows, other planners (overhead in %; - no schedule; * POET's evaluator refuses it):",
        table(["graph", "board", "RAM", *PEERS.values()], [[*_where(row), *_peers(row)] for row in poet]),
        "Made-up steps, POET's rules, deadline 1.3 x:",
        table(
            [
                "step",
                "N",
                "RAM",
                "ours (2 s)",
                "ours, proof",
                "bound",
                "gap",
                "CPU s",
                "I/O / base",
                "Capuchin",
                "rotor/POFO",
            ],
            [
                [
                    row["instance"]["name"],
                    _ops(row),
                    f"{row['instance']['share']:g}",
                    *_ours(row),
                    _cell(row, "capuchin"),
                    _cell(row, "pofo"),
                ]
                for row in made
            ],
        ),
        "CPU seconds of the search over N:",
        _growth(growing, summary["claims"]["growth"]),
        "Captured models, all that lies in RAM counted, transfers take time:",
        table(
            ["model", "N", "RAM", "ours", "seconds", "step time / base", "Capuchin", "page greedy", "rotor/POFO"],
            [_captured(row) for row in captured],
        ),
        *_claims(summary["claims"]),
    ]
    return "\n\n".join(parts) + "\n"


def _where(row: Row) -> list[str]:
    instance = row["instance"]
    return [instance["name"], instance["platform"], f"{instance['share']:g}"]


def _ops(row: Row) -> str:
    return next((str(found["ops"]) for found in row["methods"].values() if "ops" in found), "-")


def _ours(row: Row) -> list[str]:
    proof = row["methods"].get("ours", {})
    if proof.get("status") == "infeasible":
        return [_cell(row, "fast"), "infeasible", "-", "-", f"{proof['cpu_s']:.1f}", "-"]
    gap = "proven" if proof.get("status") == "optimal" else _share(proof.get("gap"))
    seconds, channel = proof.get("cpu_s"), proof.get("channel")
    return [
        _cell(row, "fast"),
        _cell(row, "ours"),
        _percent(proof.get("bound_pct")),
        gap,
        "" if seconds is None else f"{seconds:.1f}",
        "" if channel is None else f"{channel:.3f}",
    ]


def _peers(row: Row) -> list[str]:
    return [_cell(row, name) for name in PEERS]


def _cell(row: Row, method: str) -> str:
    """The overhead; what POET's evaluator refuses is marked."""
    found = row["methods"].get(method)
    if found is None:
        return ""
    mark = "*" if found.get("accepted_by_poet") is False else ""
    return _percent(found.get("overhead_pct")) + mark


def _growth(rows: Sequence[Row], exponents: Mapping[str, float]) -> str:
    cells = []
    for row in rows:
        found = row["methods"]["unhurried"]
        overheads = [_cell(row, "unhurried"), _cell(row, "page_greedy")]
        cells.append([row["instance"]["name"], _ops(row), f"{found['cpu_s']:.2f}", *overheads])
    rows = table(["step", "N", "CPU s", "overhead, %", "page-only greedy, %"], cells)
    fitted = ", ".join(f"{kind} N^{exponent:.2f}" for kind, exponent in exponents.items())
    return f"{rows}\n\nFitted: {fitted}." if fitted else rows


def _captured(row: Row) -> list[str]:
    instance, found = row["instance"], row["methods"].get("unhurried", {})
    seconds, step = found.get("wall_s"), found.get("step_time")
    return [
        instance["name"],
        _ops(row),
        f"{instance['share']:g}",
        _cell(row, "unhurried"),
        "" if seconds is None else f"{seconds:.1f}",
        "" if step is None else f"{step:.3f}",
        *(_cell(row, name) for name in ("capuchin", "page_greedy", "pofo")),
    ]


def _claims(claims: Row) -> list[str]:
    capuchin, pofo = claims["capuchin_on_a72_resnet18"], claims["pofo_on_tx2_resnet18"]
    cells: list[list[str]] = []
    for rules in ("poet_rules", "transfers_take_time"):
        for share, row in capuchin[rules].items():
            figures = [_percent(row.get(name)) for name in ("ours", "fast", "capuchin", "pofo")]
            cells.append([rules.replace("_", " "), share, *figures])
    against = [[share, *(_figure(row, name, show) for name, show in TX2)] for share, row in pofo["here"].items()]
    deadlines = [
        [graph, deadline, *(_percent(row.get(name)) for name in ("fast", "page", "recompute"))]
        for graph, by_deadline in claims["deadlines"].items()
        for deadline, row in by_deadline.items()
    ]
    halved = [
        [name, f"{row['peak_down_by']:.2f}", _percent(row["overhead_pct"])]
        for name, row in claims["peak_memory"]["here"].items()
    ]
    sizes = [
        [kind, *(str(claims["schedule_bytes"][kind][name]) for name in ("least", "median", "most"))]
        for kind in ("packed", "json")
    ]
    return [
        "ResNet-18 on A72, overhead in % (published: Capuchin 73 to 141, POET below 1):",
        table(["", "RAM", "ours, proof", "ours (2 s)", "Capuchin", "rotor/POFO"], cells),
        "ResNet-18 on TX2 (derived rates) against rotor/POFO (published: peak -8.3 %, throughput +13 %):",
        table(
            [
                "RAM",
                "its step time / base",
                "its overhead, %",
                "our peak at its speed",
                "overhead, %",
                "our throughput in its RAM",
                "overhead, %",
            ],
            against,
        ),
        "Peak of activations down by (published: up to 2 x), POET's rules:",
        table(["", "x", "overhead, %"], halved),
        "Overhead in % by deadline, half the peak, a72, transfers take time (docs/deadlines.png):",
        table(["graph", "deadline", "both", "paging only", "recompute only"], deadlines),
        "Bytes of a schedule (published: a few hundred):",
        table(["", "least", "median", "most"], sizes),
    ]


def _signed(value: float) -> str:
    return f"{100 * value:+.1f} %"


TX2: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("their_step_time", "{:.3f}".format),
    ("their_overhead_pct", "{:.2f}".format),
    ("peak_saved", lambda value: _signed(-value)),
    ("overhead_pct_at_smallest", "{:.2f}".format),
    ("throughput_gained", _signed),
    ("overhead_pct_at_quickest", "{:.2f}".format),
)


def _figure(row: Row, name: str, show: Callable[[float], str]) -> str:
    value = row.get(name)
    return "-" if value is None else show(value)


def _percent(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


if __name__ == "__main__":
    publish(markdown(json.loads(OUT.read_text())), MARK, sys.argv[1:])
