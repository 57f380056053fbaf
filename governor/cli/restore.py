# SPDX-License-Identifier: Apache-2.0
"""`teg restore`: put back the clocks that a clockd which died left behind."""

from __future__ import annotations

import argparse
import sys

from .clockd import add_board_arguments


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb `restore`."""
    parser = subparsers.add_parser(
        "restore",
        help="put the clocks back after clockd died",
        description="Put back the clocks that the ledger remembers. Safe to run at any time, any number of times.",
    )
    add_board_arguments(parser)
    parser.add_argument(
        "--to-board-range",
        action="store_true",
        help="without a ledger: give every clock the board's whole range, and free what is locked",
    )
    parser.set_defaults(handler=handle)


def handle(args: argparse.Namespace) -> int:
    """Restore; the exit code."""
    import logging

    from governor.clockd.recovery import restore
    from telemetry.rundir import RunDir, default_run_dir

    logging.basicConfig(level=logging.INFO, format="restore: %(levelname)s: %(message)s", stream=sys.stderr)
    run_dir = RunDir(args.run_dir or default_run_dir())
    folder = args.state_dir or run_dir.root
    return restore(args.board, args.root, run_dir.socket, folder, to_board_range=args.to_board_range)
