# SPDX-License-Identifier: Apache-2.0
"""`teg load`: open-loop Poisson load on one model, and what it showed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import DONE, NO, USAGE

DEFAULT_URL = "127.0.0.1:8001"

if TYPE_CHECKING:
    from collections.abc import Iterator

    from governor.load import LoadPlan, LoadReport


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    load = subparsers.add_parser(
        "load",
        help="send open-loop Poisson load to a model",
        description="Send requests at arrivals drawn beforehand; latency counts from the intended arrival.",
        epilog="exit codes: 0 all answered and the objective met, 1 not so, 2 usage or server unreachable",
    )
    load.add_argument("--url", help=f"gRPC address (default: that of the running teg serve, else {DEFAULT_URL})")
    load.add_argument("--run-dir", type=Path, help="where that teg serve runs (default: as for every verb)")
    load.add_argument("--model", required=True)
    when = load.add_mutually_exclusive_group(required=True)
    when.add_argument("--rate", type=float, metavar="HZ", help="mean arrivals per second")
    when.add_argument("--arrivals", type=Path, metavar="FILE", help="arrivals in seconds from the start, one per line")
    load.add_argument("--seconds", type=float, help="length of the run (default: 10 if --requests is not given)")
    load.add_argument("--requests", type=int, help="number of requests")
    load.add_argument("--seed", type=int, default=0, help="same seed, same arrivals (default: %(default)s)")
    load.add_argument("--input", type=Path, metavar="FILE.npz", help="real inputs, sent in turn (default: random ones)")
    load.add_argument("--slo-ms", type=float, help="the latency objective")
    load.add_argument("--quantile", type=float, default=0.99, help="share that must meet it (default: %(default)s)")
    load.add_argument("--timeout-s", type=float, default=60.0, help="give up on a request after (default: %(default)s)")
    load.add_argument("--warmup", type=int, default=3, help="requests before the start (default: %(default)s)")
    load.add_argument("--csv", type=Path, metavar="FILE", help="one row per request, written as it is answered")
    load.add_argument("--json", action="store_true", help="print the report as JSON, in seconds")
    load.set_defaults(handler=handle)


def handle(args: argparse.Namespace) -> int:
    """Run the load; SIGINT and SIGTERM end the sending early, and what was sent is reported."""
    from governor.load import ServerUnreachable, run_load
    from governor.load_inputs import InputsUnfit

    try:
        plan = read_plan(args)
    except (ValueError, OSError) as error:
        print(f"teg load: {error}", file=sys.stderr)
        return USAGE
    try:
        with _first_signal() as stopped, _progress(len(plan.arrivals_s)) as advance:
            report = run_load(plan, stopped=stopped, on_answer=lambda _: advance())
    except (ServerUnreachable, InputsUnfit, OSError) as error:
        print(f"teg load: {error}", file=sys.stderr)
        return USAGE
    print(json.dumps(dataclasses.asdict(report)) if args.json else render(report))
    return NO if report.failed or report.slo_met is False else DONE


def read_plan(args: argparse.Namespace) -> LoadPlan:
    """The plan that the options describe; raises `ValueError` naming the option that is out of range."""
    from governor.load import LoadPlan, draw_arrivals, read_arrivals

    for option in ("seconds", "requests", "slo_ms", "timeout_s"):
        value = getattr(args, option)
        if value is not None and not value > 0:
            raise ValueError(f"--{option.replace('_', '-')} must be above 0, not {value}")
    if not 0 < args.quantile <= 1:
        raise ValueError(f"--quantile must lie above 0 and at most at 1, not {args.quantile}")
    if args.arrivals:
        arrivals_s = read_arrivals(args.arrivals)
    else:
        seconds = 10.0 if args.seconds is None and args.requests is None else args.seconds
        arrivals_s = draw_arrivals(args.rate, args.seed, seconds=seconds, requests=args.requests)
    if not arrivals_s:
        raise ValueError("no request arrives in that time")
    return LoadPlan(
        url=args.url or served_url(args.run_dir),
        model=args.model,
        arrivals_s=arrivals_s,
        seed=args.seed,
        input_file=args.input,
        warmup=args.warmup,
        timeout_s=args.timeout_s,
        slo_s=None if args.slo_ms is None else args.slo_ms / 1e3,
        quantile=args.quantile,
        record=args.csv,
    )


def served_url(run_dir: Path | None) -> str:
    """The gRPC address that `teg serve` left in its run directory, Triton's usual one without it."""
    from telemetry.rundir import default_run_dir

    path = (run_dir or default_run_dir()) / "serve.json"
    if not path.exists():
        return DEFAULT_URL
    served = json.loads(path.read_bytes())
    return f"{served['address']}:{served['grpc']}"


def render(report: LoadReport) -> str:
    """The report as lines for a person, latencies in milliseconds."""
    lines = [
        f"{report.model}: {report.requests} requests in {report.seconds:.1f} s, {report.failed} failed",
        f"latency  p50 {_ms(report.p50_s)}  p95 {_ms(report.p95_s)}  p99 {_ms(report.p99_s)}  max {_ms(report.max_s)}",
        f"lag      p50 {_ms(report.lag_p50_s)}  p99 {_ms(report.lag_p99_s)}  (this generator's own)",
    ]
    if report.slo_s is not None and report.within_slo is not None:
        verdict = "met" if report.slo_met else "MISSED"
        share = f"{report.within_slo:.2%} within {_ms(report.slo_s)}, {report.quantile:.0%} wanted"
        lines.append(f"SLO      {verdict}: {share}")
        if report.lag_p99_s is not None and report.lag_p99_s > report.slo_s / 5:
            lines.append("notice   the generator was late by much of the objective: this host is too busy to judge by")
    lines += [f"failed   {count} x {status}" for status, count in report.errors.items()]
    if report.first_error:
        lines.append(f"first    {report.first_error}")
    return "\n".join(lines)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.2f} ms"


@contextmanager
def _first_signal() -> Iterator[Callable[[], bool]]:
    """Yields what says whether SIGINT or SIGTERM came; the second one acts as usual."""
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    came: list[int] = []

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(number: int, _: object) -> None:
        came.append(number)
        restore()

    for number in usual:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        restore()


def _progress(total: int) -> AbstractContextManager[Callable[[], Any]]:
    """A bar on a terminal, nothing elsewhere; yields what advances it by one."""
    return _bar(total) if sys.stderr.isatty() else nullcontext(lambda: None)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[], Any]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("load", total=total)
        yield lambda: progress.advance(task)
