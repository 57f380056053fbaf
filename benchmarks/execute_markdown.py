# SPDX-License-Identifier: Apache-2.0
"""out/bench/execute.json as tables; `python -m benchmarks.execute_markdown docs/benchmarks.md` puts them there."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .documents import publish, table, target_cells

OUT = Path("out/bench/execute.json")
MARK = "bench-execute"
Row = Mapping[str, Any]
PEERS = {
    "eager": "eager, beside itself",
    "ours": "ours, no budget",
    "checkpoint": "checkpoint per block",
    "selective": "selective checkpoint",
    "hooks": "saved tensors to a file",
    "memory_budget": "activation_memory_budget 0.5",
}
MODES = {"": "", "whole": ", whole", "pieces": ", in pieces"}


def markdown(summary: Row) -> str:
    """Targets, then time, peak, exactness, predictions and yields by model."""
    rows = list(summary["rows"].values())
    ours = [row for row in rows if row["trainer"].startswith("ours") and "why" not in row]
    return (
        "\n\n".join(
            [
                "Targets:",
                table(["", "rows", "target"], [target_cells(aim) for aim in summary["targets"]]),
                "Time and peak over eager's (median, range over rounds), and whether the step is eager's bit for bit:",
                table(["model", "trainer", "wall", "CPU", "peak", "exact"], [_compared(row) for row in rows]),
                "What is not eager's, largest absolute differences (gradients also by their norm):",
                table(
                    ["model", "trainer", "loss", "gradients", "relative", "buffers", "random state"],
                    [_apart(row) for row in rows if "why" not in row and not row["exact"]["bitwise"]],
                ),
                "Predicted and measured, operations whole (peak of activations; a step and its ratio to no budget):",
                table(
                    ["model", "trainer", "peak, MB", "measured", "step, s", "measured", "ratio", "measured"],
                    [_predicted(row) for row in ours if row["mode"] == "whole"],
                ),
                "From a request to its yield, ms (p50 / p99 / longest), by two clocks and as observed:",
                table(["model", "trainer", "wall", "own clock", "observed"], [_yields(row) for row in ours]),
            ]
        )
        + "\n"
    )


def _who(row: Row) -> list[str]:
    name = row["trainer"]
    share = f"ours, {name.removeprefix('ours_')} %" if name.startswith("ours_") else PEERS[name]
    return [row["model"], share + MODES[row["mode"]]]


def _compared(row: Row) -> list[str]:
    if "why" in row:
        return [*_who(row), "-", "-", "-", row["why"].splitlines()[0][:120].replace("|", "/")]
    exact = "yes" if row["exact"]["bitwise"] else "**no**"
    peak = "-" if row["peak"] is None else f"{row['peak']:.3f}"
    return [*_who(row), _spread(row["wall"]), _spread(row["cpu"]), peak, exact]


def _spread(found: Row) -> str:
    return f"{found['median']:.3f} [{found['least']:.2f}..{found['most']:.2f}]"


def _apart(row: Row) -> list[str]:
    exact = row["exact"]
    differences = [f"{exact[kind]:.2g}" for kind in ("loss", "gradient", "gradient_relative", "buffer")]
    return [*_who(row), *differences, "eager's" if exact["random_state"] else "another"]


def _predicted(row: Row) -> list[str]:
    told = row["told"]
    return [
        *_who(row),
        f"{told['predicted_peak_bytes'] / 1e6:.1f}",
        f"{row['peak_bytes'] / 1e6:.1f}",
        f"{told['predicted_step_s']:.3f}",
        f"{row['wall_s']:.3f}",
        f"{row['predicted_ratio']:.3f}",
        f"{row['wall']['median']:.3f}",
    ]


def _yields(row: Row) -> list[str]:
    found = row["yields"]
    return [*_who(row), *(_ms(found[kind]) for kind in ("wall", "own", "observed"))]


def _ms(found: Row) -> str:
    if "max_s" not in found:
        return "-"
    figures = " / ".join(f"{1e3 * found[name]:.1f}" for name in ("p50_s", "p99_s", "max_s"))
    return figures + (f" ({found['requests']})" if "requests" in found else "")


if __name__ == "__main__":
    publish(markdown(json.loads(OUT.read_text())), MARK, sys.argv[1:])
