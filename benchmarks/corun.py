# SPDX-License-Identifier: Apache-2.0
"""`make bench-corun`: inference beside fine-tuning on this host, after PolyThrottle's protocol, and the predictor.

Blocks that are finished are kept under out/bench/corun by a digest of the code and not played again: run it again to
go on. No block is begun that would not end within `--minutes`; FULL=1 has no limit and plays all. A part, `python -m
benchmarks.corun --models digits_cnn --kinds poisson --arms none,naive,ours`, has its figures in corun-part.json. Exit
status: 0; 1 if a target is missed, or something was left undone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from governor.errors import GovernorError

from . import corun_plot, corun_report
from .corun_blocks import MODELS, Block, Kept, Model, blocks
from .corun_markdown import markdown
from .corun_predictor import judge
from .corun_processes import ProcessFailed
from .corun_runs import run_model
from .corun_traces import KINDS
from .corun_trainers import ARMS, BATCHES

FULL = os.environ.get("FULL") == "1"
OUT = Path("out/bench/corun.json")
PART = Path("out/bench/corun-part.json")
FOLDER = Path("out/bench/corun")
PLOT = Path("docs/corun.png")
MINUTES = 39.0
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
Todo = dict[Model, list[Block]]


def main() -> int:
    """Play, judge, print, write."""
    began_s = time.monotonic()
    args = _arguments()
    kept = Kept(FOLDER)
    todo = {model: list(blocks(model, args.kinds, args.arms)) for model in MODELS if model.name in args.models}
    failures = play(todo, kept, math.inf if FULL else began_s + 60 * args.minutes)
    summary = summarise(todo, kept)
    summary["failures"] += failures
    out = PART if args.part else OUT
    out.write_text(json.dumps(summary, indent=1) + "\n")
    out.with_suffix(".md").write_text(markdown(summary))
    if summary["models"]:
        corun_plot.picture(out.with_suffix(".png") if args.part else PLOT, summary["cells"], list(summary["models"]))
    _say(out.with_suffix(".md").read_text())
    _say(f"{time.monotonic() - began_s:.0f} s -> {out}, as tables {out.with_suffix('.md')}")
    _say("\n".join(f"left out: {text}; run it again" for text in summary["left_out"]))
    undone = summary["left_out"] or summary["failures"]
    missed = not args.part and any(aim["met"] < max(1, aim["of"]) for aim in summary["targets"])
    return 1 if undone or missed else 0


def play(todo: Todo, kept: Kept, until_s: float) -> list[str]:
    """Each model for its share of the time, then all for what is left; what went wrong, a line each."""
    failures = {}
    for shared in (True, False):
        for model, own in todo.items():
            share_s = time.monotonic() + 60 * model.minutes if shared else math.inf
            try:
                run_model(model, own, kept, min(until_s, share_s), _say)
            except (ProcessFailed, GovernorError) as failed:
                failures[model.name] = f"{model.name}: {type(failed).__name__}: {failed}"
                _say(failures[model.name])
    return list(failures.values())


def summarise(todo: Todo, kept: Kept) -> dict[str, Any]:
    """All figures of what is kept."""
    models, rows, predicted, left_out = {}, [], [], []
    for model, own in todo.items():
        found = {block.key: kept.rows(model.name, block) for block in own}
        played = [row for block_rows in found.values() for row in block_rows or ()]
        rows += played
        undone = [key for key, block_rows in found.items() if block_rows is None]
        if undone:
            left_out.append(f"{model.name}: {len(undone)} of {len(own)} blocks ({', '.join(undone[:4])} ...)")
        setup = kept.setup(model.name)
        if setup and played:
            models[model.name] = setup.json() | {"batch": BATCHES[model.name]}
            judged = judge(model.name, (row for row in played if "why" not in row), setup)
            predicted += [judged] if judged else []
    compared = corun_report.compare(corun_report.cells(row for row in rows if "why" not in row))
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {os.getloadavg()[2]:.1f} busy of late",
        "autogroup": AUTOGROUP.read_text().strip() if AUTOGROUP.exists() else None,
        "models": models,
        "cells": [asdict(row) for row in compared],
        "predictor": predicted,
        "targets": [asdict(aim) | {"text": aim.text} for aim in corun_report.targets(compared, predicted)],
        "failures": sorted({f"{row['model']} {row['arm']}: {row['why']}" for row in rows if "why" in row}),
        "left_out": left_out,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corun", description=__doc__)
    known = {"models": [model.name for model in MODELS], "kinds": KINDS, "arms": [arm.name for arm in ARMS]}
    for option, names in known.items():
        parser.add_argument(f"--{option}", type=_list, default=[], help=f"some of {','.join(names)}")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long to play; no limit in FULL=1")
    args = parser.parse_args()
    args.part = any(getattr(args, option) for option in known)
    for option, names in known.items():
        if unknown := set(getattr(args, option)) - set(names):
            parser.error(f"not known: {', '.join(sorted(unknown))}")
        setattr(args, option, getattr(args, option) or list(names))
    return args


def _list(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _say(line: str) -> None:
    if line:
        print(line, flush=True)


if __name__ == "__main__":
    # SIGTERM unwinds like Ctrl-C, so that Triton and the trainers are ended
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
