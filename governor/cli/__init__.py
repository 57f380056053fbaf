# SPDX-License-Identifier: Apache-2.0
"""`teg`, the command line: the composition root. One module per family of verbs; each imports what it needs itself."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

FAMILIES = (
    "serve", "run", "clockd", "restore", "status", "doctor", "load", "models", "board", "history", "explain", "plan",
    "finetune",
)  # fmt: skip
"""Modules of this package, in the order of `teg --help`; each has `add_parser(subparsers)`."""

DONE, NO, USAGE, REFUSED, NOT_RESTORED = 0, 1, 2, 3, 4
"""Exit codes: done; done and the answer is no; usage; refused for safety; could not restore."""


def build_parser() -> argparse.ArgumentParser:
    """The parser with every verb; a verb's handler is in `args.handler`."""
    parser = argparse.ArgumentParser(
        prog="teg",
        description="Serve neural networks with Triton on fewer joules per request, the latency SLO kept.",
        epilog="exit codes: 0 done, 1 the answer is no, 2 usage, 3 refused for safety, 4 could not restore",
    )
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for family in FAMILIES:
        importlib.import_module(f"{__name__}.{family}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        code: int = args.handler(args)
    except KeyboardInterrupt:
        return DONE
    except BrokenPipeError:
        # the reader of our output (`teg status | head`) has gone; that is its right
        sys.stderr.close()
        return DONE
    return code


if __name__ == "__main__":
    sys.exit(main())
