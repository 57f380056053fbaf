# SPDX-License-Identifier: Apache-2.0
"""Random surfaces, and a device on each: what a model's batches take and cost at every point, drawn from a seed.

A surface is the physics of the virtual board with coefficients of its own and a bump at every point, so that no model
fits it. Its truth is known: the latency quantile of a point at the load offered, by a long replay, and with it the
points that break the objective.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Mapping

from boards.clocks import ClockPoint, ClockTable
from boards.physics import Surface, idle_power_w
from governor.points import Point
from governor.traffic import batch_values
from predictor.queueing import ServiceTimes, replay

MAX_BATCH = 8
BUMP = 0.04
"""Standard deviation of the log of what physics does not say of a point."""
REQUESTS = 600
"""Arrivals of the replay that says what a point's latency is."""
MARGIN = 0.7
"""A point is called good if it keeps the objective by as much: at the limit itself it is luck."""
GOOD, BAD = 24, 4
"""Points of either kind that are proposed."""

TABLE = ClockTable(
    gpu_hz=(306_000_000, 510_000_000, 714_000_000, 918_000_000, 1_300_500_000),
    gpu_min_hz=(306_000_000, 510_000_000, 714_000_000, 918_000_000, 1_300_500_000),
    emc_hz=(665_600_000, 2_133_000_000, 3_199_000_000),
    cpu_hz=(729_600_000, 1_497_600_000, 2_201_600_000),
)
CLOCKS = ("gpu_hz", "emc_hz", "cpu_hz")
KNOBS = (*CLOCKS, "batch")


def _drawn(draw: random.Random) -> Surface:
    """One batch of one: 12 to 30 ms at full clocks, bound by host, GPU or memory."""
    whole_s = draw.uniform(0.012, 0.03)
    host, gpu, memory = (draw.uniform(0.1, 1.0) for _ in range(3))
    return Surface(
        fixed_s=0.05 * whole_s, host_s=host * whole_s, loader_s=0.0, gpu_s=gpu * whole_s, memory_s=memory * whole_s,
        device_norm=draw.uniform(1.0, 4.0), host_norm=draw.uniform(1.0, 4.0), static_w=draw.uniform(1.0, 6.0),
        core_w=0.2, cpu_linear_w=draw.uniform(0.5, 3.0), cpu_cubic_w=draw.uniform(1.0, 6.0),
        gpu_linear_w=draw.uniform(3.0, 12.0), gpu_cubic_w=draw.uniform(0.0, 20.0),
        memory_linear_w=draw.uniform(2.0, 6.0), memory_cubic_w=draw.uniform(1.0, 4.0),
    )  # fmt: skip


class RandomSurface:
    """What a batch takes and costs; stands where a `Workload` of the product stands.

    `peak`: the objective, and which points keep it, are those at so many times the load.
    """

    def __init__(self, seed: int, peak: float = 1.0) -> None:
        draw = random.Random(seed)
        self.seed = seed
        self._one, self._growth = _drawn(draw), draw.uniform(0.3, 0.9)
        self.latency_s = functools.cache(self._latency_s)
        """Seconds per batch, by clocks and batch size."""
        self.busy_power_w = functools.cache(lambda point, batch: self._one.busy(point).total_w)
        """Watts while a batch runs."""
        self.idle_power_w = functools.cache(idle_power_w)
        """Watts while none does."""
        self.rate_hz = draw.uniform(0.15, 0.35) / self.latency_s(clocks(self.safe), 1) / peak
        """Requests per second; single ones at full clocks keep it busy for a fifth or a third."""
        self.quantile = draw.choice((0.9, 0.95, 0.99))
        self._trace_s = list(itertools.accumulate(draw.expovariate(peak * self.rate_hz) for _ in range(REQUESTS)))
        self.limit_s = self.replayed_s(self.safe) * draw.uniform(1.7, 2.8)
        self.good: list[Point] = []
        """Some points that keep the objective with a margin, the safe one not among them."""
        self.bad: list[Point] = []
        """Some that break it."""
        self._sort(draw)

    @property
    def safe(self) -> Point:
        """Every clock at its top, and the model's own batch limit."""
        return {name: float(getattr(TABLE, name)[-1]) for name in CLOCKS} | {"batch": float(MAX_BATCH)}

    def replayed_s(self, point: Mapping[str, float]) -> float:
        """The latency quantile of a point under a load of its own, without noise."""
        batch = int(point["batch"])
        seconds = {size: (self.latency_s(clocks(point), size),) for size in range(1, batch + 1)}
        return replay(self._trace_s, ServiceTimes(seconds), batch).quantile_s(self.quantile)

    def _latency_s(self, point: ClockPoint, batch: float) -> float:
        bump = random.Random(f"{self.seed}/{point.values()}").gauss(0.0, BUMP)
        return self._one.latency_s(point) * (1 + self._growth * (batch - 1)) * math.exp(bump)

    def _sort(self, draw: random.Random) -> None:
        """Draw points until there are enough of either kind."""
        for point in draw.sample(points := grid(), len(points)):
            share = self.replayed_s(point) / self.limit_s
            if point != self.safe and share <= MARGIN and len(self.good) < GOOD:
                self.good.append(point)
            elif share > 1.0 and len(self.bad) < BAD:
                self.bad.append(point)
            if len(self.good) == GOOD and len(self.bad) == BAD:
                break


def clocks(point: Mapping[str, float]) -> ClockPoint:
    """The clocks of a point, the GPU's lower limit at its upper one."""
    gpu_hz = int(point["gpu_hz"])
    return ClockPoint(gpu_hz, gpu_hz, int(point["emc_hz"]), int(point["cpu_hz"]), None)


def grid() -> list[Point]:
    """Every point of the search."""
    values = [getattr(TABLE, name) for name in CLOCKS] + [batch_values([MAX_BATCH])]
    return [dict(zip(KNOBS, map(float, point), strict=True)) for point in itertools.product(*values)]
