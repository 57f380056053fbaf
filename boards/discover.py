# SPDX-License-Identifier: Apache-2.0
"""Which board this is. Only these functions look for one; what a board does not need is not imported."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .clocks import Board
from .errors import NoBoard
from .jetson import JetsonBoard
from .layout import identify
from .tree import SysfsTree

if TYPE_CHECKING:
    from .physics import Workload
    from .virtual_faults import Faults

AUTO = "auto"
VIRTUAL_NVML = "virtual:nvml"


def open_board(
    spec: str = AUTO,
    root: Path = Path("/"),
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    workloads: Mapping[str, Workload] | None = None,
    faults: Faults | None = None,
) -> Board:
    """The Jetson under `root` (`auto`), a discrete GPU (`nvml:0`), or a virtual board (`virtual:...`).

    `workloads` adds to those that a virtual board knows, `faults` go wrong on it. Raises `NoBoard` where there is none:
    then nothing can be controlled, only observed; `ValueError` for a name that no board has.
    """
    if spec == AUTO:
        return open_jetson(root, clock, sleep)
    if index := re.fullmatch(r"nvml:(\d+)", spec):
        from .nvml import open_nvml

        return open_nvml(int(index[1]), clock, sleep)
    if spec == VIRTUAL_NVML:
        from .virtual_nvml import VirtualNvmlBoard

        return VirtualNvmlBoard(clock, sleep, workloads, faults)
    from .virtual import NAMES, VirtualBoard

    if spec not in NAMES:
        short = ", ".join(name for name in NAMES if "@" not in name)
        raise ValueError(f"board must be one of auto, nvml:N, {VIRTUAL_NVML}, {short} (@JetPack), got {spec!r}")
    return VirtualBoard(spec, clock, sleep, workloads, faults)


def open_jetson(
    root: Path = Path("/"),
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> JetsonBoard:
    """The Jetson whose kernel files lie under `root`; raises `NoBoard` if there is none, or no clock of it is seen."""
    tree = SysfsTree(root)
    layout = identify(tree)
    board = JetsonBoard(layout.name, tree, layout, clock, sleep)
    if not any((board.table.gpu_hz, board.table.emc_hz, board.table.cpu_hz)):
        raise NoBoard(f"{layout.name}: no clock is visible to this user")
    return board
