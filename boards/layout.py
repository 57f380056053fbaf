# SPDX-License-Identifier: Apache-2.0
"""What differs from board to board: one frozen record each. Everything else is discovered."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .errors import NoBoard, NodeError
from .rails import labels
from .tree import Tree

DRIVER_WINDOW_S = 0.0066
"""One cycle of an INA3221 as its driver sets it: 1 sample, 1.1 ms conversions (Linux hwmon/ina3221)."""
START_UP_WINDOW_S = 0.430
"""What NVIDIA's start-up sets on tegra194 and tegra234: 512 samples (nvpower.sh)."""
INSEPARABLE = "GPU power cannot be told from the CPU's and the DLA's: VDD_CPU_GPU_CV feeds them all"


@dataclass(frozen=True, slots=True)
class Layout:
    """A family of boards under every JetPack it is known with. Nodes are found by these names, never by device path."""

    name: str
    compatible: str
    """Regular expression of the module, over the strings of the device tree's root `compatible`."""
    soc: str
    """The string that only names the chip."""
    gpu_of_names: frozenset[str]
    """`of_node/name` of the GPU behind its devfreq device."""
    module_rails: tuple[str, ...]
    """Rails that add up to the module. Others lie inside one of these, or on the carrier board."""
    gpu_rail: str
    """The rail that feeds the GPU alone; empty where there is none."""
    ceiling_w: float
    """A module power above this is taken for a sensor fault."""
    ceiling_source: str
    window_s: float
    """Averaging window to assume where the monitor does not say its own."""
    emc_lockable_hz: tuple[int, ...] | None = None
    """Rates that hold under `mrq_rate_locked`; None where nobody has proven them: then each is tried."""
    emc_known_hz: tuple[int, ...] = ()
    """Candidates where the board has no table file."""
    gpu_class: str = ""
    """Pattern of the devfreq class name, for a GPU without device-tree node."""
    bwmgr_halt: str = ""
    """Switch that keeps the bandwidth manager from overruling a lock."""
    notes: tuple[str, ...] = ()
    emc_folder: str = "/sys/kernel/debug/bpmp/debug/clk/emc"
    emc_cap: str = "/sys/kernel/nvpmodel_clk_cap/emc"
    """JetPack 6 and 7: the cap in force, in Hz (nvidia-oot nvpmodel-clk-cap.c)."""
    emc_iso_cap: str = "/sys/kernel/nvpmodel_emc_cap/emc_iso_cap"
    """JetPack 4 and 5: the cap last written, in Hz; 0 is none (NVIDIA nvpmodel_emc_cap.c)."""

    def recognises(self, strings: list[str]) -> bool:
        """Whether a device tree with these root `compatible` strings is of this family."""
        return any(re.search(self.compatible, string) for string in strings)


def _mhz(*rates: float) -> tuple[int, ...]:
    return tuple(round(1e6 * rate) for rate in rates)


TX2 = Layout(
    name="Jetson TX2",
    compatible=r"p3310-1000",
    soc="nvidia,tegra186",
    gpu_of_names=frozenset({"gp10b"}),
    # VDD_MUX and the rest of 0x42 and 0x43 belong to the carrier board (energymon JETSON-POWER-RAILS).
    module_rails=("VDD_IN",),
    gpu_rail="VDD_SYS_GPU",
    ceiling_w=40.0,
    ceiling_source="assumed, twice the module's rated 20 W",
    window_s=DRIVER_WINDOW_S,
    emc_known_hz=_mhz(40.8, 68, 102, 204, 408, 665.6, 800, 1062.4, 1331.2, 1600, 1866),
)
XAVIER_NX = Layout(
    name="Jetson Xavier NX",
    compatible=r"p3668-000[013]",
    soc="nvidia,tegra194",
    gpu_of_names=frozenset({"gv11b"}),
    module_rails=("VDD_IN",),
    gpu_rail="",
    ceiling_w=40.0,
    ceiling_source="assumed, twice the largest power mode of 20 W",
    window_s=START_UP_WINDOW_S,
    emc_known_hz=_mhz(204, 408, 665.6, 800, 1065.6, 1331.2, 1600, 1866),
    notes=(INSEPARABLE,),
)
AGX_XAVIER = Layout(
    name="Jetson AGX Xavier",
    compatible=r"p2888-000[1345]",
    soc="nvidia,tegra194",
    gpu_of_names=frozenset({"gv11b"}),
    # No rail carries the total: the six add up to it (energymon JETSON-POWER-RAILS).
    module_rails=("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
    gpu_rail="GPU",
    ceiling_w=100.0,
    ceiling_source="assumed, three times the largest limited power mode of 30 W",
    window_s=START_UP_WINDOW_S,
    emc_known_hz=_mhz(204, 408, 665.6, 800, 1065.6, 1331.2, 1600, 1866, 2133),
)
AGX_ORIN = Layout(
    name="Jetson AGX Orin",
    # p3701-0000 is the developer kit's module, -0005 the 64 GB one (mainline tegra234-p3701.dtsi).
    compatible=r"p3701-000[05]$",
    soc="nvidia,tegra234",
    gpu_of_names=frozenset({"gpu", "ga10b"}),
    # VDDQ_VDD2_1V8AO is inside VIN_SYS_5V0 (NVIDIA's rail description): adding it counts memory twice.
    module_rails=("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    gpu_rail="",
    ceiling_w=150.0,
    ceiling_source="over-current limit curr4_crit that NVIDIA's start-up sets",
    window_s=START_UP_WINDOW_S,
    # Probed on Orin under L4T R36 (arXiv 2606.16106); 1600, 2750 and 3200 MHz stand in dvfs_table and cannot be held.
    emc_lockable_hz=_mhz(204, 665.6, 2133, 3199),
    notes=("GPU power cannot be told from the SoC's: VDD_GPU_SOC feeds both",),
)
AGX_ORIN_32GB = replace(
    AGX_ORIN,
    name="Jetson AGX Orin 32GB",
    compatible=r"p3701-0004$",
    ceiling_w=60.0,
    ceiling_source="over-current limit curr4_crit of 45 W, and a third for what it lets pass",
)
ORIN_NX = replace(
    AGX_ORIN,
    name="Jetson Orin NX",
    compatible=r"p3767-0000",
    # VDD_IN contains the other two.
    module_rails=("VDD_IN",),
    ceiling_w=60.0,
    ceiling_source="peak over-current limit of 45 W, and a third for what it lets pass; that of Super is not known",
    notes=(INSEPARABLE,),
)
ORIN_NANO = replace(
    ORIN_NX,
    name="Jetson Orin Nano",
    compatible=r"p3767-000[35]",
    ceiling_w=34.0,
    ceiling_source="over-current limit of 25 W (Super), and a third for what it lets pass",
)
THOR = Layout(
    name="Jetson AGX Thor",
    compatible=r"p3834-0008",
    soc="nvidia,tegra264",
    gpu_of_names=frozenset(),
    # The INA238 at the input; the INA3221's rails do not add up to it (NVIDIA forum 366461).
    module_rails=("VIN",),
    gpu_rail="VDD_GPU",
    ceiling_w=250.0,
    ceiling_source="assumed, twice the power mode of 120 W",
    window_s=DRIVER_WINDOW_S,
    emc_known_hz=_mhz(665.6, 4266),
    gpu_class="gpu-gpc-*",
    bwmgr_halt="/sys/kernel/debug/bpmp/debug/bwmgr/bwmgr_halt",
    notes=("power is that of the whole board: its input VIN feeds the carrier too",),
)

LAYOUTS = (TX2, AGX_XAVIER, XAVIER_NX, AGX_ORIN, AGX_ORIN_32GB, ORIN_NX, ORIN_NANO, THOR)

_COMPATIBLE = ("/proc/device-tree/compatible", "/sys/firmware/devicetree/base/compatible")


def identify(tree: Tree) -> Layout:
    """The layout of this machine, with a note where only its chip is known; raises `NoBoard` if it is none."""
    for path in _COMPATIBLE:
        try:
            strings = tree.read(path).split("\0")
        except NodeError:
            continue
        for layout in LAYOUTS:
            if layout.recognises(strings):
                return layout
        if relatives := [layout for layout in LAYOUTS if layout.soc in strings]:
            return _nearest(tree, relatives, strings[0])
        raise NoBoard(f"{path} names {strings}, which is no board known here")
    raise NoBoard("no device tree: this is not a Jetson")


def _nearest(tree: Tree, relatives: list[Layout], module: str) -> Layout:
    """Of the boards with this chip the one whose power rails are there, the first if none is."""
    there = labels(tree)
    fitting = [layout for layout in relatives if there.issuperset(layout.module_rails)]
    layout = (fitting or relatives)[0]
    note = f"{module} is not known here; treated as {layout.name}, which has the same chip"
    return replace(layout, name=f"Jetson ({layout.soc.removeprefix('nvidia,')})", notes=(note, *layout.notes))
