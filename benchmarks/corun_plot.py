# SPDX-License-Identifier: Apache-2.0
"""The picture of `make bench-corun`: late requests against training steps, a panel for each model and kind of trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .corun_markdown import NAMES
from .corun_traces import KINDS

LOOKS = {
    "none": ("#000000", "*"),
    "naive": ("#D55E00", "s"),
    "nice": ("#E69F00", "D"),
    "idle": ("#009E73", "^"),
    "adaptive": ("#CC79A7", "v"),
    "ours": ("#0072B2", "o"),
}


def picture(path: Path, cells: Sequence[Mapping[str, Any]], models: Sequence[str]) -> None:
    """Down and to the right is better; bars are 95 % intervals."""
    size = (4 * len(KINDS), 3.2 * len(models) + 0.6)
    figure, panels = plt.subplots(len(models), len(KINDS), figsize=size, layout="constrained", squeeze=False)
    for line, model in zip(panels, models, strict=True):
        for panel, kind in zip(line, KINDS, strict=True):
            for row in cells:
                if (row["model"], row["kind"]) == (model, kind):
                    _dot(panel, row)
            panel.set_title(f"{model}, {kind}", fontsize=10)
            panel.grid(alpha=0.25, linewidth=0.6)
            panel.set(ylim=(0, None))
        line[0].set_ylabel("late requests, %")
    for panel in panels[-1]:
        panel.set_xlabel("training steps, share of naive's")
    drawn = [pair for panel in panels.flat for pair in zip(*panel.get_legend_handles_labels(), strict=True)]
    once = {label: handle for handle, label in drawn}
    figure.legend(once.values(), once.keys(), frameon=False, fontsize=8, loc="outside lower center", ncols=len(LOOKS))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _dot(panel: Axes, row: Mapping[str, Any]) -> None:
    colour, mark = LOOKS[row["arm"]]
    late, harvest = row["late_share"], row["harvest_share"]
    panel.errorbar(
        harvest["value"] if harvest else 0.0,
        100 * late["value"],
        [[100 * (late["value"] - late["low"])], [100 * (late["high"] - late["value"])]],
        color=colour,
        marker=mark,
        markersize=7,
        linestyle="none",
        elinewidth=0.8,
        label=NAMES[row["arm"]],
    )
