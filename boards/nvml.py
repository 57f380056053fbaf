# SPDX-License-Identifier: Apache-2.0
"""A discrete GPU as a board: clock locks, power limit, power, energy and temperature through NVML.

Locks and the power limit outlive this process (until the driver is reloaded), so `restore` resets both locks. Setting
them takes root, on Linux CAP_SYS_ADMIN. The only file that imports nvidia-ml-py, and only when a real GPU is opened.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

from .clocks import Applied, ClockPoint, ClockTable
from .errors import (
    BoardError,
    NoBoard,
    NodeError,
    NodeMissing,
    NotOffered,
    NotRestored,
    SensorUnavailable,
)
from .nvml_calls import GRAPHICS_CLOCK, MEMORY_CLOCK, Device, NvmlModule, Reason
from .nvml_clocks import Seen, alerts, effective, observed, overlaid
from .nvml_limit import POWER_LIMIT, PowerLimit
from .nvml_probe import probe
from .thermal import Throttle

TRUST_AFTER_S = 0.020
SETTLE_LIMIT_S = 0.5
"""A lock that does not show by then was not honoured."""
_POLL_S = 0.010
_CAPPED = "the power limit has held the clocks down (software power cap)"


class NvmlBoard:
    """A `Board` over one GPU. `clock` and `sleep` count seconds; `nvml` is a module like `pynvml`.

    Raises `NoBoard` where NVML, the GPU, or everything of use about it is missing.
    """

    virtual = False

    def __init__(
        self,
        index: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        *,
        nvml: NvmlModule,
    ) -> None:
        self.name = f"nvml:{index}"
        self._clock = clock
        self._sleep = sleep
        self._device = Device(nvml, index, sleep)
        self._device.open()
        self._limit = PowerLimit(self._device, self.name)
        try:
            self._found = probe(self._device)
        except NodeError as error:
            raise NoBoard(f"{self.name}: {error}") from error
        self.table = self._found.table
        self.notes = self._found.notes
        self._lost = False
        self._asked = ClockPoint()
        self._range: tuple[int, int] | None = None

    @property
    def averaging_s(self) -> float:
        """Window of the power reading: 0.1 s if it is instantaneous, 1 s if NVML averages."""
        return self._found.averaging_s

    @property
    def power_limits_w(self) -> tuple[float, float] | None:
        """The lowest and highest power limit that may be asked for, None if there is none."""
        return self._limit.range_w() if self._found.limitable else None

    def rescan(self) -> None:
        """Probe every call again; a GPU that was lost is looked for anew, and stays lost if it is not back."""
        try:
            if self._lost:
                self._device.reopen()
            self._found = probe(self._device)
        except (NoBoard, NodeError) as error:
            self._lose(str(error))
        else:
            self._lost, self.table, self.notes = False, self._found.table, self._found.notes

    def observe(self) -> ClockPoint:
        """The limits that are locked as far as the clocks show them, else the clocks (see `nvml_clocks`).

        A lost GPU has no clocks: every knob is None and leaves the table until `rescan` finds it again.
        """
        if self._lost:
            return ClockPoint()
        try:
            return observed(self._range, self._asked.emc_hz, self._see())
        except NodeMissing as error:
            self._lose(str(error))
            return ClockPoint()

    def request(self, point: ClockPoint) -> Applied:
        """Lock the clocks that `point` sets, and wait until they show or `SETTLE_LIMIT_S` has passed.

        Raises `NotOffered` before anything is asked for, `NodeError` if NVML refuses.
        """
        if not self.table.offers(point):
            raise NotOffered(point)
        started = self._clock()
        self._lock(point)
        self._sleep(TRUST_AFTER_S)
        while not (applied := Applied(point, self.observe(), self._clock() - started)).honoured:
            if applied.settle_s >= SETTLE_LIMIT_S:
                break
            self._sleep(_POLL_S)
        return applied

    def request_power_limit(self, watts: float) -> float:
        """Ask for a power limit; returns the limit read back, in watts.

        Raises `KnobRefused` outside `power_limits_w` without asking, `NodeError` if NVML refuses.
        """
        if not self._found.limitable:
            raise self._limit.missing()
        return self._limit.request(watts)

    def read_knobs(self) -> dict[str, int]:
        """The power limit in milliwatts; the locks cannot be read."""
        return {POWER_LIMIT: self._device.power_limit_mw()} if self._found.limitable else {}

    def watch_knobs(self) -> Callable[[], bool]:
        """A question cheap enough to ask often: whether the power limit still reads as it does now."""
        knobs = self.read_knobs()
        return lambda: self.read_knobs() == knobs

    def restore(self, originals: dict[str, int], keep: frozenset[str] = frozenset()) -> None:
        """Take both locks away and put the power limit back, an unknown or impossible one to the card's default.

        Everything is tried. Raises `NotRestored` with what failed.
        """
        failures = tuple(self._put_back(originals, keep))
        if failures:
            raise NotRestored(failures)

    def rails(self) -> dict[str, float]:
        """Watts of the whole card, the only rail that NVML knows."""
        if self._found.averaging_s == 0:
            raise SensorUnavailable(f"{self.name}/power", "this GPU reports no power", errno.ENOTSUP)
        instant = "instantaneous power" in self._found.readable
        return {"card": self._device.instant_power_w() if instant else self._device.mean_power_w()}

    def power_w(self, rails: dict[str, float] | None = None) -> float:
        """Watts of the whole card; the host is not in it."""
        return (self.rails() if rails is None else rails)["card"]

    def energy_j(self) -> float | None:
        """Joules that the card has counted since its driver was loaded; None where it does not count."""
        return self._device.energy_j() if "energy" in self._found.readable else None

    def thermals(self) -> dict[str, float | None]:
        """Degrees Celsius of the GPU, and of its memory where that is reported; None while one has no reading."""
        zones = {"gpu": self._device.gpu_celsius, "memory": self._device.memory_celsius}
        return {zone: _or_none(read) for zone, read in zones.items() if f"{zone} temperature" in self._found.readable}

    def throttle(self) -> Throttle:
        """The slow-downs in force (NVML counts no events). A software power cap is noted, not an alert."""
        if "event reasons" not in self._found.readable:
            return Throttle(0, 0, ())
        reasons = self._device.reasons()
        if reasons & Reason.SW_POWER_CAP and _CAPPED not in self.notes:
            self.notes = (*self.notes, _CAPPED)
        return Throttle(0, 0, alerts(reasons))

    def _lose(self, why: str) -> None:
        self._lost = True
        self.table = ClockTable()
        self.notes = (f"lost: {why}",)

    def _see(self) -> Seen:
        graphics = self._device.clock_hz(GRAPHICS_CLOCK) if "graphics clock" in self._found.readable else None
        memory = self._device.clock_hz(MEMORY_CLOCK) if "memory clock" in self._found.readable else None
        return Seen(graphics, memory, self._idle())

    def _idle(self) -> bool:
        """Whether the GPU rests; reasons say so at once, utilisation within a second."""
        if "event reasons" in self._found.readable and self._device.reasons() & Reason.GPU_IDLE:
            return True
        return "utilisation" in self._found.readable and self._device.utilisation() == 0

    def _lock(self, point: ClockPoint) -> None:
        asked = overlaid(self._asked, point)
        try:
            if point.emc_hz is not None:
                knob = "emc_hz"
                self._device.request_memory_range(point.emc_hz, point.emc_hz)
            gpu_range = effective(asked, point, self.table)
            if gpu_range is not None and (point.gpu_hz is not None or point.gpu_min_hz is not None):
                knob = "gpu_hz" if point.gpu_hz is not None else "gpu_min_hz"
                self._device.request_gpu_range(*gpu_range)
        except NodeError as error:
            error.knob = knob
            raise
        self._asked, self._range = asked, gpu_range

    def _put_back(self, originals: dict[str, int], keep: frozenset[str]) -> Iterator[BoardError]:
        """Every step of a restore, one that fails not hindering the next; what failed."""
        if self._lost:
            self.rescan()
        steps = [self._device.release_gpu_range, self._device.release_memory_range]
        if POWER_LIMIT not in keep and self._found.limitable:
            steps.append(partial(self._limit.restore, originals.get(POWER_LIMIT, 0)))
        for step in steps:
            try:
                step()
            except BoardError as error:
                # A lock that this GPU does not have needs no release.
                if not (isinstance(error, NodeMissing) and error.code == errno.ENOTSUP):
                    yield error
        self._asked, self._range = ClockPoint(), None


def _or_none(read: Callable[[], float]) -> float | None:
    try:
        return read()
    except SensorUnavailable:
        return None


def open_nvml(
    index: int, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> NvmlBoard:
    """The GPU that NVML counts at `index`; raises `NoBoard` where nvidia-ml-py, the library or the GPU is missing."""
    try:
        import pynvml
    except ImportError as error:
        raise NoBoard(f"nvml:{index}: the package nvidia-ml-py is not installed ({error})") from error
    return NvmlBoard(index, clock, sleep, nvml=cast(NvmlModule, pynvml))
