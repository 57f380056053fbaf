# SPDX-License-Identifier: Apache-2.0
"""The picture of `make bench-execute`: each trainer's time against its peak, a panel for each model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

LOOKS = {
    "eager": ("#000000", "*", "eager"),
    "ours": ("#0072B2", "o", "ours (budgets)"),
    "pieces": ("#56B4E9", "o", "ours, operations in pieces"),
    "checkpoint": ("#D55E00", "s", "checkpoint per block"),
    "selective": ("#E69F00", "D", "selective checkpoint"),
    "hooks": ("#009E73", "^", "saved tensors to a file"),
    "memory_budget": ("#CC79A7", "v", "activation_memory_budget"),
}


def picture(path: Path, rows: Mapping[str, Mapping[str, Any]], models: tuple[str, ...]) -> None:
    """Dots with their range over the rounds; hollow ones are not eager's step."""
    figure, panels = plt.subplots(1, len(models), figsize=(4.4 * len(models), 4.4), layout="constrained", squeeze=False)
    for panel, model in zip(panels[0], models, strict=True):
        for row in rows.values():
            if row["model"] != model or "why" in row or row["peak"] is None:
                continue
            look = (
                "pieces" if row["mode"] == "pieces" else "ours" if row["trainer"].startswith("ours") else row["trainer"]
            )
            colour, mark, label = LOOKS[look]
            wall = row["wall"]
            panel.errorbar(
                100 * row["peak"],
                wall["median"],
                [[wall["median"] - wall["least"]], [wall["most"] - wall["median"]]],
                color=colour,
                marker=mark,
                markersize=7,
                markerfacecolor=colour if row["exact"]["bitwise"] else "white",
                linestyle="none",
                elinewidth=0.8,
                label=label,
            )
        panel.set(title=model, xlabel="peak of activations, % of eager's", xlim=(0, None))
        panel.axhline(1.0, color="#999999", linewidth=0.6)
        panel.grid(alpha=0.25, linewidth=0.6)
    panels[0][0].set_ylabel("step, x eager (median and range)")
    drawn = [
        handles_labels for panel in panels[0] for handles_labels in zip(*panel.get_legend_handles_labels(), strict=True)
    ]
    once = {label: handle for handle, label in drawn}
    figure.legend(once.values(), once.keys(), frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    figure.suptitle(
        "Time against memory, one compute thread; hollow: gradients or buffers are not eager's", fontsize=11
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
