# SPDX-License-Identifier: Apache-2.0
"""`teg restore`: put back the clocks that a clockd which died left behind."""

from __future__ import annotations

import argparse
import sys

from .clockd import USAGE, add_board_arguments, settings_of


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb `restore`."""
    parser = subparsers.add_parser(
        "restore",
        help="put the clocks back after clockd died",
        description="Put back the clocks that the ledger remembers. Safe to run at any time, any number of times.",
    )
    add_board_arguments(parser)
    parser.set_defaults(handler=handle)


def handle(args: argparse.Namespace) -> int:
    """Restore; the exit code."""
    import logging

    from boards.errors import BoardError
    from governor.clockd.run import restore

    logging.basicConfig(level=logging.INFO, format="restore: %(levelname)s: %(message)s", stream=sys.stderr)
    try:
        settings = settings_of(args)
    except (ValueError, BoardError) as error:
        print(f"teg restore: {error}", file=sys.stderr)
        return USAGE
    return restore(settings)
