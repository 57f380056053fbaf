# SPDX-License-Identifier: Apache-2.0
"""`teg plan`: the training step of a model within so much RAM and time, at least energy."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import DONE, NO, USAGE

if TYPE_CHECKING:
    from finetune.plan import Plan
    from finetune.problem import Problem

PLOTS = "--plot needs matplotlib: pip install 'triton-energy-governor[report]'"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "plan",
        help="schedule a training step for least energy within a memory budget",
        description="Plan which results of a training step to keep in RAM, to compute again, or to page, at least "
        "energy within a budget, and say how far from the least it is at most. Exit code 1: no such plan.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", metavar="NAME|MODULE:FACTORY", help="a served model, or a factory of your own")
    what.add_argument("--graph", type=Path, metavar="FILE.json", help="a graph file in POET's format")
    parser.add_argument("--batch", type=_samples, default=8, metavar="N", help="samples a step (default: 8)")
    parser.add_argument(
        "--optimizer", choices=("none", "sgd", "momentum", "adam"), default="sgd", help="in the step (default: sgd)"
    )
    parser.add_argument(
        "--budget", required=True, metavar="BYTES|SHARE%", help="RAM of the whole step, or a share of its activations"
    )
    parser.add_argument("--deadline", metavar="SECONDS|MULTIPLEx", help="default: 2x under poet, none under real")
    parser.add_argument("--quota", metavar="BYTES", help="most bytes on storage (default: no limit)")
    parser.add_argument(
        "--platform",
        metavar="NAME|FILE",
        help="a platform of the graph file, a shipped one, or a profile; default for --model: profile this machine",
    )
    parser.add_argument(
        "--page-dir", type=Path, default=Path(), metavar="DIR", help="where pages will lie, to be measured (default: .)"
    )
    parser.add_argument("--save-profile", type=Path, metavar="FILE", help="keep the profile measured here")
    parser.add_argument("--semantics", choices=("poet", "real"), help="default: real for --model, poet for --graph")
    parser.add_argument("--only", choices=("both", "page", "recompute"), default="both", help="what may be used")
    parser.add_argument("--seed", type=_count, default=0, metavar="N", help="of the search (default: 0)")
    parser.add_argument("--effort", type=_seconds, metavar="S", help="of the proof, in the solvers' own seconds")
    parser.add_argument("--time-limit", type=_seconds, metavar="S", help="cut planning after so many seconds")
    parser.add_argument("--out", type=Path, metavar="plan.json", help="write the plan")
    parser.add_argument("--plot", type=Path, metavar="plan.png", help="draw the plan")
    parser.add_argument("--json", action="store_true", help="print the plan as one JSON object")
    parser.set_defaults(handler=handler)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _samples(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError("a step needs a sample")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from error
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def handler(args: argparse.Namespace) -> int:
    """Plan; 1 if there is no plan or what is to be planned is not sound, 2 if a file or a flag cannot be used."""
    from finetune.errors import FinetuneError, SolverMissing
    from model_repository.architectures import UnknownArchitecture

    try:
        return _plan(args)
    except (SolverMissing, UnknownArchitecture) as error:
        print(f"teg plan: {error}", file=sys.stderr)
        return USAGE
    except FinetuneError as error:
        print(f"teg plan: {error}", file=sys.stderr)
        return NO
    except (OSError, ValueError) as error:
        print(f"teg plan: {error}", file=sys.stderr)
        return USAGE


def _plan(args: argparse.Namespace) -> int:
    from finetune.plan import plan
    from finetune.plan_file import to_json, write_plan

    from .plan_subject import subject_of
    from .plan_text import PlanProgress, render

    subject = subject_of(args)
    problem = subject.problem
    with PlanProgress(problem, quiet=args.json) as progress:
        found = plan(
            problem,
            seed=args.seed,
            effort=args.effort,
            only=args.only,
            wall_s=args.time_limit,
            platform=subject.platform,
            costs_from=subject.costs_from,
            progress=progress.update,
        )
    if args.out:
        write_plan(args.out, found)
    if args.plot and found.schedule and not _draw(args.plot, problem, found):
        return USAGE
    print(json.dumps(to_json(found)) if args.json else render(problem, found))
    return DONE if found.schedule else NO


def _draw(path: Path, problem: Problem, found: Plan) -> bool:
    """Draw the plan; False without matplotlib."""
    try:
        from finetune.plot import draw
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        print(f"teg plan: {PLOTS}", file=sys.stderr)
        return False
    draw(path, problem, found)
    return True
