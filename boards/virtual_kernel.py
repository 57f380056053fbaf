# SPDX-License-Identifier: Apache-2.0
"""The kernel of the virtual AGX Orin: the files of JetPack 6 (Linux 5.15), in memory, with the kernel's manners.

What it copies, because control code that ignores it breaks on a board: devfreq accepts a crossed range and lets the
upper limit win, rounds min down and max up to kHz, and off-table values up to a table step (devfreq.c, nvgpu scale.c);
BPMP reports success for writes it refused (bpmp-debugfs.c), locks memory at four rates only and rounds up to them; a
cluster without online cores refuses a clock; cpu0 stays on; a clock takes time to settle.
"""

from __future__ import annotations

import errno
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from .clocks import ClockPoint, ClockTable
from .virtual_tree import Node, constant, os_error

GPU_STEPS_HZ = tuple(1000 * khz for khz in (*range(306_000, 1_224_001, 102_000), 1_300_500))
CPU_STEPS_HZ = tuple(1000 * khz for khz in (*range(115_200, 2_188_801, 76_800), 2_201_600))
EMC_LOCKABLE_HZ = (204_000_000, 665_600_000, 2_133_000_000, 3_199_000_000)
CPU_LOWEST_KHZ = 729_600
"""`scaling_min_freq` as nvpmodel leaves it."""
CLUSTERS = ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
AGX_ORIN_TABLE = ClockTable(GPU_STEPS_HZ, GPU_STEPS_HZ, EMC_LOCKABLE_HZ, CPU_STEPS_HZ, (4, 8, 12))
GPU_SETTLE_S, EMC_SETTLE_S, CPU_SETTLE_S = 0.005, 0.008, 0.001
"""Measured on Orin Nano under R36 (arXiv 2606.16106)."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong on request."""

    ignored: frozenset[str] = frozenset()
    """Knobs (`gpu_hz`, `emc_hz`, ...) whose writes do nothing, in silence."""
    sensor: Literal["sound", "frozen", "negative"] = "sound"
    throttled: bool = False
    """The GPU is held at its lowest step, and the thermal alert is up."""


class Settling:
    """A clock that takes `settle_s` to follow what it was told."""

    __slots__ = ("_now", "_ready_s", "_settle_s", "_target", "_value")

    def __init__(self, value: int, settle_s: float, now: Callable[[], float]) -> None:
        self._value = self._target = value
        self._ready_s = 0.0
        self._settle_s = settle_s
        self._now = now

    def tell(self, target: int) -> None:
        """Set where the clock is to go."""
        if target != self._target:
            self._value, self._target = self.value, target
            self._ready_s = self._now() + self._settle_s

    @property
    def value(self) -> int:
        """Where the clock is now."""
        return self._target if self._now() >= self._ready_s else self._value


def _up_to_step(value: int, steps: tuple[int, ...]) -> int:
    return steps[min(bisect_left(steps, value), len(steps) - 1)]


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise os_error(errno.EINVAL) from error


class VirtualGpu:
    """devfreq of kernel 5.15 under nvgpu."""

    def __init__(self, now: Callable[[], float], faults: Callable[[], Faults]) -> None:
        self._faults = faults
        self._min_hz, self._max_hz = GPU_STEPS_HZ[0], GPU_STEPS_HZ[-1]
        self._low, self._high = (Settling(hz, GPU_SETTLE_S, now) for hz in (self._min_hz, self._max_hz))
        self.busy = False

    def point(self) -> tuple[int, int]:
        """Upper and lower limit that the silicon follows now."""
        high = GPU_STEPS_HZ[0] if self._faults().throttled else self._high.value
        return high, min(self._low.value, high)

    def nodes(self) -> dict[str, Node]:
        """The files of the class device."""
        folder = "/sys/class/devfreq/17000000.gpu"
        return {
            f"{folder}/device/of_node/name": constant("gpu"),
            f"{folder}/device/of_node/compatible": constant("nvidia,ga10b"),
            f"{folder}/available_frequencies": constant(" ".join(map(str, GPU_STEPS_HZ))),
            f"{folder}/governor": constant("nvhost_podgov"),
            f"{folder}/cur_freq": Node(self._current),
            f"{folder}/target_freq": Node(self._current),
            f"{folder}/min_freq": Node(lambda: str(self._range()[0]), self._write_min),
            f"{folder}/max_freq": Node(lambda: str(self._range()[1]), self._write_max),
        }

    def _range(self) -> tuple[int, int]:
        highest = _up_to_step(self._max_hz, GPU_STEPS_HZ)
        return min(_up_to_step(self._min_hz, GPU_STEPS_HZ), highest), highest

    def _current(self) -> str:
        high, low = self.point()
        return str(high if self.busy else low)

    def _write_min(self, text: str) -> None:
        value = _number(text)
        if "gpu_min_hz" not in self._faults().ignored:
            self._min_hz = value // 1000 * 1000
            self._follow()

    def _write_max(self, text: str) -> None:
        value = _number(text)
        if "gpu_hz" not in self._faults().ignored:
            self._max_hz = -(-value // 1000) * 1000 or GPU_STEPS_HZ[-1]
            self._follow()

    def _follow(self) -> None:
        low, high = self._range()
        self._low.tell(low)
        self._high.tell(high)


class VirtualEmc:
    """The EMC clock of BPMP debugfs, and its cap."""

    def __init__(self, now: Callable[[], float], faults: Callable[[], Faults]) -> None:
        self._faults = faults
        self._cap_hz = EMC_LOCKABLE_HZ[-1]
        self._locked = False
        self._enabled = 1
        self.rate = Settling(self._cap_hz, EMC_SETTLE_S, now)

    def nodes(self) -> dict[str, Node]:
        """The files of the clock."""
        folder = "/sys/kernel/debug/bpmp/debug/clk/emc"
        steps = (204_000, 665_600, 1_600_000, 2_133_000, 2_750_000, 3_199_000, 3_200_000)
        table = "\n".join(f"{number} {1000 * khz}" for number, khz in enumerate(steps))
        return {
            f"{folder}/rate": Node(lambda: str(self.rate.value), self._write_rate),
            f"{folder}/min_rate": constant(EMC_LOCKABLE_HZ[0]),
            f"{folder}/max_rate": constant(EMC_LOCKABLE_HZ[-1]),
            f"{folder}/mrq_rate_locked": Node(lambda: str(int(self._locked)), self._write_locked),
            f"{folder}/state": Node(lambda: str(self._enabled), self._write_state),
            f"{folder}/dvfs_table": constant(table),
            "/sys/kernel/nvpmodel_clk_cap/emc": Node(lambda: str(self._cap_hz), self._write_cap),
        }

    def _write_rate(self, text: str) -> None:
        # The firmware refuses in silence: nothing here raises for a value it will not take.
        rate = _number(text)
        if self._locked and "emc_hz" not in self._faults().ignored and 0 < rate <= EMC_LOCKABLE_HZ[-1]:
            self.rate.tell(min(_up_to_step(rate, EMC_LOCKABLE_HZ), self._cap_hz))

    def _write_locked(self, text: str) -> None:
        self._locked = _number(text) == 1
        if not self._locked:
            self.rate.tell(self._cap_hz)

    def _write_state(self, text: str) -> None:
        self._enabled = int(_number(text) != 0)

    def _write_cap(self, text: str) -> None:
        cap = _number(text)
        self._cap_hz = _up_to_step(cap, EMC_LOCKABLE_HZ) if cap > 0 else EMC_LOCKABLE_HZ[-1]
        self.rate.tell(min(self.rate.value, self._cap_hz) if self._locked else self._cap_hz)


class VirtualCpus:
    """cpufreq policies and hot-plug of twelve A78AE cores in three clusters."""

    def __init__(self, now: Callable[[], float], faults: Callable[[], Faults]) -> None:
        self._faults = faults
        self._online = dict.fromkeys((cpu for cluster in CLUSTERS for cpu in cluster), True)
        self._limits_khz = {cluster[0]: CPU_STEPS_HZ[-1] // 1000 for cluster in CLUSTERS}
        self._clocks = {number: Settling(khz, CPU_SETTLE_S, now) for number, khz in self._limits_khz.items()}

    def point(self) -> tuple[int, int]:
        """The online clusters' mean clock in Hz, and how many cores are online."""
        clocks = [1000 * self._clocks[cluster[0]].value for cluster in CLUSTERS if self._active(cluster)]
        return sum(clocks) // len(clocks), sum(self._online.values())

    def nodes(self) -> dict[str, Node]:
        """The files of policies and cores."""
        nodes: dict[str, Node] = {}
        for cluster in CLUSTERS:
            number = cluster[0]
            folder = f"/sys/devices/system/cpu/cpufreq/policy{number}"
            nodes |= {
                f"{folder}/related_cpus": constant(" ".join(map(str, cluster))),
                f"{folder}/scaling_available_frequencies": constant(" ".join(str(hz // 1000) for hz in CPU_STEPS_HZ)),
                f"{folder}/scaling_governor": constant("schedutil"),
                f"{folder}/scaling_min_freq": Node(partial(self._lowest, number)),
                f"{folder}/scaling_max_freq": self._limit_node(cluster),
                f"{folder}/cpuinfo_cur_freq": Node(partial(self._measured, cluster)),
            }
            nodes |= {f"/sys/devices/system/cpu/cpu{cpu}/online": self._online_node(cpu) for cpu in cluster}
        return nodes

    def _active(self, cluster: Iterable[int]) -> bool:
        return any(self._online[cpu] for cpu in cluster)

    def _lowest(self, number: int) -> str:
        return str(min(CPU_LOWEST_KHZ, self._limits_khz[number]))

    def _measured(self, cluster: tuple[int, ...]) -> str:
        if not self._active(cluster):
            raise os_error(errno.EBUSY)
        return str(self._clocks[cluster[0]].value)

    def _limit_node(self, cluster: tuple[int, ...]) -> Node:
        def write(text: str) -> None:
            khz = _number(text)
            if not self._active(cluster):
                raise os_error(errno.EBUSY)
            if "cpu_hz" not in self._faults().ignored:
                self._limits_khz[cluster[0]] = min(max(khz, CPU_STEPS_HZ[0] // 1000), CPU_STEPS_HZ[-1] // 1000)
                # The driver runs at the highest step within the limit.
                within = [hz // 1000 for hz in CPU_STEPS_HZ if hz // 1000 <= self._limits_khz[cluster[0]]]
                self._clocks[cluster[0]].tell(within[-1])

        return Node(lambda: str(self._limits_khz[cluster[0]]), write)

    def _online_node(self, cpu: int) -> Node:
        def write(text: str) -> None:
            online = _number(text)
            if online not in (0, 1):
                raise os_error(errno.EINVAL)
            if cpu == 0 and not online:
                raise os_error(errno.EPERM)
            if "cores" not in self._faults().ignored:
                self._online[cpu] = bool(online)

        return Node(lambda: str(int(self._online[cpu])), write)


class VirtualOrin:
    """The clocks of the virtual AGX Orin: what control code sees, and what the silicon follows."""

    def __init__(self, now: Callable[[], float], faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.gpu = VirtualGpu(now, lambda: self.faults)
        self.emc = VirtualEmc(now, lambda: self.faults)
        self.cpus = VirtualCpus(now, lambda: self.faults)

    def point(self) -> ClockPoint:
        """The clocks that the silicon runs at now."""
        (gpu, gpu_min), (cpu, cores) = self.gpu.point(), self.cpus.point()
        return ClockPoint(gpu, gpu_min, self.emc.rate.value, cpu, cores)

    def nodes(self) -> dict[str, Node]:
        """Every clock file, and the device tree that identifies the board."""
        identity = {
            "/proc/device-tree/model": constant("NVIDIA Jetson AGX Orin Developer Kit"),
            "/proc/device-tree/compatible": constant("nvidia,p3737-0000+p3701-0005\0nvidia,tegra234"),
        }
        return identity | self.gpu.nodes() | self.emc.nodes() | self.cpus.nodes()
