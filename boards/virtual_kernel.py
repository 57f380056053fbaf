# SPDX-License-Identifier: Apache-2.0
"""The kernel of a virtual Jetson: the files of its board under one JetPack, in memory, with that kernel's manners.

Each part states in its own module what it copies (`virtual_gpu`, `virtual_emc`, `virtual_cpu`, `virtual_rails`,
`virtual_thermal`). At the start everything is as in MAXN at rest: all cores, full ranges, memory unlocked.
"""

from __future__ import annotations

from collections.abc import Callable

from .clocks import ClockPoint
from .physics import Watts
from .profile import PowerMode, Profile
from .virtual_cpu import FOLDER as CPU_FOLDER
from .virtual_cpu import VirtualCpus
from .virtual_emc import FOLDER as EMC_FOLDER
from .virtual_emc import VirtualEmc
from .virtual_faults import Faults, FaultSwitch
from .virtual_gpu import VirtualGpu
from .virtual_physics import MEASURED_CLASS_W, Physics
from .virtual_rails import VirtualRails
from .virtual_thermal import KELVIN_AT_60_W, VirtualThermal
from .virtual_tree import Node, VirtualTree, constant

_NO_LIMIT = 2**63 - 1
"""What nvpmodel writes for -1."""
_TACHO = "/sys/devices/platform/39c0000.tachometer/hwmon/hwmon0"
_FAN = "/sys/devices/platform/pwm-fan/hwmon/hwmon1"


class VirtualKernel:
    """What control code sees of a board (`tree`), and what its silicon follows."""

    def __init__(
        self, profile: Profile, jetpack: str, now: Callable[[], float], switch: FaultSwitch | None = None
    ) -> None:
        if jetpack not in profile.jetpacks:
            raise ValueError(f"{profile.name} is known under JetPack {', '.join(profile.jetpacks)}, not {jetpack}")
        self.profile = profile
        self.jetpack = jetpack
        self.physics = Physics.of(profile)
        self.switch = switch or FaultSwitch()
        self.gpu = VirtualGpu(profile.gpu, jetpack, now, self.switch)
        self.emc = VirtualEmc(profile.emc, jetpack, now, self.switch)
        self.cpus = VirtualCpus(profile.cpu, jetpack, now, self.switch)
        power = self.physics.idle(self.point())
        self.rails = VirtualRails(profile.rails, jetpack, self.switch, power)
        kelvin_per_watt = KELVIN_AT_60_W / (MEASURED_CLASS_W * self.physics.share)
        self.thermal = VirtualThermal(
            profile.thermal, jetpack, self.switch, kelvin_per_watt, power.total_w, lambda: self.gpu.gated
        )
        self.tree = VirtualTree(self._nodes(), self._links(), self._hidden)

    @property
    def faults(self) -> Faults:
        """What goes wrong now."""
        return self.switch.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.switch.faults = faults

    def paths(self) -> list[str]:
        """The real path of every file."""
        return sorted(self._nodes())

    def point(self) -> ClockPoint:
        """The clocks that the silicon runs at now."""
        (gpu, gpu_min), (cpu, cores) = self.gpu.point(), self.cpus.point()
        return ClockPoint(gpu, gpu_min, self.emc.rate.value, cpu, cores)

    def feed(self, power: Watts, dt_s: float, *, busy: bool) -> None:
        """Let `dt_s` seconds pass at a power, with or without work on the GPU."""
        self.gpu.busy = busy
        self.rails.feed(power, dt_s)
        self.thermal.feed(power.total_w, dt_s)

    def apply_mode(self, number: int) -> None:
        """Write the files of a power mode as nvpmodel does: cores, CPU, GPU, memory cap.

        Raises `KeyError` for a mode that the board lacks, `NodeError`. Fuse masks are not part of it, nor the reboot
        that some modes ask for.
        """
        mode = {mode.number: mode for mode in self.profile.modes}[number]
        for path in self.cpus.core_files()[1:]:
            cpu = int(path.removeprefix(f"{CPU_FOLDER}/cpu").removesuffix("/online"))
            self.tree.write(path, str(int(cpu in mode.cores)))
        for path in self.tree.glob(f"{CPU_FOLDER}/cpufreq/policy*"):
            if self.tree.read(f"{path}/affected_cpus"):
                self.tree.write(f"{path}/scaling_min_freq", "0")
                self.tree.write(f"{path}/scaling_max_freq", str(_limit(mode.cpu_max_hz, 1000)))
                self.tree.write(f"{path}/scaling_min_freq", str(mode.cpu_min_hz // 1000))
        self.tree.write(f"{self.gpu.folder}/min_freq", "0")
        self.tree.write(f"{self.gpu.folder}/max_freq", str(_limit(mode.gpu_max_hz, 1)))
        self.tree.write(self.profile.emc.caps[self.jetpack], str(self._cap(mode)))

    def _cap(self, mode: PowerMode) -> int:
        no_cap = 0 if self.jetpack in ("4", "5") else _NO_LIMIT
        return mode.emc_cap_hz or no_cap

    def _nodes(self) -> dict[str, Node]:
        identity = {
            "/proc/device-tree/model": constant(self.profile.model),
            "/proc/device-tree/compatible": constant("\0".join(self.profile.compatible)),
        }
        nodes = identity | self.gpu.nodes() | self.emc.nodes() | self.cpus.nodes() | self.rails.nodes()
        return nodes | self.thermal.nodes(self._free_hwmon(), self._gpu_name()) | self._fan_nodes()

    def _links(self) -> dict[str, str]:
        links = self.gpu.links() | self.emc.links() | self.rails.links() | self.thermal.links(self._free_hwmon())
        if self.jetpack != "4":
            links |= {"/sys/class/hwmon/hwmon0": _TACHO, "/sys/class/hwmon/hwmon1": _FAN}
        return links

    def _fan_nodes(self) -> dict[str, Node]:
        """The fan. Nothing here turns it: its devices are in the way of code that counts hwmons instead of looking."""
        if self.jetpack == "4":
            return {f"/sys/devices/pwm-fan/{name}": constant(80) for name in ("target_pwm", "cur_pwm", "temp_control")}
        return {
            f"{_TACHO}/name": constant("pwm_tach"),
            f"{_TACHO}/rpm": constant(1200),
            f"{_FAN}/name": constant("pwmfan"),
            f"{_FAN}/pwm1": constant(80),
        }

    def _free_hwmon(self) -> int:
        return 2 + len(self.profile.rails.chips)

    def _gpu_name(self) -> str:
        return self.profile.gpu.layouts[self.jetpack].name

    def _hidden(self) -> list[str]:
        """Folders of the parts that are missing."""
        if not self.faults.missing:
            return []
        folders = {
            "gpu_hz": [self.gpu.folder],
            "gpu_min_hz": [self.gpu.folder],
            "emc_hz": [EMC_FOLDER],
            "cpu_hz": [f"{CPU_FOLDER}/cpufreq"],
            "cores": list(self.cpus.core_files()),
        }
        return [folder for knob in self.faults.missing for folder in folders[knob]]


def _limit(hz: int, unit_hz: int) -> int:
    return _NO_LIMIT if hz < 0 else hz // unit_hz
