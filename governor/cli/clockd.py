# SPDX-License-Identifier: Apache-2.0
"""`teg clockd`: the daemon that owns the clocks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from governor.clockd.run import Settings

USAGE = 2
_FASTEST_HZ = 100.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb `clockd`."""
    parser = subparsers.add_parser(
        "clockd",
        help="own the board's clocks: lease them, put them back, count joules",
        description="Lease clocks to one client at a time, put them back whatever happens, and publish the board page.",
    )
    add_board_arguments(parser)
    parser.add_argument("--rate-hz", type=float, default=20.0, help="samples per second (default: 20)")
    parser.add_argument(
        "--workload",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="coefficients of one more workload of a virtual board; may be given again",
    )
    parser.add_argument(
        "--faults",
        type=Path,
        metavar="FILE",
        help="what goes wrong on a virtual board (JSON), read again when it changes",
    )
    parser.add_argument("--power-limit-w", type=float, metavar="W", help="power limit of an NVML board under a lease")
    parser.set_defaults(handler=handle)


def add_board_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which board, and where clockd keeps its files."""
    parser.add_argument("--board", help="auto, nvml:0, virtual:agx-orin, ... (see `teg doctor`; default: auto)")
    parser.add_argument("--run-dir", type=Path, help="folder of pages and socket (default: as everybody's)")
    parser.add_argument("--root", type=Path, default=Path("/"), help="where /sys and /proc are (default: /)")
    parser.add_argument("--state-dir", type=Path, help="folder of the clock ledger (default: the run directory)")


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that the arguments describe; raises `ValueError` or `BoardError` for one that cannot be."""
    from boards.physics import read_workload
    from governor.clockd.run import Settings
    from telemetry.rundir import RunDir, default_run_dir

    board = args.board or "auto"
    if not 0 < args.rate_hz <= _FASTEST_HZ:
        raise ValueError(f"--rate-hz must be above 0 and at most {_FASTEST_HZ:g}, got {args.rate_hz}")
    workloads = {}
    for given in args.workload:
        name, equals, file = given.partition("=")
        if not (name and equals and file):
            raise ValueError(f"--workload must be NAME=FILE, got {given!r}")
        workloads[name] = read_workload(Path(file))
    if args.faults is not None and not board.startswith("virtual:"):
        raise ValueError(f"--faults is for virtual boards, not for {board}")
    if args.power_limit_w is not None and not board.removeprefix("virtual:").startswith("nvml"):
        raise ValueError(f"--power-limit-w is for NVML boards, not for {board}")
    run_dir = RunDir(args.run_dir or default_run_dir())
    return Settings(board, args.root, run_dir, args.state_dir, args.rate_hz, workloads, args.faults, args.power_limit_w)


def handle(args: argparse.Namespace) -> int:
    """Run until SIGTERM; the exit code."""
    import logging

    from boards.errors import BoardError
    from governor.clockd.run import serve

    logging.basicConfig(level=logging.INFO, format="clockd: %(levelname)s: %(message)s", stream=sys.stderr)
    try:
        settings = settings_of(args)
    except (ValueError, BoardError) as error:
        print(f"teg clockd: {error}", file=sys.stderr)
        return USAGE
    return serve(settings)
