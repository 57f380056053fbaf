# SPDX-License-Identifier: Apache-2.0
"""What the runs of `make bench-search` come to: figures per method and table, targets, and the same as text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .search_methods import METHODS
from .search_replay import MARKS, Run, score
from .search_savings import achievable, savings
from .search_suites import Suite
from .tables import Grid

Json = dict[str, Any]
POOLED = "pooled"
MULTIPLE = 4.0
LEAST_TABLES = 2
"""Targets hold over the pooled runs, and on at least so many tables alone."""
STEP_S = 0.3
TARGETS: dict[str, dict[str, float]] = {
    "ours": {"trials_to_5%": 12, "solved_5%": 0.9, "violations_in_15": 1.0, "trials_beyond_1.5x": 0},
    "ours_no_prior": {"trials_to_5%": 16, "violations_in_15": 2.0},
}
AT_LEAST = ("solved_5%",)
KNOWN_SAVINGS = {"bert": 0.204, "lstm": 0.184, "resnet": 0.350}
"""What the optimum saves over maximum clocks at their best batch at four times the fastest latency, as another program
computed it from the same tables: a check of what is filled in and of the limit."""


def report(suite: Suite, runs: Mapping[str, Sequence[Run]], multiple: float) -> Json:
    """Figures of one suite at one limit, in the energies as filled in (`raw`) and smoothed."""
    figures: Json = {}
    for kind, grids in (("raw", suite.grids), ("smoothed", {name: t.smoothed() for name, t in suite.grids.items()})):
        figures[kind] = {
            "methods": {name: _by_table(mine, grids) for name, mine in runs.items() if mine},
            "savings": {name: savings(mine, grids) for name, mine in runs.items() if mine},
            "without_search": {name: achievable(table, table.slo_s(multiple)) for name, table in grids.items()},
        }
    return figures


def _by_table(runs: Sequence[Run], grids: Mapping[str, Grid]) -> Json:
    tables = sorted({run.table for run in runs})
    alone = {name: score([run for run in runs if run.table == name], grids) for name in tables}
    return {POOLED: score(runs, grids), **alone}


def wrong_tables(figures: Json) -> list[str]:
    """Known tables on which the optimum is not what it is known to be."""
    found = figures["raw"]["without_search"]
    return [
        f"{name}: the optimum saves {found[name]['maximum_clocks']['optimum_saves']:.1%}, known to be {known:.1%}"
        for name, known in KNOWN_SAVINGS.items()
        if name in found and abs(found[name]["maximum_clocks"]["optimum_saves"] - known) > 0.0015
    ]


def missed(figures: Json) -> list[str]:
    """The targets of ours that do not hold: pooled, on enough tables alone, and of a step's seconds."""
    lines = []
    for name, targets in TARGETS.items():
        rows = figures["smoothed"]["methods"].get(name)
        if rows is None:
            lines.append(f"{METHODS[name].label}: not run")
            continue
        short = {table: _short(row, targets) for table, row in rows.items()}
        lines += [f"{METHODS[name].label}, pooled: {line}" for line in short.pop(POOLED)]
        met = [table for table, found in short.items() if not found]
        if len(met) < min(LEAST_TABLES, len(short)):
            why = "; ".join(f"{table}: {', '.join(found)}" for table, found in short.items() if found)
            lines.append(f"{METHODS[name].label}, tables alone: {len(met)} of {len(short)} meet all ({why})")
        late_s = rows[POOLED]["late_step_s"]
        if late_s is not None and late_s > STEP_S:
            lines.append(f"{METHODS[name].label}: a step with 25 to 30 trials takes {late_s:.2f} s, at most {STEP_S} s")
    return lines


def _short(row: Json, targets: Mapping[str, float]) -> list[str]:
    lines = []
    for name, target in targets.items():
        value = math.inf if row[name] is None else row[name]
        if (value < target) if name in AT_LEAST else (value > target):
            lines.append(f"{name} {value:.3g}, target {target:g}")
    return lines


def text(suite: Suite, figures: Json, multiple: float, *, brief: bool) -> str:
    """The figures as tables of text; in brief without single tables, presets and smoothing."""
    lines = [f"{suite.name} ({', '.join(suite.grids)}), limit {multiple:g} x the fastest latency"]
    if brief:
        rows = figures["raw"]["without_search"].values()
        saved = statistics.fmean(row["maximum_clocks"]["optimum_saves"] for row in rows)
        lines += [f"  the optimum saves {saved:.1%} over the top limits at their best batch", HEADER]
        return "\n".join(lines + [_line(name, row[POOLED]) for name, row in figures["raw"]["methods"].items()])
    for kind in ("smoothed", "raw"):
        for table in (POOLED, *suite.grids):
            lines += ["", f"  {kind} energies, {table}", HEADER]
            rows = {name: rows[table] for name, rows in figures[kind]["methods"].items() if table in rows}
            lines += [_line(name, row) for name, row in rows.items()]
        lines += ["", f"  {kind} energies, savings of the recommended point (mean; without those beyond the limit)"]
        lines += [
            f"    {'after trials':24}  " + "  ".join(f"{f'{name} {mark}':>18}" for name in OVER for mark in MARKS)
        ]
        lines += [_saved(name, row) for name, row in figures[kind]["savings"].items()]
        lines += [
            "",
            f"  {kind} energies, what the optimum saves over each yardstick (and what that tries, and breaks)",
        ]
        lines += [_without(name, row) for name, row in figures[kind]["without_search"].items()]
    return "\n".join(lines)


OVER = {"max": "maximum_clocks", "preset": "best_preset", "gpu": "gpu_clock_only"}
HEADER = (
    f"    {'':24} runs   to 5 %  solved  to 10 %  solved   gap 10 / 15 / 25 %   beyond in 15 / 30  worst"
    "  > 1.5x  its choice: gap 12 / 15 / 30 %, broken at 30   s/step late (worst)"
)


def _line(name: str, row: Json) -> str:
    near = "  ".join(f"{_trials(row[f'trials_to_{p}']):>7} {row[f'solved_{p}']:>6.0%}" for p in ("5%", "10%"))
    gaps = " / ".join(_percent(row[f"gap_after_{n}"]) for n in (10, 15, 25))
    choice = " / ".join(_percent(row[f"best_gap_at_{n}"]) for n in MARKS)
    seconds = f"{_seconds(row['step_s'])} {_seconds(row['late_step_s'])} ({_seconds(row['slowest_step_s'])})"
    return (
        f"    {METHODS[name].label:24} {row['runs']:4}  {near}   {gaps}   {row['violations_in_15']:5.2f} / "
        f"{row['violations_in_30']:5.2f}      {row['worst_violation']:5.2f}  {row['trials_beyond_1.5x']:5}"
        f"   {choice}, {row['best_beyond_slo_at_30']}   {seconds}"
    )


def _saved(name: str, row: Json) -> str:
    cells = [f"{row.get(key, {}).get(str(mark), math.nan):>18.1%}" for key in OVER.values() for mark in MARKS]
    return f"    {METHODS[name].label:24}  " + "  ".join(cells)


def _without(name: str, row: Json) -> str:
    cells = [
        f"{key} {row[key]['optimum_saves']:6.1%} ({row[key]['trials']} tried, {row[key]['violations']} beyond)"
        for key in OVER.values()
    ]
    return f"    {name:24}  " + "  ".join(cells)


def _trials(value: float | None) -> str:
    return "> 30" if value is None else f"{value:g}"


def _percent(value: float | None) -> str:
    return "   -" if value is None else f"{100 * value:4.1f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
