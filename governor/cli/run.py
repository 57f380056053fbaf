# SPDX-License-Identifier: Apache-2.0
"""`teg run`: the governor in the foreground."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from telemetry.board_page import BoardReading

    from ..config import Config
    from ..loop import Governor
    from ..reader import PageReader
    from ..status import Status

_SETTINGS = ("trials", "trial_s", "seed", "slo_s", "slo_quantile", "metrics_port", "state_dir")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "run",
        help="tune clocks and batch limit of what is served, then hold the best point",
        description="Tune GPU, memory and CPU clocks and the batch limit of the models being served, on their own "
        "traffic, for the fewest joules per request with the SLO kept; then hold that point and watch the SLO. Needs "
        "`teg clockd` and `teg serve`. Clocks and batch limits are given back on exit, however it comes.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file; flags given here win over it")
    parser.add_argument("--run-dir", type=Path, help="default: /run/teg for root, else $XDG_RUNTIME_DIR/teg")
    parser.add_argument("--state-dir", type=Path, help="where history.log is kept (default: RUN_DIR/state)")
    parser.add_argument("--knobs", help="comma-separated: cores, cpu_hz, gpu_hz, emc_hz, batch")
    parser.add_argument("--trials", type=int, help="points to try before holding the best (24)")
    parser.add_argument("--trial-s", type=float, metavar="S", help="seconds that one trial measures (6)")
    parser.add_argument("--slo-s", type=float, metavar="S", help="latency limit in place of the models' own slo_ms")
    parser.add_argument("--slo-quantile", type=float, metavar="Q", help="its quantile, for example 0.99")
    parser.add_argument("--metrics-port", type=int, help="Prometheus metrics on 127.0.0.1 (9402)")
    parser.add_argument("--seed", type=int, help="of the first points and of the models' fits (0)")
    parser.add_argument("--fresh", action="store_true", help="do not learn from the trials of earlier runs")
    parser.add_argument("--exit-when-tuned", action="store_true", help="stop instead of holding the best point")
    parser.set_defaults(handler=handler)


def handler(args: argparse.Namespace) -> int:
    """Govern until SIGINT or SIGTERM; 1 if asked to stop when tuned and no point keeps the SLO, 2 for bad settings."""
    import torch

    from ..client import ClockClient
    from ..errors import ConfigInvalid
    from ..exporter import Exporter
    from ..loop import Governor
    from ..reader import PageReader
    from ..status import Phase
    from . import DONE, NO, USAGE
    from .progress import TrialProgress, run_dir_of

    run_dir = run_dir_of(args)
    try:
        config = config_of(args, run_dir.root)
    except ConfigInvalid as error:
        print(f"teg run: {error}", file=sys.stderr)
        return USAGE
    torch.set_num_threads(1)  # the models being served need the cores more than a fit of thirty points does
    reader = PageReader(run_dir)
    governor = Governor(config, ClockClient(run_dir.socket), reader)
    exporter = Exporter(_Source(governor, reader), config.metrics_host, config.metrics_port)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    with TrialProgress(config.trials) as progress:

        def on_tick(status: Status) -> None:
            exporter.poll()
            progress.update(status)
            if args.exit_when_tuned and status.phase is Phase.HOLDING:
                stop.set()

        try:
            governor.run(stop, on_tick)
        finally:
            exporter.close()
    tuned = governor.status.best is not None
    return NO if args.exit_when_tuned and not tuned else DONE


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
