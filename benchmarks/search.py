# SPDX-License-Identifier: Apache-2.0
"""`make bench-search DATA=<folder>`: searches replayed on measured tables that are not part of the repository.

`python -m benchmarks.search --methods ours --tables bert --seeds 3` runs a part (figures then go to search-part.json).
Finished runs are kept under out/bench/search and taken up again; after `--minutes` no run is begun any more, and the
summary says what is missing. Exit status: 0; 1 if a target is missed, or something was left undone; 2 without tables.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import search_plot, search_report
from .search_markdown import markdown
from .search_methods import METHODS
from .search_replay import Run
from .search_runs import Job, Kept, jobs, run_all
from .search_suites import Suite, suites

FULL = os.environ.get("FULL") == "1"
OUT = Path("out/bench/search.json")
PART = Path("out/bench/search-part.json")
"""A part's figures; its picture lies beside it."""
RUNS = Path("out/bench/search")
PLOT = Path("docs/search.png")
MINUTES = 25.0
SLOW_SEEDS = 3
YARDSTICK = "orin"


def main() -> int:
    """Run, print, write."""
    began_s = time.monotonic()
    args = _arguments()
    if args.data is None:
        return _refuse("say where the measured tables are: make bench-search DATA=<folder with orin-agx/infer_*.csv>")
    try:
        found, missing = suites(args.data, full=FULL)
    except FileNotFoundError as error:
        return _refuse(f"{error}; without measured tables there is nothing to replay")
    todo = [job for job in jobs(found, args.methods, seeds=args.seeds, slow_seeds=_slow_seeds()) if args.wants(job)]
    kept = Kept(RUNS, {suite.name: suite for suite in found})
    undone = run_all(todo, kept, args.data, math.inf if FULL else 60 * args.minutes, _say)
    results = _results(found, todo, kept, PART.with_suffix(".png") if args.part else PLOT)
    missed = [] if args.part else _missed(results)
    left_out = [
        *missing,
        *([] if FULL else THINNED),
        *(f"{count} runs {what}" for what, count in undone.items() if count),
    ]
    out = PART if args.part else OUT
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results | {"missed": missed, "left_out": left_out}, indent=1) + "\n")
    out.with_suffix(".md").write_text(markdown(results, YARDSTICK))
    _say(f"{time.monotonic() - began_s:.0f} s -> {out}, as tables {out.with_suffix('.md')}")
    for line in (*(f"left out: {what}" for what in left_out), *(f"target missed: {what}" for what in missed)):
        _say(line)
    return 1 if missed or any(undone.values()) else 0


THINNED = (
    "limits of 2 and 8 times the fastest latency (FULL=1)",
    f"seeds beyond {SLOW_SEEDS} of slow peers, and of TX2 and Zeus tables (FULL=1)",
    "TX2: three models with latencies alone, rail power of mixed workloads; Zeus: epochs to a target",
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    data = os.environ.get("DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None, help="default: DATA")
    parser.add_argument("--methods", type=_methods, default=list(METHODS), help=f"some of {','.join(METHODS)}")
    parser.add_argument("--suites", type=_list, help="only these: orin, tx2, zeus-a40 ...")
    parser.add_argument("--tables", type=_list, help="only these")
    parser.add_argument("--seeds", type=int, help="only so many")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="begin no run after so many; no limit in FULL=1")
    args = parser.parse_args()
    args.part = bool(args.suites or args.tables or args.seeds or len(args.methods) < len(METHODS))

    def wants(job: Job) -> bool:
        return (not args.suites or job.suite in args.suites) and (not args.tables or job.table in args.tables)

    args.wants = wants
    return args


def _results(found: Sequence[Suite], todo: Sequence[Job], kept: Kept, plot: Path) -> dict[str, Any]:
    """By suite and limit; printed as it goes, drawn for the yardstick."""
    results: dict[str, Any] = {}
    for suite in found:
        for multiple in suite.multiples:
            runs = _finished(todo, kept, suite, multiple)
            if not runs:
                continue
            figures = search_report.report(suite, runs, multiple)
            results.setdefault(suite.name, {})[f"{multiple:g}x"] = figures
            _say(search_report.text(suite, figures, multiple, brief=suite.name != YARDSTICK) + "\n")
            if suite.name == YARDSTICK and multiple == suite.multiples[0]:
                grids = {name: table.smoothed() for name, table in suite.grids.items()}
                title = f"{len(grids)} AGX Orin tables, 5 knobs, limit {multiple:g} x the fastest latency, smoothed"
                search_plot.picture(plot, runs, grids, title)
    return results


def _finished(todo: Sequence[Job], kept: Kept, suite: Suite, multiple: float) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for job in todo:
        if job.suite == suite.name and job.multiple == multiple:
            run = kept.get(job)
            if run is not None:
                found.setdefault(job.method, []).append(run)
    return found


def _missed(results: Mapping[str, Any]) -> list[str]:
    figures = results.get(YARDSTICK, {}).get(f"{search_report.MULTIPLE:g}x")
    if figures is None:
        return ["nothing was run"]
    return [*search_report.missed(figures), *search_report.wrong_tables(figures)]


def _methods(text: str) -> list[str]:
    names = _list(text)
    if unknown := set(names) - set(METHODS):
        raise argparse.ArgumentTypeError(f"no such method: {', '.join(sorted(unknown))}")
    return names


def _list(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _slow_seeds() -> int:
    return 20 if FULL else SLOW_SEEDS


def _refuse(why: str) -> int:
    print(f"bench-search: {why}", file=sys.stderr)
    return 2


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
