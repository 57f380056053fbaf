# SPDX-License-Identifier: Apache-2.0
"""`teg finetune`: jobs that train served models on stored samples, in the gaps that inference leaves."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import DONE, NO, USAGE
from .finetune_worker import add_worker

if TYPE_CHECKING:
    from telemetry.jobs import JobStatus
    from telemetry.spool import Spool

POLL_S = 0.5

_FLAGS: tuple[tuple[str, str, Callable[[str], Any], str], ...] = (
    ("--epochs", "epochs", int, "times over the samples, at most (default: 4)"),
    ("--batch", "batch", int, "samples a step (default: 16)"),
    ("--learning-rate", "learning_rate", float, "(default: 0.001)"),
    ("--deadline-s", "deadline_s", float, "seconds from now; time in which the machine is off does not count"),
    ("--validation-share", "validation_share", float, "share of the samples held out (default: 0.2)"),
    ("--patience", "patience", int, "stop after so many epochs without a better one; 0: never (default: 3)"),
    ("--margin", "margin", float, "accuracy that may be lost against the serving version (default: 0)"),
    ("--seed", "seed", int, "of the split, the order and dropout (default: 0)"),
)
_CONDITIONS: tuple[tuple[str, str, Callable[[str], Any], str], ...] = (
    ("--only-idle-s", "only_idle_s", float, "train when no request came for so many seconds"),
    ("--below-celsius", "below_celsius", float, "train while no zone of the board is hotter"),
    ("--window", "window", str, "train between two local times: 22:00-06:00"),
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verbs."""
    parser = subparsers.add_parser(
        "finetune",
        help="train served models on stored samples, in the gaps",
        description="Jobs wait in a spool. `teg finetune worker` trains one after another on the samples that the "
        "model `finetune` has stored, out of inference's way, and has what came of it served as the next version.",
    )
    verbs = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    _add_submit(verbs)
    status = verbs.add_parser("status", help="how jobs stand", description="All jobs, or one.")
    status.add_argument("job", nargs="?", metavar="ID")
    status.set_defaults(handler=status_handler)
    cancel = verbs.add_parser("cancel", help="end a job", description="End a job; exit code 1 if it has ended already.")
    cancel.add_argument("job", metavar="ID")
    cancel.set_defaults(handler=cancel_handler)
    forget = verbs.add_parser(
        "forget",
        help="erase the samples of a model",
        description="Erase all stored samples of a model, end its jobs, and erase what they hold of them. What was "
        "published stays. Exit code 1 if there was nothing.",
    )
    forget.add_argument("--model", required=True, metavar="NAME")
    forget.set_defaults(handler=forget_handler)
    for verb in (status, cancel, forget):
        _add_common(verb)
    add_worker(verbs)


def _add_submit(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    submit = verbs.add_parser(
        "submit",
        help="queue a job",
        description="Queue a job and print its id. Exit codes: 1 if the queue is full, or with --wait if the job does "
        "not end as done; 2 if the request cannot be granted as it stands.",
    )
    submit.add_argument("--model", required=True, metavar="NAME", help="a model served with safetensors weights")
    submit.add_argument("--optimizer", choices=("adamw", "sgd"), help="(default: adamw)")
    submit.add_argument("--budget", metavar="BYTES|SHARE%", help="RAM of a step, or a share of its activations")
    for flag, name, kind, text in _FLAGS:
        submit.add_argument(flag, dest=name, type=kind, metavar="N", help=text)
    submit.add_argument("--no-publish", dest="publish", action="store_false", default=None, help="keep the weights")
    conditions = submit.add_argument_group("conditions", "while one does not hold, the job waits")
    for flag, name, kind, text in _CONDITIONS:
        conditions.add_argument(flag, dest=name, type=kind, metavar="TIMES" if kind is str else "N", help=text)
    conditions.add_argument("--charging", action="store_true", default=None, help="train on external power")
    submit.add_argument("--wait", action="store_true", help="show how it gets on until it has ended")
    submit.set_defaults(handler=submit_handler)
    _add_common(submit)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spool-dir", type=Path, metavar="DIR", help="default: $TEG_SPOOL_DIR, or /var/lib/teg/finetune"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def submit_handler(args: argparse.Namespace) -> int:
    """Queue a job."""
    from telemetry.errors import JobInvalid, QueueFull
    from telemetry.jobs import JobRequest

    spool = spool_of(args)
    try:
        job = spool.submit(JobRequest.from_json(asked(args)))
    except JobInvalid as error:
        return _say(USAGE, str(error))
    except (QueueFull, OSError) as error:
        return _say(NO, str(error))
    if not args.wait:
        print(json.dumps({"job": job}) if args.json else job)
        return DONE
    return follow(spool, job, args.json)


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """The request that the flags describe, as a JSON object."""
    names = ["model", "optimizer", "publish", *(name for _, name, _, _ in _FLAGS)]
    found = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.budget is not None:
        found["budget"] = int(args.budget) if args.budget.isdecimal() else args.budget
    conditions = ["charging", *(name for _, name, _, _ in _CONDITIONS)]
    found["conditions"] = {name: value for name in conditions if (value := getattr(args, name)) is not None}
    return found


def follow(spool: Spool, job: str, as_json: bool, sleep: Callable[[float], None] = time.sleep) -> int:
    """Show a job's progress until it has ended; 1 unless it is done."""
    from telemetry.jobs import JobState

    shown = ""
    while True:
        status = spool.status(job)
        line = status_line(status)
        if line != shown and not as_json:
            print(line, file=sys.stderr, flush=True)
            shown = line
        if status.state.ended:
            break
        sleep(POLL_S)
    print(json.dumps(status.to_json()) if as_json else job)
    return DONE if status.state is JobState.DONE else NO


def status_handler(args: argparse.Namespace) -> int:
    """Print how jobs stand; 2 for an id that no job has."""
    from telemetry.errors import UnknownJob

    spool = spool_of(args)
    if args.job is None:
        jobs = spool.jobs()
        if args.json:
            print(json.dumps({"jobs": [status.to_json() for status in jobs]}))
        else:
            print("\n".join(status_line(status) for status in jobs) or "no jobs")
        return DONE
    try:
        status = spool.status(args.job)
    except UnknownJob as error:
        return _say(USAGE, str(error))
    print(json.dumps(status.to_json()) if args.json else status_text(status))
    return DONE


def cancel_handler(args: argparse.Namespace) -> int:
    """Ask for a job's end; 1 if it has ended already, 2 for an id that no job has."""
    from telemetry.errors import UnknownJob

    spool = spool_of(args)
    try:
        asked_for = spool.cancel(args.job)
    except UnknownJob as error:
        return _say(USAGE, str(error))
    state = spool.status(args.job).state
    print(json.dumps({"job": args.job, "state": state.value}) if args.json else f"{args.job} {state.value}")
    return DONE if asked_for else NO


def forget_handler(args: argparse.Namespace) -> int:
    """Erase a model's samples; 1 if there was nothing to erase."""
    from telemetry.errors import SpoolError

    try:
        forgotten = spool_of(args).forget(args.model)
    except (SpoolError, OSError) as error:
        return _say(USAGE, str(error))
    ended, left = list(forgotten.ended), list(forgotten.left)
    if args.json:
        print(json.dumps({"samples": forgotten.samples, "ended": ended, "left": left}))
    else:
        print(f"{forgotten.samples} samples erased, {len(ended)} jobs ended")
        if left:
            print(f"the worker will end {', '.join(left)} and erase what they hold")
    return DONE if forgotten.samples or ended or left else NO


def spool_of(args: argparse.Namespace) -> Spool:
    """The spool that the flags name."""
    from telemetry.spool import Spool, default_spool_dir

    return Spool(args.spool_dir or default_spool_dir())


def status_line(status: JobStatus) -> str:
    """One job in one line."""
    steps = f", step {status.step} of {status.steps}" if status.steps else ""
    accuracy = _accuracy(status)
    reason = f" ({status.reason})" if status.reason else ""
    version = f", version {status.version}" if status.version is not None else ""
    return f"{status.id}  {status.request.model}  {status.state.value}{reason}{steps}{accuracy}{version}"


def status_text(status: JobStatus) -> str:
    """One job for people."""
    lines = [status_line(status)]
    if status.samples:
        lines.append(f"  {status.samples} samples, epoch {status.epoch} of {status.request.epochs} done")
    if status.loss is not None:
        lines.append(f"  loss {status.loss:.4f}, trained {status.train_s:.1f} s, waited {status.waited_s:.1f} s")
    if status.peak_bytes:
        budget = f" of {status.budget_bytes / 1e6:.1f} MB" if status.budget_bytes else ", no budget"
        lines.append(f"  a step takes {status.peak_bytes / 1e6:.1f} MB{budget}")
    if status.step_s and status.longest_s:
        lines.append(
            f"  {status.step_s * 1e3:.1f} ms a step, at most {status.longest_s * 1e3:.2f} ms without looking up"
        )
    if status.deadline_left_s is not None:
        lines.append(f"  {status.deadline_left_s:.0f} s until the deadline")
    return "\n".join(lines)


def _accuracy(status: JobStatus) -> str:
    if status.accuracy_before is None:
        return ""
    after = "" if status.accuracy_after is None else f" -> {status.accuracy_after:.3f}"
    return f", accuracy {status.accuracy_before:.3f}{after}"


def _say(code: int, message: str) -> int:
    print(f"teg finetune: {message}", file=sys.stderr)
    return code
