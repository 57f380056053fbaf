# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 - method names are those of pynvml
"""The functions of `pynvml` that a board needs, over one made-up GPU, with the manners of NVIDIA's driver.

Locks are kept until they are reset, an inverted range is an invalid argument, setters want root, an idle GPU rests at
its lowest clock whatever is locked. Clocks, limits and name are assumed: an Ampere card in shape, no real product.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import SimpleNamespace
from typing import Any, TypeVar

from .clocks import ClockPoint
from .nvml_calls import (
    FUNCTION_NOT_FOUND,
    GRAPHICS_CLOCK,
    INVALID_ARGUMENT,
    MEMORY_TEMPERATURE_FIELD,
    MHZ,
    NO_PERMISSION,
    NOT_SUPPORTED,
    POWER_INSTANT_FIELD,
    Reason,
)

R = TypeVar("R")

GRAPHICS_MHZ = tuple(range(210, 1741, 15))
MEMORY_MHZ = (405, 5001, 7001)
_IDLE_MEMORY_GRAPHICS_MHZ = tuple(clock for clock in GRAPHICS_MHZ if clock <= 420)
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


def _call(method: Callable[..., R]) -> Callable[..., R]:
    """A call on the device: refused if it is to be, invalid for any handle but the device's."""

    @wraps(method)
    def checked(self: VirtualNvml, handle: int, *arguments: Any) -> R:
        self.refuse(method.__name__)
        if handle != self.handle:
            raise VirtualNvmlError(INVALID_ARGUMENT)
        return method(self, handle, *arguments)

    return checked


class VirtualNvml:
    """One GPU behind the functions of `pynvml`; what it is doing is told from outside."""

    NVMLError = VirtualNvmlError
    handle = 1

    def __init__(self) -> None:
        self.refusals: dict[str, int] = {}
        """Return codes of calls that fail, by name."""
        self.ignored: frozenset[str] = frozenset()
        """Calls that succeed and do nothing."""
        self.name = NAME
        self.gpu_lock_mhz: tuple[int, int] | None = None
        self.memory_lock_mhz: tuple[int, int] | None = None
        self.power_limit_mw = DEFAULT_LIMIT_MW
        self.persistent = True
        self.busy = False
        self.throttled = False
        """Heat has taken the clocks: a busy GPU runs at its lowest."""
        self.capped_mhz: int | None = None
        """The clock to which the power limit holds a busy GPU."""
        self.power_w = 0.0
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

    def refuse(self, name: str) -> None:
        """Raise what the call `name` is to fail with, if it is to fail."""
        if name in self.refusals:
            raise VirtualNvmlError(self.refusals[name])

    def graphics_mhz(self) -> int:
        """The graphics clock while the GPU is busy."""
        if self.throttled:
            return GRAPHICS_MHZ[0]
        highest = self.gpu_lock_mhz[1] if self.gpu_lock_mhz else GRAPHICS_MHZ[-1]
        return highest if self.capped_mhz is None else min(highest, self.capped_mhz)

    def memory_mhz(self) -> int:
        """The memory clock while the GPU is busy."""
        return self.memory_lock_mhz[1] if self.memory_lock_mhz else MEMORY_MHZ[-1]

    def point(self) -> ClockPoint:
        """The clocks while the GPU is busy."""
        return ClockPoint(gpu_hz=MHZ * self.graphics_mhz(), emc_hz=MHZ * self.memory_mhz())

    def nvmlInit(self) -> None:
        self.refuse("nvmlInit")

    def nvmlShutdown(self) -> None:
        self.refuse("nvmlShutdown")

    def nvmlDeviceGetCount(self) -> int:
        self.refuse("nvmlDeviceGetCount")
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self.refuse("nvmlDeviceGetHandleByIndex")
        if index != 0:
            raise VirtualNvmlError(INVALID_ARGUMENT)
        return self.handle

    @_call
    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.name

    @_call
    def nvmlDeviceGetSupportedMemoryClocks(self, handle: int) -> list[int]:
        return sorted(MEMORY_MHZ, reverse=True)

    @_call
    def nvmlDeviceGetSupportedGraphicsClocks(self, handle: int, memory_mhz: int) -> list[int]:
        if memory_mhz not in MEMORY_MHZ:
            raise VirtualNvmlError(INVALID_ARGUMENT)
        idle = memory_mhz == MEMORY_MHZ[0]
        return sorted(_IDLE_MEMORY_GRAPHICS_MHZ if idle else GRAPHICS_MHZ, reverse=True)

    @_call
    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        if kind == GRAPHICS_CLOCK:
            return self.graphics_mhz() if self.busy else GRAPHICS_MHZ[0]
        return self.memory_mhz() if self.busy else MEMORY_MHZ[0]

    @_call
    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        reasons = Reason(0)
        if not self.busy:
            reasons |= Reason.GPU_IDLE
        if self.busy and self.capped_mhz is not None:
            reasons |= Reason.SW_POWER_CAP
        if self.throttled:
            reasons |= Reason.HW_SLOWDOWN | Reason.HW_THERMAL_SLOWDOWN
        return int(reasons)

    @_call
    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return self.nvmlDeviceGetCurrentClocksEventReasons(handle)

    @_call
    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=100 if self.busy else 0, memory=0)

    @_call
    def nvmlDeviceGetPersistenceMode(self, handle: int) -> int:
        return int(self.persistent)

    @_call
    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[int]) -> list[SimpleNamespace]:
        return [self._field(field) for field in fields]

    @_call
    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return round(1000 * self.power_w)

    @_call
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        return round(1000 * self.energy_j)

    @_call
    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return round(self.celsius)

    @_call
    def nvmlDeviceGetPowerManagementLimit(self, handle: int) -> int:
        return self.power_limit_mw

    @_call
    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: int) -> int:
        return DEFAULT_LIMIT_MW

    @_call
    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle: int) -> list[int]:
        return list(LIMITS_MW)

    @_call
    def nvmlDeviceSetPowerManagementLimit(self, handle: int, limit_mw: int) -> None:
        if not LIMITS_MW[0] <= limit_mw <= LIMITS_MW[1]:
            raise VirtualNvmlError(INVALID_ARGUMENT)
        if "nvmlDeviceSetPowerManagementLimit" not in self.ignored:
            self.power_limit_mw = limit_mw

    @_call
    def nvmlDeviceSetGpuLockedClocks(self, handle: int, lowest_mhz: int, highest_mhz: int) -> None:
        if lowest_mhz > highest_mhz:
            raise VirtualNvmlError(INVALID_ARGUMENT)
        if "nvmlDeviceSetGpuLockedClocks" not in self.ignored:
            self.gpu_lock_mhz = lowest_mhz, highest_mhz

    @_call
    def nvmlDeviceResetGpuLockedClocks(self, handle: int) -> None:
        self.gpu_lock_mhz = None

    @_call
    def nvmlDeviceSetMemoryLockedClocks(self, handle: int, lowest_mhz: int, highest_mhz: int) -> None:
        if lowest_mhz > highest_mhz:
            raise VirtualNvmlError(INVALID_ARGUMENT)
        if "nvmlDeviceSetMemoryLockedClocks" not in self.ignored:
            self.memory_lock_mhz = lowest_mhz, highest_mhz

    @_call
    def nvmlDeviceResetMemoryLockedClocks(self, handle: int) -> None:
        self.memory_lock_mhz = None

    def _field(self, field: int) -> SimpleNamespace:
        known = {POWER_INSTANT_FIELD: round(1000 * self.power_w), MEMORY_TEMPERATURE_FIELD: round(self.celsius + 8)}
        code = self.refusals.get(f"field {field}", 0 if field in known else NOT_SUPPORTED)
        return SimpleNamespace(nvmlReturn=code, value=SimpleNamespace(uiVal=known.get(field, 0)))
