# SPDX-License-Identifier: Apache-2.0
"""The story of `make demo-finetune` as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from boards.clocks import KNOBS

from .demo_finetune_record import Record
from .demo_finetune_report import Story
from .plots import BASE, BROKEN, KEPT, TUNED

SMOOTH = 10
"""Looks (of 0.1 s) over which the rate of training is averaged."""


def timeline(path: Path, record: Record, story: Story) -> None:
    """Latency, training, clocks and power over the run, with the story's moments."""
    begin_s = record.looks[0].at_s
    times = [look.at_s - begin_s for look in record.looks]
    figure, rows = plt.subplots(4, 1, figsize=(12, 10), sharex=True, layout="constrained")
    latency, training, clocks, power = rows
    ends = [(sample.end_ns / 1e9 - begin_s, sample.latency_s * 1e3) for sample in record.samples]
    latency.scatter(*zip(*ends, strict=True), s=2, color=BASE, linewidths=0)
    latency.axhline(story.slo_s * 1e3, color=BROKEN, linewidth=1, label="SLO limit")
    latency.set(ylabel="latency, ms", yscale="log")
    latency.legend(loc="upper right", frameon=False)
    _training(training, times, record)
    for knob, label in (("gpu_hz", "GPU"), ("emc_hz", "EMC"), ("cpu_hz", "CPU")):
        column = KNOBS.index(knob)
        clocks.step(times, [(look.clocks[column] or 0) / 1e6 for look in record.looks], where="post", label=label)
    clocks.set_ylabel("observed clock, MHz (virtual)")
    clocks.legend(loc="upper right", ncols=3, frameon=False)
    power.plot(times, [look.power_w for look in record.looks], color=BASE, linewidth=0.8)
    power.set(ylabel="power, W (virtual)", xlabel="time, s")
    _accuracy(training, record, story, begin_s)
    _moments(rows, record, story, begin_s)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _training(axes: Any, times: Sequence[float], record: Record) -> None:
    """Share of the time spent training, and what the governor allows."""
    looks = record.looks
    pairs = list(zip(looks, looks[SMOOTH:], strict=False))
    shares = [(b.trained_s - a.trained_s) / (b.at_s - a.at_s) for a, b in pairs]
    axes.fill_between(times[SMOOTH:], [min(1.0, share) for share in shares], color=KEPT, alpha=0.5, label="training")
    limits = [float("nan") if look.duty is None else look.duty for look in looks]
    axes.step(times, limits, where="post", color=BASE, linewidth=0.8, label="allowed")
    axes.set(ylabel="share of the time", ylim=(0, 1.05))


def _accuracy(axes: Any, record: Record, story: Story, begin_s: float) -> None:
    """Accuracy on digits that nobody trained on, as a client of the served version sees it."""
    shifted_s, done_s = story.shifted_s - begin_s, story.done_s - begin_s
    last_s = record.looks[-1].at_s - begin_s
    times = [0.0, shifted_s, shifted_s, done_s, done_s, last_s]
    values = [value for value in (story.accuracy_upright, story.accuracy_before, story.accuracy_after) for _ in "01"]
    axes.plot(times, values, color=TUNED, label="accuracy")
    axes.legend(loc="center left", frameon=False)


def _moments(rows: Sequence[Any], record: Record, story: Story, begin_s: float) -> None:
    """A dotted line for each moment, its name above; grey where nothing trained and the floor was measured."""
    for number, (at_s, text) in enumerate(record.marks):
        for axes in rows:
            axes.axvline(at_s - begin_s, color=BASE, linewidth=0.6, linestyle=":")
        place = (at_s - begin_s, 1.02 + 0.09 * (number % 3))
        rows[0].annotate(text, place, xycoords=("data", "axes fraction"), fontsize=8, color=BASE)
    for first_s, last_s in story.quiet:
        rows[0].axvspan(first_s - begin_s, last_s - begin_s, color=BASE, alpha=0.12, linewidth=0)
