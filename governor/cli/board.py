# SPDX-License-Identifier: Apache-2.0
"""`teg board`: a board's kernel files as a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import DONE, USAGE


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb with its one action."""
    board = subparsers.add_parser("board", help="write a board's kernel files to a folder")
    actions = board.add_subparsers(dest="action", metavar="ACTION", required=True)
    export = actions.add_parser(
        "export",
        help="write a board's kernel files to a folder",
        description="Write a board's kernel files as plain files and links: a root for --root and for other tools.",
    )
    export.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    export.add_argument("--board", default="auto", help="auto (this machine) or a virtual board (default: auto)")
    export.add_argument("--root", type=Path, default=Path("/"), help="where this machine's files lie (default: /)")
    export.set_defaults(handler=handle_export)


def handle_export(args: argparse.Namespace) -> int:
    """Write the folder; what could not be read is named on standard error."""
    from boards.archive import export
    from boards.tree import SysfsTree, Tree
    from boards.virtual import NAMES, VirtualBoard

    if args.board != "auto" and args.board not in NAMES:
        print(f"teg board: --board must be auto or one of {', '.join(sorted(NAMES))}", file=sys.stderr)
        return USAGE
    tree: Tree = SysfsTree(args.root) if args.board == "auto" else VirtualBoard(args.board).tree
    try:
        unreadable = export(tree, args.folder)
    except OSError as error:
        print(f"teg board: {error}", file=sys.stderr)
        return USAGE
    for path in unreadable:
        print(f"teg board: not readable now, left out: {path}", file=sys.stderr)
    return DONE
