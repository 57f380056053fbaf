# SPDX-License-Identifier: Apache-2.0
"""The figures of `make bench-search` as the tables of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .search_methods import METHODS
from .search_replay import MARKS, TRIALS
from .search_report import POOLED

Json = Mapping[str, Any]
COLUMNS = (
    "runs",
    "trials to 5 % (solved)",
    "to 10 % (solved)",
    "gap after 10 / 15 / 25, %",
    "beyond the limit in 15 / 30",
    "worst, x limit (trials > 1.5x)",
    "recommended after 12 / 15 / 30, % above (broken)",
    "s per step, late",
)
OURS = ("ours", "ours_no_prior")
YARDSTICKS = {"maximum_clocks": "maximum clocks", "best_preset": "best preset", "gpu_clock_only": "GPU clock and batch"}


def markdown(results: Json, yardstick: str) -> str:
    """Everything that the run found, limit by limit for the yardstick and in brief for the others."""
    parts: list[str] = []
    for limit, figures in results.get(yardstick, {}).items():
        for kind in ("smoothed", "raw"):
            rows = figures[kind]["methods"]
            parts += [f"All tables, limit {limit}, {kind}:", _table("method", _pooled(rows))]
        rows = figures["smoothed"]["methods"]
        alone = {
            f"{table}: {METHODS[name].label}": row
            for name in OURS
            for table, row in rows.get(name, {}).items()
            if table != POOLED
        }
        parts += [f"Ours on each table, limit {limit}, smoothed:", _table("table", alone)]
        for kind in ("smoothed", "raw"):
            parts += [f"Savings, limit {limit}, {kind}:", _savings(figures[kind])]
    rest = {
        f"{suite}: {label}": row
        for suite, limits in results.items()
        if suite != yardstick and isinstance(limits, dict)
        for figures in limits.values()
        for label, row in _pooled(figures["raw"]["methods"]).items()
    }
    return "\n\n".join([*parts, "Elsewhere:", _table("tables: method", rest)]) + "\n"


def _pooled(rows: Json) -> dict[str, Json]:
    return {METHODS[name].label: row[POOLED] for name, row in rows.items()}


def _table(title: str, rows: Mapping[str, Json]) -> str:
    head = [title, *COLUMNS]
    return _join([head, ["---"] * len(head), *([name, *_cells(row)] for name, row in rows.items())])


def _cells(row: Json) -> list[str]:
    choice = " / ".join(_percent(row[f"best_gap_at_{mark}"]) for mark in MARKS)
    late_s = row["late_step_s"] if row["late_step_s"] is not None else row["step_s"]
    return [
        str(row["runs"]),
        *(f"{_trials(row[f'trials_to_{share}'])} ({row[f'solved_{share}']:.0%})" for share in ("5%", "10%")),
        " / ".join(_percent(row[f"gap_after_{trials}"]) for trials in (10, 15, 25)),
        f"{row['violations_in_15']:.2f} / {row['violations_in_30']:.2f}",
        f"{row['worst_violation']:.2f} ({row['trials_beyond_1.5x']})",
        f"{choice} ({row[f'best_beyond_slo_at_{MARKS[-1]}']})",
        "-" if late_s is None else f"{late_s:.2f}",
    ]


def _savings(figures: Json) -> str:
    """Ours after 12, 15 and 30 trials, and the optimum on each table, over each yardstick."""
    head = ["", *(f"over {label}, %" for label in YARDSTICKS.values()), "recommended beyond the limit"]
    rows = [head, ["---"] * len(head)]
    for name in OURS:
        for mark in map(str, MARKS):
            if name in figures["savings"]:
                row = figures["savings"][name]
                saved = [_percent(row.get(key, {}).get(mark)) for key in YARDSTICKS]
                rows.append([f"{METHODS[name].label}, {mark} trials", *saved, str(row["broken"][mark])])
    for table, row in figures["without_search"].items():
        rows.append([f"the optimum, {table}", *(_percent(row[key]["optimum_saves"]) for key in YARDSTICKS), ""])
    return _join(rows)


def _join(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def _trials(value: float | None) -> str:
    return f"> {TRIALS}" if value is None else f"{value:g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
