# SPDX-License-Identifier: Apache-2.0
"""One GPU through NVML (NVIDIA Management Library): one method per call, SI units, this package's errors.

The module that makes the calls comes from outside: nvidia-ml-py's `pynvml`, or the virtual one. Numbers are those of
NVIDIA's nvml.h, which are its binary interface and never change.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Callable
from enum import IntFlag
from typing import Any, Protocol

from .errors import KnobDenied, KnobRefused, NoBoard, NodeError, NodeMissing, SensorImplausible, SensorUnavailable
from .tree import Patient

MHZ = 1_000_000
GRAPHICS_CLOCK = 0
MEMORY_CLOCK = 2
GPU_SENSOR = 0
MEMORY_TEMPERATURE_FIELD = 82
POWER_INSTANT_FIELD = 186

INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
IN_USE = 19
NO_DATA = 21
UNKNOWN = 999
_BUSY = {10, 19, 27}
"""Timeout, in use, not ready."""
_GONE = {1, 9, 15, 16, 28}
"""Uninitialised, driver not loaded, GPU lost, reset required, GPU not found."""
_ABSENT = {3, 13, 26}
"""Not supported by this GPU, not in this library, no longer supported."""


class Reason(IntFlag):
    """Why the clocks are where they are (nvml.h, nvmlClocksEventReasons)."""

    GPU_IDLE = 0x1
    SW_POWER_CAP = 0x4
    HW_SLOWDOWN = 0x8
    SW_THERMAL_SLOWDOWN = 0x20
    HW_THERMAL_SLOWDOWN = 0x40
    HW_POWER_BRAKE = 0x80


class NvmlModule(Protocol):
    """What is needed of `pynvml`; calls on a device are looked up by name, since old bindings lack some."""

    @property
    def NVMLError(self) -> type[Exception]: ...  # noqa: N802 - pynvml's name
    def nvmlInit(self) -> None: ...  # noqa: N802 - pynvml's name
    def nvmlShutdown(self) -> None: ...  # noqa: N802 - pynvml's name
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802 - pynvml's name
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802 - pynvml's name


def nvml_error(path: str, code: int, message: str, *, writing: bool) -> NodeError:
    """The typed error for an NVML return code; its `code` is the errno that says the same."""
    if code == NO_PERMISSION:
        return KnobDenied(path, message, errno.EPERM)
    if code in _GONE:
        return NodeMissing(path, message, errno.ENODEV)
    if code in _ABSENT:
        return NodeMissing(path, message, errno.ENOTSUP)
    number = errno.EBUSY if code in _BUSY else errno.EINVAL if code == INVALID_ARGUMENT else errno.EIO
    return (KnobRefused if writing else SensorUnavailable)(path, message, number)


class Device:
    """The GPU at `index`. Every method raises `NodeError`; its `path` names the GPU and the call."""

    def __init__(self, nvml: NvmlModule, index: int, sleep: Callable[[float], None]) -> None:
        self._nvml = nvml
        self._index = index
        self._sleep = sleep
        self._handle: Any = None

    def open(self) -> None:
        """Start NVML and find the GPU; raises `NoBoard` where there is none."""
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise NoBoard(_why_not(error)) from error
        try:
            count = self._nvml.nvmlDeviceGetCount()
            if self._index >= count:
                raise NoBoard(f"nvml:{self._index}: there is no such GPU, NVML counts {count}")
            self._handle = self._nvml.nvmlDeviceGetHandleByIndex(self._index)
        except self._nvml.NVMLError as error:
            raise NoBoard(f"nvml:{self._index}: {error}") from error

    def reopen(self) -> None:
        """The same after the GPU was lost or its driver reloaded: old handles are void. Raises `NoBoard`."""
        # An NVML that lost its driver may not even be able to end; a fresh start is all that is wanted.
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()
        self.open()

    def name(self) -> str:
        """What the GPU calls itself."""
        name = self._read("nvmlDeviceGetName")
        return name.decode() if isinstance(name, bytes) else str(name)

    def memory_clocks_hz(self) -> tuple[int, ...]:
        """The memory clocks that may be asked for, ascending."""
        return _ascending_hz(self._read("nvmlDeviceGetSupportedMemoryClocks"))

    def graphics_clocks_hz(self, memory_hz: int) -> tuple[int, ...]:
        """The graphics clocks that may be asked for while memory runs at `memory_hz`, ascending."""
        return _ascending_hz(self._read("nvmlDeviceGetSupportedGraphicsClocks", memory_hz // MHZ))

    def clock_hz(self, kind: int) -> int:
        """The clock now: `GRAPHICS_CLOCK` or `MEMORY_CLOCK`."""
        return MHZ * int(self._read("nvmlDeviceGetClockInfo", kind))

    def reasons(self) -> Reason:
        """Why the clocks are where they are; drivers before R535 have the call under its old name."""
        try:
            bits = self._read("nvmlDeviceGetCurrentClocksEventReasons")
        except NodeMissing:
            bits = self._read("nvmlDeviceGetCurrentClocksThrottleReasons")
        return Reason(int(bits))

    def utilisation(self) -> float:
        """Share of the last sample period (1/6 to 1 s) in which a kernel ran."""
        return float(self._read("nvmlDeviceGetUtilizationRates").gpu) / 100

    def persistent(self) -> bool:
        """Whether the driver stays loaded without clients."""
        return bool(self._read("nvmlDeviceGetPersistenceMode"))

    def instant_power_w(self) -> float:
        """Watts of the whole card now."""
        return self._watts(self._field(POWER_INSTANT_FIELD))

    def mean_power_w(self) -> float:
        """Watts of the whole card: from Ampere on (but GA100) the mean of the last second."""
        return self._watts(int(self._read("nvmlDeviceGetPowerUsage")))

    def energy_j(self) -> float:
        """Joules since the driver was loaded."""
        return float(self._read("nvmlDeviceGetTotalEnergyConsumption")) / 1000

    def gpu_celsius(self) -> float:
        """Temperature of the GPU's die."""
        return float(self._read("nvmlDeviceGetTemperature", GPU_SENSOR))

    def memory_celsius(self) -> float:
        """Temperature of the memory."""
        return float(self._field(MEMORY_TEMPERATURE_FIELD))

    def power_limit_mw(self) -> int:
        """The power limit in force."""
        return int(self._read("nvmlDeviceGetPowerManagementLimit"))

    def default_power_limit_mw(self) -> int:
        """The power limit after the driver was loaded."""
        return int(self._read("nvmlDeviceGetPowerManagementDefaultLimit"))

    def power_limits_mw(self) -> tuple[int, int]:
        """The lowest and the highest power limit that may be asked for."""
        lowest, highest = self._read("nvmlDeviceGetPowerManagementLimitConstraints")
        return int(lowest), int(highest)

    def request_power_limit(self, limit_mw: int) -> None:
        """Ask for a power limit."""
        self._write("nvmlDeviceSetPowerManagementLimit", limit_mw)

    def request_gpu_range(self, lowest_hz: int, highest_hz: int) -> None:
        """Lock the graphics clock into a range; the lock outlives this process."""
        self._write("nvmlDeviceSetGpuLockedClocks", lowest_hz // MHZ, highest_hz // MHZ)

    def release_gpu_range(self) -> None:
        """Take every lock of the graphics clock away."""
        self._write("nvmlDeviceResetGpuLockedClocks")

    def request_memory_range(self, lowest_hz: int, highest_hz: int) -> None:
        """Lock the memory clock into a range; the lock outlives this process."""
        self._write("nvmlDeviceSetMemoryLockedClocks", lowest_hz // MHZ, highest_hz // MHZ)

    def release_memory_range(self) -> None:
        """Take every lock of the memory clock away."""
        self._write("nvmlDeviceResetMemoryLockedClocks")

    def _read(self, name: str, *arguments: int) -> Any:
        return self._call(name, arguments, writing=False)

    def _write(self, name: str, *arguments: int) -> None:
        """Call a setter; one that is busy is tried three times, as kernel files are (see `tree.Patient`)."""
        for tries in itertools.count(1):
            try:
                self._call(name, arguments, writing=True)
            except KnobRefused as error:
                if error.code != errno.EBUSY or tries == Patient.TRIES:
                    raise
                self._sleep(Patient.WITHIN_S / (Patient.TRIES + 1))
            else:
                return

    def _field(self, field: int) -> int:
        value = self._call("nvmlDeviceGetFieldValues", ([field],), writing=False)[0]
        if value.nvmlReturn != 0:
            # One call carries many fields, each with a return code of its own.
            path = f"nvml:{self._index}/field {field}"
            raise nvml_error(path, value.nvmlReturn, f"NVML answers {value.nvmlReturn}", writing=False)
        return int(value.value.uiVal)

    def _watts(self, power_mw: int) -> float:
        if power_mw == 0:
            raise SensorImplausible(f"nvml:{self._index}/power", "a card that answers draws more than 0 W")
        return power_mw / 1000

    def _call(self, name: str, arguments: tuple[Any, ...], *, writing: bool) -> Any:
        path = f"nvml:{self._index}/{name}"
        function = getattr(self._nvml, name, None)
        if function is None:
            raise NodeMissing(path, "this nvidia-ml-py is too old for the call", errno.ENOTSUP)
        try:
            return function(self._handle, *arguments)
        except self._nvml.NVMLError as error:
            raise nvml_error(path, code_of(error), str(error), writing=writing) from error


def code_of(error: Exception) -> int:
    """The return code that an `NVMLError` carries."""
    return int(getattr(error, "value", 0))


def _ascending_hz(clocks_mhz: list[int]) -> tuple[int, ...]:
    return tuple(MHZ * clock for clock in sorted(set(clocks_mhz)))


def _why_not(error: Exception) -> str:
    if code_of(error) == LIBRARY_NOT_FOUND:
        return "no libnvidia-ml.so.1 here: NVIDIA's driver is not installed, or not shown to this container"
    return f"NVML does not start: {error}"
