# SPDX-License-Identifier: Apache-2.0
"""The picture of `make bench-search`: how near each method is after each trial, and how often it broke the limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from .search_methods import METHODS
from .search_replay import TRIALS, Run, at, gap_after, violations
from .tables import Grid

# Okabe and Ito's colours, told apart by all eyes; lines differ too
LOOKS = {
    "ours": ("#0072B2", "-", 2.6),
    "ours_no_prior": ("#56B4E9", "-", 2.0),
    "random": ("#999999", ":", 1.4),
    "tpe": ("#CC79A7", "--", 1.4),
    "two_phase": ("#D55E00", "-.", 1.6),
    "gp": ("#009E73", "--", 1.6),
    "botorch": ("#000000", (0, (5, 1, 1, 1, 1, 1)), 1.4),
    "optuna_gp": ("#E69F00", "-.", 1.4),
}
BAND = ("ours", "ours_no_prior", "two_phase", "gp")
"""Quartiles are drawn for these alone; of eight methods they would hide each other."""
CEILING = 1.0


def picture(path: Path, runs: Mapping[str, Sequence[Run]], grids: Mapping[str, Grid], title: str) -> None:
    """Median gap with quartiles on the left, mean number of violations on the right, over the trials."""
    figure, (near, broken) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    trials = np.arange(1, TRIALS + 1)
    for name, mine in runs.items():
        colour, style, width = LOOKS[name]
        gaps = np.array([[at(row, n) for n in trials] for row in (gap_after(run, grids[run.table]) for run in mine)])
        # a run without a feasible point has no gap: it lies above the picture
        low, middle, high = np.quantile(np.minimum(gaps, 10.0), (0.25, 0.5, 0.75), axis=0)
        label = METHODS[name].label + (f" ({len(mine)} runs)" if METHODS[name].slow else "")
        near.plot(trials, 100 * middle, color=colour, linestyle=style, linewidth=width, label=label)
        if name in BAND:
            near.fill_between(trials, 100 * low, 100 * high, color=colour, alpha=0.12, linewidth=0)
        counts = np.array([_padded(violations(run, grids[run.table])) for run in mine])
        broken.plot(trials, counts.mean(0), color=colour, linestyle=style, linewidth=width, label=label)
    near.axhline(5, color="#444444", linewidth=0.8)
    near.set(xlabel="trials", ylabel="above the optimum, % (median, quartiles)", ylim=(0, 100 * CEILING))
    near.set_yscale("symlog", linthresh=10)
    near.set_yticks((0, 5, 10, 20, 50, 100), ("0", "5", "10", "20", "50", "100"))
    broken.set(xlabel="trials", ylabel="trials beyond the limit so far (mean)", ylim=(0, None))
    for axes in (near, broken):
        axes.set_xlim(1, TRIALS)
        axes.grid(alpha=0.25, linewidth=0.6)
    broken.legend(frameon=False, fontsize=9, loc="upper left")
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _padded(counts: Sequence[int]) -> list[int]:
    """As many as there are trials; a run that ended breaks nothing more."""
    row = list(counts[:TRIALS])
    return row + [row[-1] if row else 0] * (TRIALS - len(row))
