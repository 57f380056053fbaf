# SPDX-License-Identifier: Apache-2.0
"""`teg run`: the governor in the foreground."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from telemetry.board_page import BoardReading
    from telemetry.rundir import RunDir

    from ..config import Config
    from ..loop import Governor
    from ..points import MakeSearch
    from ..reader import PageReader
    from ..status import Status

_SETTINGS = (
    "trials",
    "trial_s",
    "regret",
    "breach_share",
    "seed",
    "slo_s",
    "slo_quantile",
    "metrics_port",
    "state_dir",
)
HELD = 3
"""Leases refused because somebody else holds the clocks, with none granted before: it will not end by itself."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "run",
        help="tune clocks and batch limit of what is served, then hold the best point",
        description="Tune GPU, memory and CPU clocks and the batch limit of the models being served, on their own "
        "traffic, for the fewest joules per request with the SLO kept; then hold that point and watch the SLO. Needs "
        "`teg clockd` and `teg serve`. Clocks and batch limits are given back on exit, however it comes. Should load, "
        "temperature or the price of a request change for good, it searches again, from what it has learnt.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file; flags given here win over it")
    parser.add_argument("--run-dir", type=Path, help="default: /run/teg for root, else $XDG_RUNTIME_DIR/teg")
    parser.add_argument("--state-dir", type=Path, help="where history.log is kept (default: RUN_DIR/state)")
    parser.add_argument("--knobs", help="comma-separated: cores, cpu_hz, gpu_hz, emc_hz, batch")
    parser.add_argument("--trials", type=int, help="points to try before holding the best (24)")
    parser.add_argument("--trial-s", type=float, metavar="S", help="seconds that one trial measures (6)")
    parser.add_argument(
        "--regret",
        type=float,
        metavar="SHARE",
        help="stop early, once no point is expected to be cheaper than the best by more than this (0.01; 0: never)",
    )
    parser.add_argument(
        "--breach-share",
        type=float,
        metavar="SHARE",
        help="of the SLO's windows that trials may break; beyond it the best point is held for a while (0.01)",
    )
    parser.add_argument("--slo-s", type=float, metavar="S", help="latency limit in place of the models' own slo_ms")
    parser.add_argument("--slo-quantile", type=float, metavar="Q", help="its quantile, for example 0.99")
    parser.add_argument("--metrics-port", type=int, help="Prometheus metrics on 127.0.0.1 (9402)")
    parser.add_argument("--seed", type=int, help="of the first points and of the models' fits (0)")
    parser.add_argument("--fresh", action="store_true", help="learn nothing from earlier runs")
    parser.add_argument("--exit-when-tuned", action="store_true", help="stop instead of holding the best point")
    parser.set_defaults(handler=handler)


def handler(args: argparse.Namespace) -> int:
    """Govern until SIGINT or SIGTERM.

    1 if asked to stop when tuned and no point keeps the SLO, 2 for bad settings, 3 while another has the clocks.
    """
    from ..errors import AlreadyGoverned, ConfigInvalid
    from ..published import OnlyOne
    from . import REFUSED, USAGE
    from .progress import run_dir_of

    run_dir = run_dir_of(args)
    try:
        config = config_of(args, run_dir.root)
    except ConfigInvalid as error:
        print(f"teg run: {error}", file=sys.stderr)
        return USAGE
    try:
        with OnlyOne(run_dir.root):
            return govern(config, run_dir, exit_when_tuned=args.exit_when_tuned)
    except AlreadyGoverned as error:
        print(f"teg run: {error}", file=sys.stderr)
    except OSError as error:
        print(f"teg run: {run_dir.root} cannot be used: {error}", file=sys.stderr)
    return REFUSED


def govern(
    config: Config, run_dir: RunDir, make_search: MakeSearch | None = None, *, exit_when_tuned: bool = False
) -> int:
    """The governor of a run directory, until a signal ends it; with a search of its own it needs no torch."""
    from ..client import ClockClient
    from ..loop import Governor
    from ..points import bayesian_search
    from ..reader import PageReader
    from . import DONE, NO, REFUSED

    if make_search is None:
        _prepare_search()
    reader = PageReader(run_dir)
    governor = Governor(config, ClockClient(run_dir.socket), reader, make_search=make_search or bayesian_search)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Foreground(governor, reader, run_dir, stop, exit_when_tuned=exit_when_tuned) as foreground:
        governor.run(stop, foreground.on_tick)
    if foreground.refused:
        print("teg run: another client of clockd holds the clocks; end it first", file=sys.stderr)
        return REFUSED
    if governor.status.verdict:
        print(f"teg run: {governor.status.verdict}", file=sys.stderr)
    untuned = governor.status.best is None and not foreground.nothing_to_tune
    return NO if exit_when_tuned and untuned else DONE


def _prepare_search() -> None:
    """Load what the search needs before the first tick; that takes seconds, in which no tick is possible."""
    import torch

    importlib.import_module("governor.search")
    torch.set_num_threads(1)  # the models being served need the cores more than a fit of thirty points does


def config_of(args: argparse.Namespace, run_dir: Path) -> Config:
    """Defaults, then the file, then the flags; raises `ConfigInvalid`."""
    from ..config import Config, load, override

    config = Config(run_dir=run_dir, state_dir=run_dir / "state")
    if args.config:
        config = load(args.config, config)
    flags = {key: value for key in _SETTINGS if (value := getattr(args, key)) is not None}
    if args.knobs:
        flags["knobs"] = [knob.strip() for knob in args.knobs.split(",")]
    if args.fresh:
        flags["fresh"] = True
    return override(config, flags)


class Foreground:
    """What a governor in the foreground does after each tick: metrics, progress, its standing, the watchdog's food."""

    def __init__(
        self, governor: Governor, reader: PageReader, run_dir: RunDir, stop: threading.Event, *, exit_when_tuned: bool
    ) -> None:
        from ..clockd.notify import Notifier
        from ..exporter import Exporter
        from ..published import Standing
        from .progress import TrialProgress

        config = governor.config
        self.refused = False
        """Whether somebody else held the clocks from the beginning."""
        self.nothing_to_tune = False
        self._stop = stop
        self._exit_when_tuned = exit_when_tuned
        self._exporter = Exporter(_Source(governor, reader), config.metrics_host, config.metrics_port)
        self._progress = TrialProgress(config.trials)
        self._standing = Standing(run_dir.root, time.monotonic)
        self._notifier = Notifier(time.monotonic)
        self._ready = self._ever_leased = False

    def __enter__(self) -> Foreground:
        self._progress.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._notifier.stopping()
        self._exporter.close()
        self._standing.remove()
        self._progress.__exit__(kind, value, trace)

    def on_tick(self, status: Status) -> None:
        """All of it comes from the tick itself: a governor that hangs shows nothing and feeds nobody."""
        from ..status import Phase

        if not self._ready:
            self._ready = True
            self._notifier.ready()
        self._notifier.tick(f"{status.phase.value} {status.detail}".strip())
        self._exporter.poll()
        self._progress.update(status)
        self._standing.show(status)
        self._ever_leased |= status.leased
        if not self._ever_leased and status.refusals["held"] >= HELD:
            self.refused = True
            self._stop.set()
        if self._exit_when_tuned and status.phase is Phase.HOLDING and not status.paused:
            self.nothing_to_tune = status.nothing_to_tune
            self._stop.set()


class _Source:
    """What the exporter shows."""

    def __init__(self, governor: Governor, reader: PageReader) -> None:
        self._governor = governor
        self._reader = reader

    def status(self) -> Status:
        """The governor's status."""
        return self._governor.status

    def board(self) -> BoardReading | None:
        """The board's latest reading."""
        return self._reader.board
