# SPDX-License-Identifier: Apache-2.0
"""The physics of the virtual AGX Orin: how long a batch takes and what the module draws, as functions of the clocks.

Clocks enter as shares x = f / f_max. A batch keeps three parts of the machine busy, each for a time that falls with its
own clock: host h = (host + loader · 4 / cores) / x_cpu, GPU g = gpu / x_gpu, memory m = memory / x_emc. They overlap:

    device = (g^p + m^p)^(1/p)        latency = fixed + (h^q + device^q)^(1/q)

which is a roofline with a rounded knee (p, q = 1: no overlap; large: perfect overlap). With u = busy time / latency,

    busy power = idle power + static + core · x_cpu · cores/12 + Σ (a·x + b·x³) · u   over CPU, GPU and memory.

a·x + b·x³ is f·V² for a voltage that rises with the clock. Written out, u·(a·x + b·x³) is (a + b·x²) · work / latency,
so power rises with every clock because latency falls with it. Coefficients per workload and batch size are fitted to
measurements (`benchmarks/fit_virtual_board.py`); idle power was not measured and is a declared assumption (`Silicon`).
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from .clocks import ClockPoint
from .errors import WorkloadUnreadable

SHIPPED = ("resnet", "bert", "lstm")
CPU_MAX_HZ = 2_201_600_000
GPU_MAX_HZ = 1_300_500_000
EMC_MAX_HZ = 3_199_000_000
CORES_MAX = 12
GPU_MIN_HZ = 306_000_000
LOADERS = 4
"""Data-loader workers while the tables were measured: below as many cores the loader's share of host time grows."""


@dataclass(frozen=True, slots=True)
class Watts:
    """Power by the rail that carries it; `rest_w` is what neither clock moves."""

    cpu_w: float
    gpu_w: float
    memory_w: float
    rest_w: float

    @property
    def total_w(self) -> float:
        """Watts of the whole module."""
        return self.cpu_w + self.gpu_w + self.memory_w + self.rest_w


LOWEST = ClockPoint(GPU_MIN_HZ, GPU_MIN_HZ, 204_000_000, 115_200_000, 4)
"""Where an idle module draws `Silicon.floor_w`."""
MAXIMUM = ClockPoint(GPU_MAX_HZ, GPU_MAX_HZ, EMC_MAX_HZ, CPU_MAX_HZ, CORES_MAX)


def mix(parts: Iterable[tuple[float, Watts]]) -> Watts:
    """The weighted sum of powers: the mean of what was drawn over shares of a time."""
    cpu = gpu = memory = rest = 0.0
    for share, watts in parts:
        cpu += share * watts.cpu_w
        gpu += share * watts.gpu_w
        memory += share * watts.memory_w
        rest += share * watts.rest_w
    return Watts(cpu, gpu, memory, rest)


@dataclass(frozen=True, slots=True)
class Silicon:
    """What an idle module draws. Assumed, not measured: the tables hold no idle power.

    A clock that is held up costs `idle_share` of the power that its part would draw when fully used (clock tree and
    leakage at the higher voltage); the full-use figures are rounded from the fit of bert, the workload that uses most.
    """

    floor_w: float = 9.0
    """At the lowest clocks."""
    idle_share: float = 0.10
    cpu_linear_w: float = 8.0
    cpu_cubic_w: float = 8.0
    gpu_linear_w: float = 14.0
    gpu_cubic_w: float = 28.0
    memory_linear_w: float = 11.0
    memory_cubic_w: float = 5.0

    def idle(self, point: ClockPoint) -> Watts:
        """Idle power with the GPU at its lower limit, memory at its rate and cores at their limit."""
        cpu, gpu, memory = self._clock_trees(point)
        cpu0, gpu0, memory0 = self._clock_trees(LOWEST)
        return Watts(cpu, gpu, memory, self.floor_w - cpu0 - gpu0 - memory0)

    def _clock_trees(self, point: ClockPoint) -> tuple[float, float, float]:
        cpu_x, _, memory_x, cores = _shares(point)
        gpu_x = (point.gpu_min_hz or GPU_MIN_HZ) / GPU_MAX_HZ
        cpu = self.idle_share * cores / CORES_MAX * _cubic(self.cpu_linear_w, self.cpu_cubic_w, cpu_x)
        gpu = self.idle_share * _cubic(self.gpu_linear_w, self.gpu_cubic_w, gpu_x)
        return cpu, gpu, self.idle_share * _cubic(self.memory_linear_w, self.memory_cubic_w, memory_x)


AGX_ORIN = Silicon()


@dataclass(frozen=True, slots=True)
class Surface:
    """Latency and power of one workload at one batch size; times in seconds and watts are those at maximum clocks."""

    fixed_s: float
    host_s: float
    loader_s: float
    gpu_s: float
    memory_s: float
    device_norm: float
    """p: how well GPU and memory work at the same time."""
    host_norm: float
    """q: how well the host works at the same time as both."""
    static_w: float
    core_w: float
    cpu_linear_w: float
    cpu_cubic_w: float
    gpu_linear_w: float
    gpu_cubic_w: float
    memory_linear_w: float
    memory_cubic_w: float

    def latency_s(self, point: ClockPoint) -> float:
        """Seconds from the start of a batch to its end."""
        cpu_x, gpu_x, memory_x, cores = _shares(point)
        host = (self.host_s + self.loader_s * LOADERS / cores) / cpu_x
        device = _overlap(self.gpu_s / gpu_x, self.memory_s / memory_x, self.device_norm)
        return self.fixed_s + _overlap(host, device, self.host_norm)

    def busy(self, point: ClockPoint, silicon: Silicon = AGX_ORIN) -> Watts:
        """Power while batches run back to back."""
        cpu_x, gpu_x, memory_x, cores = _shares(point)
        idle = silicon.idle(ClockPoint(point.gpu_hz, point.gpu_hz, point.emc_hz, point.cpu_hz, point.cores))
        latency = self.latency_s(point)
        host = (self.host_s + self.loader_s) / cpu_x / latency
        cpu = self.core_w * cpu_x * cores / CORES_MAX + _cubic(self.cpu_linear_w, self.cpu_cubic_w, cpu_x) * host
        gpu = _cubic(self.gpu_linear_w, self.gpu_cubic_w, gpu_x) * self.gpu_s / gpu_x / latency
        memory = _cubic(self.memory_linear_w, self.memory_cubic_w, memory_x) * self.memory_s / memory_x / latency
        return Watts(idle.cpu_w + cpu, idle.gpu_w + gpu, idle.memory_w + memory, idle.rest_w + self.static_w)


@dataclass(frozen=True, slots=True)
class Workload:
    """A model's surfaces at the batch sizes that were measured, ascending; sizes between them are interpolated."""

    name: str
    inference: tuple[tuple[int, Surface], ...]
    training: tuple[tuple[int, Surface], ...]
    """The same for one training step; empty if none was measured."""
    fit: Mapping[str, Any]
    """Rows used and relative errors, as the fit wrote them."""

    def latency_s(self, point: ClockPoint, batch: float, *, training: bool = False) -> float:
        """Seconds per batch; beyond the largest size measured it grows in proportion to the batch."""
        surfaces = self._surfaces(training)
        beyond = max(1.0, batch / surfaces[-1][0])
        return beyond * sum(share * surface.latency_s(point) for share, surface in _around(surfaces, batch))

    def slowdown(self, point: ClockPoint, batch: float, *, training: bool = False) -> float:
        """Latency relative to maximum clocks at the same batch size, at least 1."""
        return self.latency_s(point, batch, training=training) / self.latency_s(MAXIMUM, batch, training=training)

    def busy(self, point: ClockPoint, batch: float, *, training: bool = False) -> Watts:
        """Power by rail while batches of this size run back to back."""
        mixed = [(share, surface.busy(point)) for share, surface in _around(self._surfaces(training), batch)]
        return mix(mixed)

    def busy_power_w(self, point: ClockPoint, batch: float, *, training: bool = False) -> float:
        """Watts of the whole module while batches of this size run back to back."""
        return self.busy(point, batch, training=training).total_w

    def _surfaces(self, training: bool) -> tuple[tuple[int, Surface], ...]:
        if training and not self.training:
            raise ValueError(f"workload {self.name!r} has no training surface")
        return self.training if training else self.inference


def idle_power_w(point: ClockPoint, silicon: Silicon = AGX_ORIN) -> float:
    """Watts of the idle module at these clocks (assumed: see `Silicon`)."""
    return silicon.idle(point).total_w


def shipped(name: str) -> Workload:
    """One of the workloads in `SHIPPED`."""
    text = resources.files("boards").joinpath(f"workloads/{name}.json").read_text()
    return parse_workload(text, f"boards/workloads/{name}.json")


def read_workload(path: Path) -> Workload:
    """A workload from a coefficients file; raises `WorkloadUnreadable` naming what is wrong with it."""
    try:
        return parse_workload(path.read_text(), str(path))
    except OSError as error:
        raise WorkloadUnreadable(str(path), error.strerror or str(error)) from error


def parse_workload(text: str, source: str) -> Workload:
    """A workload from the text of a coefficients file."""
    try:
        record = json.loads(text)
        inference = _parse_surfaces(record["inference"])
        training = _parse_surfaces(record.get("training", {}))
        workload = Workload(str(record["name"]), inference, training, record.get("fit", {}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WorkloadUnreadable(source, f"{type(error).__name__}: {error}") from error
    if not workload.inference:
        raise WorkloadUnreadable(source, "no inference surface")
    return workload


def _parse_surfaces(record: Mapping[str, Mapping[str, float]]) -> tuple[tuple[int, Surface], ...]:
    surfaces = sorted((int(batch), Surface(**coefficients)) for batch, coefficients in record.items())
    for batch, surface in surfaces:
        values = {field.name: getattr(surface, field.name) for field in fields(Surface)}
        if batch < 1 or any(not isinstance(value, int | float) or not 0 <= value < 1e9 for value in values.values()):
            raise ValueError(f"batch {batch}: coefficients must be finite and not negative, got {values}")
        if min(surface.device_norm, surface.host_norm) < 1 or min(surface.host_s, surface.gpu_s, surface.memory_s) <= 0:
            raise ValueError(f"batch {batch}: norms must be at least 1, host, GPU and memory times above 0")
    return tuple(surfaces)


def _shares(point: ClockPoint) -> tuple[float, float, float, int]:
    """Clocks as shares of the maximum, and cores; a knob left None is at its maximum."""
    cpu_x = (point.cpu_hz or CPU_MAX_HZ) / CPU_MAX_HZ
    gpu_x = (point.gpu_hz or GPU_MAX_HZ) / GPU_MAX_HZ
    return cpu_x, gpu_x, (point.emc_hz or EMC_MAX_HZ) / EMC_MAX_HZ, point.cores or CORES_MAX


def _cubic(linear: float, cubic: float, x: float) -> float:
    return linear * x + cubic * x**3


def _overlap(left: float, right: float, norm: float) -> float:
    # Scaled by the larger one, so that a large norm of small times does not underflow.
    larger = max(left, right)
    return float(larger * ((left / larger) ** norm + (right / larger) ** norm) ** (1 / norm))


def _around(surfaces: tuple[tuple[int, Surface], ...], batch: float) -> tuple[tuple[float, Surface], ...]:
    """The surfaces of the sizes measured next to `batch`, with their weights; the nearest one outside the range."""
    above = bisect_left([size for size, _ in surfaces], batch)
    if above in (0, len(surfaces)):
        return ((1.0, surfaces[min(above, len(surfaces) - 1)][1]),)
    (low, low_surface), (high, high_surface) = surfaces[above - 1], surfaces[above]
    share = (batch - low) / (high - low)
    return (1 - share, low_surface), (share, high_surface)
