# SPDX-License-Identifier: Apache-2.0
"""Which board this is. Only `open_board` looks for one; constructors do not touch the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .errors import NoBoard
from .jetson import JetsonBoard
from .layout import identify
from .physics import Workload
from .tree import SysfsTree
from .virtual import NAME, VirtualBoard

BOARDS = ("auto", NAME)


def open_board(
    spec: str = "auto",
    root: Path = Path("/"),
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    workloads: Mapping[str, Workload] | None = None,
) -> JetsonBoard:
    """The board under `root` (`auto`), or a virtual one; `workloads` adds to those that a virtual board knows.

    Raises `NoBoard` where there is none: then nothing can be controlled, only observed.
    """
    if spec == NAME:
        return VirtualBoard(spec, clock, sleep, workloads)
    if spec != "auto":
        raise ValueError(f"board must be one of {', '.join(BOARDS)}, got {spec!r}")
    tree = SysfsTree(root)
    layout = identify(tree)
    board = JetsonBoard(layout.name, tree, layout, clock, sleep)
    if not any((board.table.gpu_hz, board.table.emc_hz, board.table.cpu_hz)):
        raise NoBoard(f"{layout.name}: no clock is visible to this user")
    return board
