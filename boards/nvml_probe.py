# SPDX-License-Identifier: Apache-2.0
"""What NVML can do on one GPU, each call tried on its own: that a GPU is counted proves nothing about its calls."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from .clocks import ClockTable
from .errors import KnobDenied, KnobRefused, NoBoard, NodeError
from .nvml_calls import GRAPHICS_CLOCK, MEMORY_CLOCK, Device

T = TypeVar("T")

INSTANT_AVERAGING_S = 0.1
"""An instantaneous reading is up to this old: the sensors of A100 and H100 are read every 100 ms, over a quarter of it.
[Yang, Adamek, Armour: Accurate and Convenient Energy Measurements for GPUs, SC 2024]"""
MEAN_AVERAGING_S = 1.0
"""`nvmlDeviceGetPowerUsage` averages over this from Ampere on (NVML API guide); GA100 and older GPUs do not average."""
READINGS: dict[str, Callable[[Device], object]] = {
    "instantaneous power": Device.instant_power_w,
    "mean power": Device.mean_power_w,
    "energy": Device.energy_j,
    "graphics clock": partial(Device.clock_hz, kind=GRAPHICS_CLOCK),
    "memory clock": partial(Device.clock_hz, kind=MEMORY_CLOCK),
    "event reasons": Device.reasons,
    "utilisation": Device.utilisation,
    "gpu temperature": Device.gpu_celsius,
    "memory temperature": Device.memory_celsius,
    "power limit": Device.power_limit_mw,
    "power limit's range": Device.power_limits_mw,
    "persistence mode": Device.persistent,
}
"""What can be read of a GPU, each by a call that it may lack."""


@dataclass(frozen=True, slots=True)
class Found:
    """The capabilities of one GPU, and in words what it lacks."""

    name: str
    table: ClockTable
    readable: frozenset[str]
    """Those of `READINGS` that answered."""
    notes: tuple[str, ...]

    @property
    def averaging_s(self) -> float:
        """Window of the power reading; 0 where there is no reading."""
        if "instantaneous power" in self.readable:
            return INSTANT_AVERAGING_S
        return MEAN_AVERAGING_S if "mean power" in self.readable else 0.0

    @property
    def limitable(self) -> bool:
        """Whether there is a power limit, with a known range."""
        return {"power limit", "power limit's range"} <= self.readable


class Prober:
    """Tries one call after another and writes down what is missing."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def value(self, what: str, call: Callable[[], T]) -> T | None:
        """What `call` returns; None, with a note, where it is not there or not allowed. A lost GPU is raised."""
        try:
            return call()
        except NodeError as error:
            if error.code == errno.ENODEV:
                raise
            reason = "not allowed to this user" if isinstance(error, KnobDenied) else "missing"
            self.notes.append(f"{what}: {reason} ({error})")
            return None

    def offers(
        self, what: str, clocks_hz: tuple[int, ...], request: Callable[[int, int], None], release: Callable[[], None]
    ) -> tuple[int, ...]:
        """`clocks_hz` if they may be locked, else nothing.

        An inverted range is asked for: NVML refuses it as invalid, so nothing changes, and before that it says whether
        the call is there and allowed.
        """
        if len(clocks_hz) < 2:
            self.notes.append(f"{what}: {len(clocks_hz)} clocks, so there is nothing to choose")
            return ()

        def ask() -> None:
            try:
                request(clocks_hz[-1], clocks_hz[0])
            except KnobRefused:
                return
            # A driver that took it, against its documentation, must not keep it.
            release()

        before = len(self.notes)
        self.value(what, ask)
        return clocks_hz if len(self.notes) == before else ()


def probe(device: Device) -> Found:
    """Try every call that the board uses. Raises `NoBoard` where neither clocks nor power are to be had."""
    prober = Prober()
    name = device.name()
    values = {what: prober.value(what, partial(call, device)) for what, call in READINGS.items()}
    readable = frozenset(what for what, value in values.items() if value is not None)
    graphics, memory = _clocks(device, prober)
    if not graphics and not readable & {"instantaneous power", "mean power", "energy"}:
        raise NoBoard(_nothing(name))
    # A lock that nothing would show is not offered.
    graphics = graphics if "graphics clock" in readable else ()
    memory = memory if "memory clock" in readable else ()
    graphics = prober.offers("GPU clock lock", graphics, device.request_gpu_range, device.release_gpu_range)
    memory = prober.offers("memory clock lock", memory, device.request_memory_range, device.release_memory_range)
    found = Found(name, ClockTable(graphics, graphics, memory), readable, ())
    return replace(found, notes=(*prober.notes, *_remarks(found, persistent=bool(values["persistence mode"]))))


def _remarks(found: Found, *, persistent: bool) -> Iterator[str]:
    """What the owner should know about what was found."""
    if found.averaging_s == MEAN_AVERAGING_S:
        yield f"power is the mean of the last {MEAN_AVERAGING_S:g} s"
    if not found.readable & {"event reasons", "utilisation"}:
        yield "an idle GPU cannot be told from one that ignores its lock"
    if "persistence mode" in found.readable and not persistent:
        yield "persistence mode is off: without a client the driver may unload and drop the locks"
    yield "a clock lock that was set before cannot be read: restoring takes every lock away"
    yield "power is the card's alone, and cpu_hz and cores are not NVML's: they are left alone"


def _clocks(device: Device, prober: Prober) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Graphics clocks, and the memory clocks under which all of them may run; empty where NVML names none.

    An idle memory clock allows low graphics clocks only, so it would not be a knob of its own.
    """
    memory = prober.value("memory clocks", device.memory_clocks_hz) or ()
    found = {hz: prober.value("graphics clocks", partial(device.graphics_clocks_hz, hz)) or () for hz in memory}
    widest = max(found.values(), key=len, default=())
    return widest, tuple(hz for hz in memory if found[hz] and found[hz][-1] == widest[-1])


def _nothing(name: str) -> str:
    if "nvgpu" in name:
        return f"{name} is a Jetson's own GPU, whose NVML reports nothing: its clocks are kernel files (--board auto)"
    return f"{name}: NVML reports neither clocks nor power"
