# SPDX-License-Identifier: Apache-2.0
"""The best that any tuner could do on a virtual board: every point of its clock table, by the board's own formulas.

Service times come from the host, measured at maximum clocks per batch size; the board's physics stretches them, the
replay of a trace of arrivals turns them into a latency quantile and a busy share, and power follows from that share.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from boards.clocks import ClockPoint, ClockTable
from boards.physics import Workload, idle_power_w
from predictor.queueing import ServiceTimes, replay


@dataclass(frozen=True, slots=True)
class Figure:
    """What one point costs: joules per request and the latency quantile in seconds, by formula."""

    clocks: ClockPoint
    batch: int
    j_per_request: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class Oracle:
    """Formulas for one workload at one load; `services` are the host's times at maximum clocks by batch size."""

    workload: Workload
    services: Mapping[int, tuple[float, ...]]
    arrivals_s: tuple[float, ...]
    quantile: float

    @property
    def rate_hz(self) -> float:
        """Requests per second of the trace."""
        return (len(self.arrivals_s) - 1) / (self.arrivals_s[-1] - self.arrivals_s[0])

    def figure(self, clocks: ClockPoint, batch: int) -> Figure:
        """The figures of one point."""
        stretched = {
            size: tuple(time_s * self.workload.slowdown(clocks, size) for time_s in times)
            for size, times in self.services.items()
            if size <= batch
        }
        run = replay(self.arrivals_s, ServiceTimes(stretched), batch)
        busy_w = self.workload.busy_power_w(clocks, run.mean_batch)
        power_w = idle_power_w(clocks) * (1 - run.busy_share) + busy_w * run.busy_share
        return Figure(clocks, batch, power_w / self.rate_hz, run.quantile_s(self.quantile))

    def sweep(self, table: ClockTable, knobs: Sequence[str], batches: Sequence[int], slowest: float) -> list[Figure]:
        """The figures of every point of the table over the clocks in `knobs`, other clocks at their top.

        Points that stretch a batch of one by more than `slowest` are left out: queueing only adds to that.
        """
        top = table.maximum()
        axes = {name: getattr(table, name) if name in knobs else (getattr(top, name),) for name in CLOCKS}
        figures = []
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            clocks = ClockPoint(gpu_min_hz=point["gpu_hz"], **point)
            if self.workload.slowdown(clocks, 1) <= slowest:
                figures += [self.figure(clocks, batch) for batch in batches]
        return figures


CLOCKS = ("cores", "cpu_hz", "gpu_hz", "emc_hz")


def best_within(figures: Sequence[Figure], limit_s: float) -> Figure:
    """The cheapest figure within the latency limit; `ValueError` if there is none."""
    return min((figure for figure in figures if figure.latency_s <= limit_s), key=lambda figure: figure.j_per_request)
