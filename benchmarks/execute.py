# SPDX-License-Identifier: Apache-2.0
"""`make bench-execute`: training within a memory budget against eager and against torch's own ways, on three models.

`python -m benchmarks.execute --models resnet18 --trainers ours,checkpoint --rounds 2` runs a part (figures then go to
execute-part.json). Finished rows are kept under out/bench/execute and taken up again; after `--minutes` no group of
rows is begun any more, and the summary says what is missing. Exit status: 0; 1 if a target is missed, or something
was left undone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from . import execute_plot, execute_report
from .execute_markdown import markdown
from .execute_runs import TIMES, Job, Kept, environment, run_model
from .trainers.child import TRAINERS

FULL = os.environ.get("FULL") == "1"
OUT = Path("out/bench/execute.json")
PART = Path("out/bench/execute-part.json")
FOLDER = Path("out/bench/execute")
PLOT = Path("docs/executed.png")
MINUTES = 25.0
ROUNDS = 15 if FULL else 3


def main() -> int:
    """Run, print, write."""
    began_s = time.monotonic()
    args = _arguments()
    todo = {model: [Job(model, name) for name in execute_report.trainers(model)] for model in args.models}
    if args.trainers:
        todo = {model: [job for job in jobs if job.trainer in args.trainers] for model, jobs in todo.items()}
    FOLDER.mkdir(parents=True, exist_ok=True)
    kept = Kept(FOLDER)
    work = kept.work()
    until_s = math.inf if FULL else began_s + 60 * args.minutes
    with environment(FOLDER):
        for model, jobs in todo.items():
            run_model(model, jobs, kept, work, args.rounds, until_s, _say)
    rows = execute_report.table(kept.get)
    asked = [key for jobs in todo.values() for job in jobs for key, _ in job.rows]
    left_out = [key for key in asked if key not in rows]
    aims = execute_report.targets(rows)
    summary = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, torch {torch.__version__}, one compute thread",
        "rows": rows,
        "targets": [asdict(aim) | {"text": aim.text} for aim in aims],
        "left_out": left_out,
    }
    out = PART if args.part else OUT
    out.write_text(json.dumps(summary, indent=1) + "\n")
    out.with_suffix(".md").write_text(markdown(summary))
    execute_plot.picture(out.with_suffix(".png") if args.part else PLOT, rows, execute_report.MODELS)
    _say(out.with_suffix(".md").read_text())
    _say(f"{time.monotonic() - began_s:.0f} s -> {out}, as tables {out.with_suffix('.md')}")
    for line in (*(f"left out: {key}; run it again" for key in left_out), *(aim.text for aim in aims)):
        _say(line)
    missed = not args.part and any(aim.met < max(1, aim.of) for aim in aims)
    return 1 if missed or left_out else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.execute", description=__doc__)
    parser.add_argument("--models", type=_list, help=f"some of {','.join(execute_report.MODELS)}")
    parser.add_argument("--trainers", type=_list, help=f"some of {','.join(TRAINERS)}")
    timed = f"steps of each trainer that are timed; {TIMES} times so many where a target is tight"
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=timed)
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="begin nothing after so many; no limit in FULL=1"
    )
    args = parser.parse_args()
    for found, known in ((args.models, execute_report.MODELS), (args.trainers, TRAINERS)):
        if unknown := set(found or ()) - set(known):
            parser.error(f"not known: {', '.join(sorted(unknown))}")
    args.part = bool(args.models or args.trainers)
    args.models = args.models or list(execute_report.MODELS)
    return args


def _list(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
