# SPDX-License-Identifier: Apache-2.0
"""What differs from board to board: one frozen record each. Everything else is discovered."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import NoBoard, NodeError
from .tree import Tree


@dataclass(frozen=True, slots=True)
class Layout:
    """A family of boards under one JetPack. Nodes are found by these names, never by a device path."""

    name: str
    compatible: str
    """Regular expression over the strings of the device tree's root `compatible`."""
    gpu_of_names: frozenset[str]
    """`of_node/name` of the GPU behind its devfreq device."""
    emc_folder: str
    emc_lockable_hz: tuple[int, ...]
    """Rates that hold under `mrq_rate_locked`; the table file also lists voltage points that do not."""
    emc_cap: str
    module_rails: tuple[str, ...]
    """Rails that add up to the module. Others lie inside one of these."""


AGX_ORIN = Layout(
    name="Jetson AGX Orin",
    # p3701-0000 is the developer kit's module, -0005 the 64 GB one (mainline tegra234-p3701.dtsi).
    compatible=r"p3701-000[05]$",
    gpu_of_names=frozenset({"gpu", "ga10b"}),
    emc_folder="/sys/kernel/debug/bpmp/debug/clk/emc",
    # Probed on Orin under L4T R36 (arXiv 2606.16106); 1600, 2750 and 3200 MHz stand in dvfs_table and cannot be held.
    emc_lockable_hz=(204_000_000, 665_600_000, 2_133_000_000, 3_199_000_000),
    emc_cap="/sys/kernel/nvpmodel_clk_cap/emc",
    # VDDQ_VDD2_1V8AO is inside VIN_SYS_5V0 (NVIDIA's rail description): adding it counts memory twice.
    module_rails=("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
)

LAYOUTS = (AGX_ORIN,)

_COMPATIBLE = ("/proc/device-tree/compatible", "/sys/firmware/devicetree/base/compatible")


def identify(tree: Tree) -> Layout:
    """The layout of this machine; raises `NoBoard` if it is none of `LAYOUTS`."""
    for path in _COMPATIBLE:
        try:
            strings = tree.read(path).split("\0")
        except NodeError:
            continue
        for layout in LAYOUTS:
            if any(re.search(layout.compatible, string) for string in strings):
                return layout
        raise NoBoard(f"{path} names {strings}, which is no board known here")
    raise NoBoard("no device tree: this is not a Jetson")
