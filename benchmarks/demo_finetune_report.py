# SPDX-License-Identifier: Apache-2.0
"""What `make demo-finetune` claims: its summary from what was seen, and the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from governor.load import LoadReport

from .demo_finetune_record import Record, Span, idle_share, span


@dataclass(slots=True)
class Story:
    """What happened, in SI units; moments are CLOCK_MONOTONIC seconds."""

    model: str = ""
    rate_hz: float = 0.0
    quantile: float = 0.0
    slo_s: float = 0.0
    baseline_j: float = 0.0
    """Joules per request at maximum clocks, without training."""
    accuracy_upright: float = 0.0
    accuracy_before: float = 0.0
    accuracy_after: float = 0.0
    tuned_s: float = 0.0
    shifted_s: float = 0.0
    asked_s: float = 0.0
    done_s: float = 0.0
    returned_s: float = 0.0
    tuned_point: Mapping[str, float] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)
    """The job's last state, as Triton tells it."""
    quiet: list[tuple[float, float]] = field(default_factory=list)
    """Spans at the tuned point without training."""
    loads: list[LoadReport] = field(default_factory=list)


def trained(record: Record, story: Story) -> tuple[float, float]:
    """From the first look at which training had begun to that of its last step; `ValueError` if there was no step."""
    looks = [look for look in record.looks if story.asked_s <= look.at_s <= story.done_s]
    last = max((look.steps for look in looks), default=0)
    if last == 0:
        raise ValueError("no training step was seen")
    begin_s = max(look.at_s for look in looks if look.steps == 0 or look is looks[0])
    return begin_s, min(look.at_s for look in looks if look.steps == last)


def summarise_run(story: Story, record: Record) -> dict[str, Any]:
    """Everything that `summary.json` says; SI units. Joules and clocks are those of a virtual board."""
    limit_s = story.slo_s
    floor = span(record, story.quiet, limit_s)
    life = span(record, [(story.asked_s, story.done_s)], limit_s)
    worked = trained(record, story)
    training = span(record, [worked], limit_s)
    return {
        "board": "virtual:agx-orin",
        "virtual": True,
        "model": story.model,
        "offered_rps": story.rate_hz,
        "slo_s": limit_s,
        "slo_quantile": story.quantile,
        "accuracy_upright": story.accuracy_upright,
        "accuracy_before": story.accuracy_before,
        "accuracy_after": story.accuracy_after,
        "slo_violation_share": life.violation_share,
        "floor_violation_share": floor.violation_share,
        "latency_s": latencies(life),
        "floor_latency_s": latencies(floor),
        "requests": sum(load.requests for load in story.loads),
        "failed_requests": sum(load.failed for load in story.loads),
        "train_steps": training.steps,
        "train_s": training.seconds,
        "harvest_share": training.trained_s / training.seconds,
        "idle_share": idle_share(record, *worked),
        "budget_bytes": story.job["budget_bytes"],
        "peak_bytes": story.job["peak_bytes"],
        "j_per_request": floor.energy_j / floor.requests,
        "baseline_j_per_request": story.baseline_j,
        "j_per_train_step": (training.energy_j - floor.power_w * training.seconds) / training.steps,
        "version": story.job["version"],
        "job": {key: story.job[key] for key in ("state", "reason", "step", "steps", "step_s", "longest_s", "waited_s")},
        "points": points(record, story),
        "unread_samples": record.lost,
    }


def latencies(found: Span) -> dict[str, float]:
    """The quantiles of a span, in seconds, and how many requests they are of."""
    return {"p50": found.p50_s, "p95": found.p95_s, "p99": found.p99_s, "requests": found.requests}


def points(record: Record, story: Story) -> list[dict[str, Any]]:
    """The points held from the tuned one on: when (seconds after it was reached), why, clocks and batch limit."""
    held: list[dict[str, Any]] = []
    for at_s, standing in record.standings:
        if at_s < story.tuned_s or not standing["point"]:
            continue
        phase = (standing.get("training") or {}).get("phase") or standing["phase"]
        if not held or held[-1]["point"] != standing["point"]:
            held.append({"at_s": at_s - story.tuned_s, "training": phase, "point": standing["point"]})
    return held


def show(summary: Mapping[str, Any]) -> None:
    """The table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{summary['model']} on a virtual AGX Orin, {summary['offered_rps']:.0f} requests/s")
    for column in ("", "requests", "beyond the SLO", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(column, justify="right" if column else "left")
    for name, share, found in (
        ("serving alone", "floor_violation_share", summary["floor_latency_s"]),
        ("with the job", "slo_violation_share", summary["latency_s"]),
    ):
        quantiles = [f"{found[key] * 1e3:.1f}" for key in ("p50", "p95", "p99")]
        table.add_row(name, str(found["requests"]), f"{summary[share]:.2%}", *quantiles)
    Console().print(table)
    print(
        f"accuracy {summary['accuracy_upright']:.1%} upright, {summary['accuracy_before']:.1%} when turned, "
        f"{summary['accuracy_after']:.1%} by version {summary['version']}\n"
        f"{summary['train_steps']} steps in {summary['train_s']:.0f} s, {summary['harvest_share']:.0%} of it spent "
        f"training ({summary['idle_share']:.0%} was free of requests), "
        f"{summary['peak_bytes'] / 1e6:.2f} of at most {summary['budget_bytes'] / 1e6:.2f} MB\n"
        f"SLO p{summary['slo_quantile'] * 100:g} <= {summary['slo_s'] * 1e3:.1f} ms; "
        f"{summary['failed_requests']} of {summary['requests']} requests failed\n"
        f"{summary['j_per_request']:.3f} J per request ({summary['baseline_j_per_request']:.3f} at maximum clocks), "
        f"{summary['j_per_train_step']:.3f} J per training step on top\n"
        "Energy and clocks are those of a virtual board."
    )
