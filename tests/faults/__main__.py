# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.faults`: run the fault suite; `ROW=14` or `--row 14` runs one row, `--thin` a few points of each."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import shutil
import sys
from pathlib import Path

from . import runner
from .record import Row, Tally
from .stage import is_root
from .table import ROWS


def main() -> int:
    """0 if every row passed, 1 if not, 2 if this machine cannot run them."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--row", default=os.environ.get("ROW", ""), help="only these rows, comma-separated")
    parser.add_argument("--report", type=Path, help="default: out/faults.json, or out/faults-thin.json")
    parser.add_argument("--thin", action="store_true", help="every so-many-th point only")
    parser.add_argument("--again", action="store_true", help="run finished rows too")
    parser.add_argument("--one", choices=tuple(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--every", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(ROWS[args.one], args.every, args.answer)
    if not (is_root() and shutil.which("strace")):
        print("the fault suite needs root and strace", file=sys.stderr)
        return 2
    wanted = [name.strip() for name in args.row.split(",") if name.strip()] or list(ROWS)
    if unknown := set(wanted) - set(ROWS):
        print(f"no such row: {', '.join(sorted(unknown))}; known: {', '.join(ROWS)}", file=sys.stderr)
        return 2
    report = args.report or Path("out/faults-thin.json" if args.thin else "out/faults.json")
    if args.again:
        report.unlink(missing_ok=True)
    rows = [ROWS[name] for name in wanted]
    say = functools.partial(print, flush=True)
    if args.thin:
        passed = runner.run(rows, report, every=2, runs=lambda row, _: runner.run_row(row, row.thin), say=say)
    else:
        passed = runner.run(rows, report, say=say)
    return 0 if passed else 1


def one(row: Row, every: int, answer: Path) -> int:
    """Run one row here, and write what it did to `answer`."""
    module, _, function = row.run.partition(":")
    tally = Tally(every)
    getattr(importlib.import_module(f"tests.faults.{module}"), function)(tally)
    answer.write_text(json.dumps(tally.record()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
