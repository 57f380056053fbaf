# SPDX-License-Identifier: Apache-2.0
"""`teg explain`: why this point: the trials, what is expected of others, what the SLO costs, what to do next."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import DONE, NO, USAGE

if TYPE_CHECKING:
    from ..explain.opinions import Forecaster
    from ..explain.page import Plots
    from ..explain.report import Report
    from ..points import Table
    from ..subjects import SubjectLog

EXTRA = "plots need matplotlib: pip install 'triton-energy-governor[report]'"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "explain",
        help="why this point: trials, expectations, what the SLO costs",
        description="Explain the point that the governor holds, from its history alone: while it runs, afterwards, "
        "or on another machine. Exit code 1: nothing that was tried keeps the SLO.",
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--run-dir", type=Path, help="default: /run/teg for root, else $XDG_RUNTIME_DIR/teg")
    place.add_argument("--state", type=Path, metavar="DIR", help="where history.log is (default: RUN_DIR/state)")
    parser.add_argument(
        "--subject", metavar="DIGEST", help="what was tuned, or how its digest begins (default: the last)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write one self-contained HTML page")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="also write the plots as PNG files")
    parser.set_defaults(handler=handler)


def handler(args: argparse.Namespace) -> int:
    """Print the report; 1 if no point tried keeps the SLO or there is none, 2 if a file cannot be read or written."""
    from ..explain.report import make_report
    from ..history import FILE, sound_rows
    from ..subjects import read_subjects
    from .progress import run_dir_of

    path = (args.state or run_dir_of(args).root / "state") / FILE
    try:
        logs = read_subjects(path)
        # what follows the last newline may still be being written
        _, damaged = sound_rows(path.read_bytes().rpartition(b"\n")[0] if path.exists() else b"")
    except OSError as error:
        print(f"teg explain: {path} cannot be read: {error}", file=sys.stderr)
        return USAGE
    log = _chosen(logs, args.subject)
    if log is None:
        return _nothing(path, logs, args, damaged)
    if sys.stderr.isatty():
        print(f"fitting surfaces to {len(log.since_reopening)} trials ...", file=sys.stderr)
    others = [other for other in logs if other is not log]
    report = make_report(log, _search, damaged, others)
    try:
        # before anything is printed: whoever reads it may go (`teg explain | head`)
        drawn = _draw(report, args)
    except OSError as error:
        print(f"teg explain: {error.filename} cannot be written: {error}", file=sys.stderr)
        drawn = False
    _print(report, as_json=args.json)
    if not drawn:
        return USAGE
    return DONE if report.chosen else NO


def _chosen(logs: Sequence[SubjectLog], digest: str | None) -> SubjectLog | None:
    """The one subject whose digest begins so, or the one tuned last; None if there is none such."""
    found = [log for log in logs if log.subject.slos and (digest is None or log.digest.startswith(digest))]
    return found[-1] if found and (digest is None or len(found) == 1) else None


def _nothing(path: Path, logs: Sequence[SubjectLog], args: argparse.Namespace, damaged: int) -> int:
    from ..explain.plain import FORMAT, subject_json

    digests = ", ".join(log.digest for log in logs)
    if args.subject is not None and logs:
        print(
            f"teg explain: not one subject's digest begins with {args.subject!r}; there are {digests}", file=sys.stderr
        )
        return USAGE
    if args.json:
        empty = {"format": FORMAT, "answer": "empty", "subject": None, "damaged_records": damaged}
        print(json.dumps(empty | {"other_subjects": [subject_json(log) for log in logs]}))
    else:
        bad = f" ({damaged} damaged records)" if damaged else ""
        print(f"{path} tells of nothing that was tuned{bad}; let `teg run` tune while requests arrive")
    return NO


def _search(
    knobs: Mapping[str, Sequence[float]], slo_s: float, prior: Sequence[Table], rate_hz: float | None
) -> Forecaster:
    import torch

    from ..search import Search

    torch.set_num_threads(1)  # the models being served need the cores more
    return Search(knobs, slo_s, 0, list(prior) or None, rate_hz=rate_hz)


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        from ..explain.plain import to_json

        print(json.dumps(to_json(report)))
    else:
        from ..explain.text import render

        print(render(report))


def _draw(report: Report, args: argparse.Namespace) -> bool:
    """Write what was asked for; False if that needs matplotlib, which is not there."""
    if not args.html and not args.plots:
        return True
    plots = _plots(report, dark=bool(args.html))
    if plots is None:
        print(f"teg explain: {EXTRA}", file=sys.stderr)
    if args.html:
        from ..explain.page import page

        args.html.write_text(page(report, plots or {}))
    if args.plots and plots is not None:
        args.plots.mkdir(parents=True, exist_ok=True)
        for name, (light, _) in plots.items():
            (args.plots / f"{name}.png").write_bytes(light)
    return plots is not None or not args.plots


def _plots(report: Report, *, dark: bool) -> Plots | None:
    """The plots for light paper and, if asked for, for dark; None without matplotlib."""
    try:
        from ..explain import canvas, plots
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        return None
    return {
        name: (canvas.png(draw(report, canvas.LIGHT)), canvas.png(draw(report, canvas.DARK)) if dark else b"")
        for name, draw in plots.drawings(report).items()
    }
