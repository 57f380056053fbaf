# SPDX-License-Identifier: Apache-2.0
"""The demo's two pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from boards.clocks import KNOBS
from governor.trial import Feasible, TrialRecord

from .arms import Window
from .oracle import Figure
from .recorder import Record

KEPT, BROKEN, BASE, TUNED = "#2a7f62", "#c8553d", "#5f6b7a", "#1f5fbf"


def timeline(
    path: Path,
    record: Record,
    trials: Sequence[tuple[float, TrialRecord]],
    slo_s: float,
    rounds: Sequence[tuple[Window, Window]],
) -> None:
    """Power, clocks and latency over the run, with the trials and the final rounds marked."""
    begin_s = record.power[0][0]
    figure, (power, clocks, latency) = plt.subplots(3, 1, figsize=(11, 8), sharex=True, layout="constrained")
    power.plot(*_since(record.power, begin_s), color=BASE, linewidth=0.8)
    power.set_ylabel("power, W (virtual)")
    for knob, label in (("gpu_hz", "GPU"), ("emc_hz", "EMC"), ("cpu_hz", "CPU")):
        column = KNOBS.index(knob)
        points = [(at_s, (values[column] or 0) / 1e6) for at_s, values in record.clocks]
        clocks.step(*_since(points, begin_s), where="post", label=label)
    clocks.set_ylabel("observed clock, MHz")
    clocks.legend(loc="upper right", ncols=3, frameon=False)
    times, values = _since(record.latencies, begin_s)
    latency.scatter(times, [value * 1e3 for value in values], s=3, color=BASE)
    latency.axhline(slo_s * 1e3, color=BROKEN, linewidth=1, label="SLO limit")
    latency.set(ylabel="latency, ms", xlabel="time, s", yscale="log")
    latency.legend(loc="upper right", frameon=False)
    for at_s, trial in trials:
        color = KEPT if isinstance(trial.outcome, Feasible) else BROKEN
        power.axvspan(at_s - trial.window_s - begin_s, at_s - begin_s, color=color, alpha=0.12, linewidth=0)
    for pair in rounds:
        for window, color in zip(pair, (BASE, TUNED), strict=True):
            ends = [window.ticks[0].at_s - begin_s, window.ticks[-1].at_s - begin_s]
            power.axvspan(*ends, color=color, alpha=0.2, linewidth=0)
    power.set_title("trials (green: SLO kept, red: not), then baseline (grey) and tuned (blue) in turn", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def pareto(
    path: Path, trials: Sequence[TrialRecord], summary: dict[str, Any], ceiling: tuple[Figure, Sequence[Figure]]
) -> None:
    """Energy against latency: what is possible by formula, what was tried, and the two arms as measured."""
    figure, axes = plt.subplots(figsize=(8, 5.5), layout="constrained")
    slo_ms = summary["slo_s"] * 1e3
    front = _front(ceiling[1])
    axes.plot(*front, color=BASE, linewidth=1, drawstyle="steps-post", label="frontier by the board's formulas")
    for outcome, color, label in ((True, KEPT, "trial, SLO kept"), (False, BROKEN, "trial, SLO broken")):
        chosen = [t for t in trials if t.energy_j is not None and isinstance(t.outcome, Feasible) is outcome]
        xs, ys = [(t.latency_s or 0) * 1e3 for t in chosen], [t.energy_j or 0 for t in chosen]
        axes.scatter(xs, ys, color=color, s=28, label=label)
    for name, color in (("baseline", BASE), ("tuned", TUNED)):
        arm = summary[name]
        axes.scatter(
            arm["p95_s"] * 1e3, arm["j_per_request"], marker="*", s=220, color=color, label=f"{name}, measured"
        )
    axes.axvline(slo_ms, color=BROKEN, linewidth=1, label="SLO limit")
    axes.set(xlabel=f"p{summary['slo_quantile'] * 100:g} latency, ms", ylabel="J per request (virtual)", xscale="log")
    axes.set_title(f"{summary['model']}, virtual AGX Orin, {summary['offered_rps']:.1f} requests/s", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _since(rows: Sequence[tuple[float, float]], begin_s: float) -> tuple[list[float], list[float]]:
    return [at_s - begin_s for at_s, _ in rows], [value for _, value in rows]


def _front(figures: Sequence[Figure]) -> tuple[list[float], list[float]]:
    xs, ys, best = [], [], float("inf")
    for figure in sorted(figures, key=lambda figure: figure.latency_s):
        if figure.j_per_request < best:
            best = figure.j_per_request
            xs.append(figure.latency_s * 1e3)
            ys.append(best)
    return xs, ys
