# SPDX-License-Identifier: Apache-2.0
"""`make bench-plan DATA=<folder>`: plans for training steps against published planners, known optima and bounds.

`python -m benchmarks.plan --methods ours,fast --names linear` runs a part (figures then go to plan-part.json). Results
are kept under out/bench/plan and taken up again; after `--minutes` nothing is begun any more, and the summary says what
is missing. Exit status: 0; 1 if a target is missed, or something was left undone; 2 without POET's graphs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import plan_captured, plan_instances, plan_plot, plan_report
from .plan_instances import Instance
from .plan_markdown import markdown
from .plan_methods import METHODS
from .plan_runs import Job, Kept, run_all

FULL = os.environ.get("FULL") == "1"
OUT = Path("out/bench/plan.json")
PART = Path("out/bench/plan-part.json")
RUNS = Path("out/bench/plan")
PLOT = Path("docs/deadlines.png")
MINUTES = 27.0
BASELINES = ("keep", "page_everything", "chen_sqrt", "chen_any", "page_greedy", "capuchin", "pofo")
MODES = ("fast", "page", "recompute")
LEFT_OUT = (
    "m0 and a72nocache, and POET's program beyond the 50 % rows (FULL=1)",
    "POET's program beyond 60 s a row; SCIP and Gurobi",
)


def jobs(*, full: bool) -> list[Job]:
    """Everything to do, what the targets need first."""
    grid = plan_instances.grid(full=full)
    pairs: list[tuple[Sequence[str], Sequence[Instance]]] = [
        (("ours",), grid),
        (("fast",), grid),
        (("ours", "fast", *BASELINES), plan_instances.small()),
        (("unhurried", "capuchin", "page_greedy", "pofo"), plan_instances.captured()),
        (("unhurried", "page_greedy"), plan_instances.growing()),
        (("page", "recompute", *BASELINES), grid),
        (MODES, plan_instances.by_deadline()),
        (("fast", *BASELINES), plan_instances.timed()),
        (("versus_pofo",), plan_instances.on_tx2()),
        (("highs", "cbc"), plan_instances.halves(full=full)),
        (("ours", *BASELINES), plan_instances.large()),
    ]
    return list(dict.fromkeys(Job(name, instance) for names, rows in pairs for instance in rows for name in names))


def main() -> int:
    """Run, print, write."""
    began_s = time.monotonic()
    args = _arguments()
    if args.data is None:
        return _refuse("say where POET's graphs are: make bench-plan DATA=<folder with poet-graphs/*.json>")
    missing = [name for name in plan_instances.GRAPHS if not (args.data / "poet-graphs" / f"{name}.json").is_file()]
    if missing:
        return _refuse(f"{args.data / 'poet-graphs'} has no {', '.join(f'{name}.json' for name in missing)}")
    todo = [job for job in jobs(full=FULL) if args.wants(job)]
    for name in sorted({job.instance.name for job in todo if job.instance.suite == "captured"}):
        _say(f"capturing and profiling {name}")
        plan_captured.prepare(name)
    kept = Kept(RUNS, args.data)
    limit_s = math.inf if FULL else max(0.0, 60 * args.minutes - (time.monotonic() - began_s))
    undone = run_all(todo, kept, args.data, limit_s, _say)
    results = _results(todo, kept)
    left_out = [
        *([] if FULL else LEFT_OUT),
        *(f"{count} plans {what}; run it again" for what, count in undone.items() if count),
    ]
    aims = plan_report.targets(results["found"])
    summary = {
        "rows": results["rows"],
        "claims": plan_report.claims(results["found"]),
        "targets": [asdict(aim) | {"text": aim.text} for aim in aims],
        "left_out": left_out,
    }
    out = PART if args.part else OUT
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(summary, indent=1) + "\n")
    out.with_suffix(".md").write_text(markdown(summary))
    deadlines = summary["claims"]["deadlines"]
    if deadlines:
        plan_plot.picture(out.with_suffix(".png") if args.part else PLOT, deadlines)
    _say(out.with_suffix(".md").read_text())
    _say(f"{time.monotonic() - began_s:.0f} s -> {out}, as tables {out.with_suffix('.md')}")
    for line in (*(f"left out: {what}" for what in left_out), *(aim.text for aim in aims)):
        _say(line)
    missed = not args.part and any(aim.met < max(1, aim.of) for aim in aims)
    return 1 if missed or any(undone.values()) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__)
    data = os.environ.get("DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None, help="default: DATA")
    parser.add_argument("--methods", type=_list, help=f"some of {','.join(METHODS)}")
    parser.add_argument("--suites", type=_list, help="some of poet,made,captured")
    parser.add_argument("--names", type=_list, help="only these graphs, kinds or models")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="begin nothing after so many; no limit in FULL=1"
    )
    args = parser.parse_args()
    if unknown := set(args.methods or ()) - set(METHODS):
        parser.error(f"no such method: {', '.join(sorted(unknown))}")
    args.part = bool(args.methods or args.suites or args.names)

    def wants(job: Job) -> bool:
        asked = ((args.methods, job.method), (args.suites, job.instance.suite), (args.names, job.instance.name))
        return all(not some or one in some for some, one in asked)

    args.wants = wants
    return args


def _results(todo: Sequence[Job], kept: Kept) -> dict[str, Any]:
    """By instance and method, as a table and as a look-up."""
    rows: dict[str, dict[str, Any]] = {}
    for job in todo:
        if (row := kept.get(job)) is not None:
            entry = rows.setdefault(job.instance.key, {"instance": asdict(job.instance), "methods": {}})
            entry["methods"][job.method] = row

    def found(method: str, instance: Instance) -> Any:
        return rows.get(instance.key, {}).get("methods", {}).get(method)

    return {"rows": rows, "found": found}


def _list(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _refuse(why: str) -> int:
    print(f"bench-plan: {why}", file=sys.stderr)
    return 2


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
