# SPDX-License-Identifier: Apache-2.0
"""The picture of `make bench-plan`: energy over the deadline for paging alone, recomputation alone, and both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

LOOKS = {
    "fast": ("#0072B2", "o-", "both"),
    "page": ("#D55E00", "s--", "paging only"),
    "recompute": ("#009E73", "^:", "recomputation only"),
}
WIDE = 20.0
"""Figures that differ by more than that go on a logarithmic scale."""
ABSENT = 0.92
"""Height, in shares of a panel, of the marks of what has no schedule."""


def picture(path: Path, table: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> None:
    """A panel for each graph; a cross at the top where no schedule was found."""
    figure, panels = plt.subplots(1, len(table), figsize=(4.2 * len(table), 4.2), layout="constrained", squeeze=False)
    for panel, (name, rows) in zip(panels[0], table.items(), strict=True):
        deadlines = sorted(rows, key=float)
        for number, (method, (colour, style, label)) in enumerate(LOOKS.items()):
            pairs = [(float(deadline), rows[deadline].get(method)) for deadline in deadlines]
            made = [(deadline, value) for deadline, value in pairs if value is not None]
            panel.plot([x for x, _ in made], [y for _, y in made], style, color=colour, label=label, markersize=6)
            for deadline, value in pairs:
                if value is None:
                    height = ABSENT - 0.05 * number
                    panel.plot(deadline, height, "x", color=colour, transform=panel.get_xaxis_transform())
        values = [value for row in rows.values() for value in row.values() if value]
        if values and max(values) > WIDE * min(values):
            panel.set_yscale("log")
        panel.set(title=name, xlabel="deadline, x base time", xticks=[float(deadline) for deadline in deadlines])
        panel.grid(alpha=0.25, linewidth=0.6)
    panels[0][0].set_ylabel("energy above the unconstrained optimum, %")
    panels[0][-1].legend(frameon=False, fontsize=9)
    figure.suptitle(
        "Half the activation peak, POET's Cortex-A72 costs, transfers take time; x: none found", fontsize=11
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
