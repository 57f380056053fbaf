# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 - method names are those of pynvml
"""The functions of `pynvml` that a board needs, over one made-up GPU, with the manners of NVIDIA's driver.

Locks are kept until they are reset, an inverted range is an invalid argument, setters want root, an idle GPU rests at
its lowest clock whatever is locked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import SimpleNamespace
from typing import Any, TypeVar

from .nvml_calls import GRAPHICS_CLOCK, INVALID_ARGUMENT
from .virtual_nvml_card import (
    DEFAULT_LIMIT_MW,
    GRAPHICS_MHZ,
    IDLE_GRAPHICS_MHZ,
    LIMITS_MW,
    MEMORY_MHZ,
    VirtualCard,
    VirtualNvmlError,
)

R = TypeVar("R")


def _call(method: Callable[..., R]) -> Callable[..., R]:
    """A call on the device: refused if it is to be, invalid for any handle but the device's."""

    @wraps(method)
    def checked(self: VirtualNvml, handle: int, *arguments: Any) -> R:
        self.refuse(method.__name__)
        if handle != self.handle:
            raise VirtualNvmlError(INVALID_ARGUMENT)
        return method(self, handle, *arguments)

    return checked


class VirtualNvml(VirtualCard):
    """The functions themselves: an object of this class stands in for the module."""

    NVMLError = VirtualNvmlError

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
        return sorted(IDLE_GRAPHICS_MHZ if idle else GRAPHICS_MHZ, reverse=True)

    @_call
    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        if kind == GRAPHICS_CLOCK:
            return self.graphics_mhz() if self.busy else GRAPHICS_MHZ[0]
        return self.memory_mhz() if self.busy else MEMORY_MHZ[0]

    @_call
    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        return int(self.reasons())

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
        return [self.field(field) for field in fields]

    @_call
    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return self.power_mw()

    @_call
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        return round(1000 * self.energy_j)

    @_call
    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return self.read_celsius()

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
        self.power_limit_mw = limit_mw

    @_call
    def nvmlDeviceSetGpuLockedClocks(self, handle: int, lowest_mhz: int, highest_mhz: int) -> None:
        if lowest_mhz > highest_mhz:
            raise VirtualNvmlError(INVALID_ARGUMENT)
        if self.takes("gpu_hz") and self.takes("gpu_min_hz"):
            highest_mhz = self.switch.clamp("gpu_hz", highest_mhz, GRAPHICS_MHZ)
            self.gpu_lock_mhz = min(lowest_mhz, highest_mhz), highest_mhz

    @_call
    def nvmlDeviceResetGpuLockedClocks(self, handle: int) -> None:
        self.gpu_lock_mhz = None

    @_call
    def nvmlDeviceSetMemoryLockedClocks(self, handle: int, lowest_mhz: int, highest_mhz: int) -> None:
        if lowest_mhz > highest_mhz:
            raise VirtualNvmlError(INVALID_ARGUMENT)
        if self.takes("emc_hz"):
            highest_mhz = self.switch.clamp("emc_hz", highest_mhz, MEMORY_MHZ)
            self.memory_lock_mhz = min(lowest_mhz, highest_mhz), highest_mhz

    @_call
    def nvmlDeviceResetMemoryLockedClocks(self, handle: int) -> None:
        self.memory_lock_mhz = None
