# SPDX-License-Identifier: Apache-2.0
"""Tables of `make bench-corun`: `python -m benchmarks.corun_markdown docs/benchmarks.md` puts them there."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .documents import publish, table, target_cells

OUT = Path("out/bench/corun.json")
MARK = "bench-corun"
NAMES = {
    "none": "no fine-tuning",
    "naive": "naive, one thread",
    "nice": "nice 19",
    "idle": "SCHED_IDLE",
    "adaptive": "iteration by iteration",
    "ours": "ours",
}
Row = Mapping[str, Any]


def markdown(summary: Row) -> str:
    """Targets, then a table per model, then the predictor's."""
    parts = ["Targets:", table(["", "rows", "target"], [target_cells(aim) for aim in summary["targets"]])]
    for model, setting in summary["models"].items():
        rows = [row for row in summary["cells"] if row["model"] == model]
        parts += [_offered(model, setting), table(_HEAD, [_cells(row) for row in rows])]
    if summary["predictor"]:
        parts += ["The predictor, p99 within the server of 2000 requests a cell:"]
        parts += [table(_PREDICTED_HEAD, [_predicted(row) for row in summary["predictor"]])]
    parts += [f"Failed: {line}" for line in summary["failures"]]
    return "\n\n".join(parts) + "\n"


_HEAD = ["arrivals", "training", "requests", "late, %", "above none, points", "p50 / p99, ms", "p99 ratio"]
_HEAD += ["steps/s", "harvest", "idle"]
_PREDICTED_HEAD = ["model", "MAPE", "between two repeats", "PolyThrottle's linear predictor", "intervals that held"]


def _offered(model: str, setting: Row) -> str:
    within = f"{1e3 * setting['server_slo_s']:.2f} within the server"
    limit = f"limit {1e3 * setting['slo_s']:.2f} ms ({within})"
    return f"`{model}`, {setting['rate_hz']:.1f} requests/s, {limit}, training batch {setting['batch']}:"


def _cells(row: Row) -> list[str]:
    return [
        row["kind"],
        NAMES[row["arm"]],
        str(row["requests"]) + (f" ({row['failed']} failed)" if row["failed"] else ""),
        _spread(row["late_share"], 100, 2),
        _spread(row["over_floor"], 100, 2, sign="+"),
        f"{1e3 * row['p50_s']:.1f} / {1e3 * row['p99_s']:.1f}",
        _spread(row["p99_ratio"], 1, 2),
        f"{row['steps_hz']:.2f}" if row["steps_hz"] else "-",
        _spread(row["harvest_share"], 1, 2),
        f"{row['idle_share']:.2f}",
    ]


def _spread(found: Row | None, scale: float, digits: int, sign: str = "") -> str:
    if found is None:
        return "-"
    value, low, high = (format(scale * found[name], f"{sign}.{digits}f") for name in ("value", "low", "high"))
    return f"{value} [{low}..{high}]"


def _predicted(row: Row) -> list[str]:
    errors = [f"{100 * row[name]:.1f} %" for name in ("mape", "repeat_mape", "nnls_mape")]
    return [row["model"], *errors, f"{100 * row['held_share']:.0f} % of {row['intervals']}"]


def main() -> None:
    """Print the tables of the last run, or put them into the documents named."""
    publish(markdown(json.loads(OUT.read_text())), MARK, sys.argv[1:])


if __name__ == "__main__":
    main()
