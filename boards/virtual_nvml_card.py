# SPDX-License-Identifier: Apache-2.0
"""The made-up GPU behind the virtual NVML: clocks under locks, limits, sensors, and what goes wrong with them.

Clocks, limits and name are assumed: an Ampere card in shape, no real product.
"""

from __future__ import annotations

import errno
from types import SimpleNamespace

from .clocks import ClockPoint
from .nvml_calls import (
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    IN_USE,
    MEMORY_TEMPERATURE_FIELD,
    MHZ,
    NO_DATA,
    NO_PERMISSION,
    NOT_SUPPORTED,
    POWER_INSTANT_FIELD,
    UNKNOWN,
    Reason,
)
from .virtual_faults import Faults, FaultSwitch

GRAPHICS_MHZ = tuple(range(210, 1741, 15))
MEMORY_MHZ = (405, 5001, 7001)
IDLE_GRAPHICS_MHZ = tuple(clock for clock in GRAPHICS_MHZ if clock <= 420)
LIMITS_MW = (100_000, 300_000)
DEFAULT_LIMIT_MW = 300_000
NAME = "Virtual GPU (assumed figures)"
SETTERS = (
    "nvmlDeviceSetGpuLockedClocks",
    "nvmlDeviceResetGpuLockedClocks",
    "nvmlDeviceSetMemoryLockedClocks",
    "nvmlDeviceResetMemoryLockedClocks",
    "nvmlDeviceSetPowerManagementLimit",
)
ALWAYS_THERE = ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName")


class VirtualNvmlError(Exception):
    """What `pynvml.NVMLError` is: a return code in `value`."""

    def __init__(self, value: int) -> None:
        self.value = value
        super().__init__(f"virtual NVML answers {value}")


class VirtualCard:
    """One GPU; what it is doing is told from outside."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.refusals: dict[str, int] = {}
        """Return codes of calls that fail, by name."""
        self.switch = FaultSwitch(faults)
        self.name = NAME
        self.handle = 1
        self.gpu_lock_mhz: tuple[int, int] | None = None
        self.memory_lock_mhz: tuple[int, int] | None = None
        self.power_limit_mw = DEFAULT_LIMIT_MW
        self.persistent = True
        self.busy = False
        self.held_mhz: int | None = None
        """The graphics clock at which something below the driver holds a busy GPU."""
        self.more_reasons = Reason(0)
        self.capped_mhz: int | None = None
        """The clock to which the power limit holds a busy GPU."""
        self.power_w = 0.0
        self._sensed_mw = 0
        self.energy_j = 0.0
        self.celsius = 40.0

    def not_root(self) -> None:
        """From now on setters are refused."""
        self.refusals |= dict.fromkeys(SETTERS, NO_PERMISSION)

    def as_orin(self) -> None:
        """What JetPack 6's NVML is on Orin: a name, and nothing else."""
        self.name = "Orin (nvgpu)"
        calls = {name for name in dir(self) if name.startswith("nvmlDevice")}
        self.refusals |= dict.fromkeys(calls - set(ALWAYS_THERE), NOT_SUPPORTED)

    def without(self, *names: str) -> None:
        """A library that lacks these functions."""
        self.refusals |= dict.fromkeys(names, FUNCTION_NOT_FOUND)

    def reload(self) -> None:
        """The driver is unloaded and loaded again: locks and limit are gone, and old handles void."""
        self.handle += 1
        self.gpu_lock_mhz = self.memory_lock_mhz = None
        self.power_limit_mw = DEFAULT_LIMIT_MW

    def refuse(self, name: str) -> None:
        """Raise what the call `name` is to fail with, if it is to fail."""
        missing = self.switch.faults.missing
        if missing & {"gpu_hz", "gpu_min_hz"} and name != "nvmlInit":
            raise VirtualNvmlError(GPU_IS_LOST)
        if "emc_hz" in missing and "Memory" in name:
            raise VirtualNvmlError(NOT_SUPPORTED)
        if name in self.refusals:
            raise VirtualNvmlError(self.refusals[name])

    def takes(self, knob: str) -> bool:
        """Whether a setter has any effect; raises the return code for a fault that fails it."""
        try:
            return self.switch.takes(knob)
        except OSError as error:
            raise VirtualNvmlError(NO_PERMISSION if error.errno == errno.EACCES else IN_USE) from error

    def graphics_mhz(self) -> int:
        """The graphics clock while the GPU is busy."""
        if self.switch.faults.throttled:
            return GRAPHICS_MHZ[0]
        if self.held_mhz is not None:
            return self.held_mhz
        highest = self.gpu_lock_mhz[1] if self.gpu_lock_mhz else GRAPHICS_MHZ[-1]
        return highest if self.capped_mhz is None else min(highest, self.capped_mhz)

    def memory_mhz(self) -> int:
        """The memory clock while the GPU is busy."""
        return self.memory_lock_mhz[1] if self.memory_lock_mhz else MEMORY_MHZ[-1]

    def point(self) -> ClockPoint:
        """The clocks while the GPU is busy."""
        return ClockPoint(gpu_hz=MHZ * self.graphics_mhz(), emc_hz=MHZ * self.memory_mhz())

    def reasons(self) -> Reason:
        """Why the clocks are where they are."""
        reasons = self.more_reasons
        if not self.busy:
            reasons |= Reason.GPU_IDLE
        if self.busy and self.capped_mhz is not None:
            reasons |= Reason.SW_POWER_CAP
        if self.switch.faults.throttled:
            reasons |= Reason.HW_SLOWDOWN | Reason.HW_THERMAL_SLOWDOWN
        return reasons

    def field(self, field: int) -> SimpleNamespace:
        """One value as `nvmlDeviceGetFieldValues` gives it, with a return code of its own."""
        readings = {POWER_INSTANT_FIELD: self.power_mw, MEMORY_TEMPERATURE_FIELD: self.read_celsius}
        try:
            code, value = (0, readings[field]()) if field in readings else (NOT_SUPPORTED, 0)
        except VirtualNvmlError as error:
            code, value = error.value, 0
        return SimpleNamespace(nvmlReturn=code, value=SimpleNamespace(uiVal=value))

    def power_mw(self) -> int:
        """What the power sensor says: unsigned, so one that lies downwards answers that it has no data."""
        sensor = self.switch.faults.sensor
        if sensor in ("negative", "nan", "empty"):
            raise VirtualNvmlError(NO_DATA)
        if sensor != "frozen":
            self._sensed_mw = round({"zero": 0.0, "spike": 10_000.0}.get(sensor, 1000.0) * self.power_w)
        return self._sensed_mw

    def read_celsius(self) -> int:
        """What the temperature sensors say."""
        if self.switch.faults.thermal == "unreadable":
            raise VirtualNvmlError(UNKNOWN)
        return round(self.celsius)
