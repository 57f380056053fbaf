# SPDX-License-Identifier: Apache-2.0
"""What a model is offered and promised on this host, measured without training: PolyThrottle's setting, scaled."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from governor.latency import service_times
from predictor.queueing import ServiceTimes, replay
from predictor.typical import typical

from .corun_report import FLOOR_LATE
from .corun_stage import Played, Stage
from .corun_traces import arrivals

LOAD_SHARE = 0.2
"""Requests offered, as a share of what one client gets that asks again once it is answered: client and server share
this host's processors with training."""
ALONE, LONGEST_GAP_S = 40, 0.5
TRIES, ALIKE = 5, 1.3
"""How often the time of a lone request is measured at most, and the ratio at which two measurements agree."""
TRACE_S, FEWEST = 20.0, 100
"""Length of each trace that is sent, and the fewest requests in it."""
LONG = 20_000
"""Requests of the trace that the governor's own limit is read from, replayed: those sent are few, and have luck."""
SEEDS_FROM, SEEDS = 1000, 3
"""These traces are none of those measured; so many are sent, for one alone has luck of its own."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Requests per second; limits of latency as clients and as the server see it; batch limit and service times."""

    rate_hz: float
    slo_s: float
    server_slo_s: float
    batch_limit: int
    services: dict[int, tuple[float, ...]]

    def json(self) -> dict[str, Any]:
        """To be kept."""
        return asdict(self)

    @classmethod
    def of(cls, row: dict[str, Any]) -> Setup:
        """From what was kept."""
        services = {int(size): tuple(times_s) for size, times_s in row["services"].items()}
        return cls(**row | {"services": services})

    @property
    def service_times(self) -> ServiceTimes:
        """As the predictor takes them."""
        return ServiceTimes(self.services)


def measure_setup(stage: Stage) -> Setup:
    """Requests one by one tell the rate; Poisson traces at that rate the limits and the service times."""
    rate_hz = LOAD_SHARE / _steady_round_trip_s(stage)
    requests = max(FEWEST, int(TRACE_S * rate_hz))
    traces = [stage.play(arrivals("poisson", rate_hz, requests, SEEDS_FROM + number)) for number in range(SEEDS)]
    seen_s = [latency_s for played in traces for latency_s in played.latencies_s if latency_s is not None]
    slo_s = float(np.quantile(seen_s, 1 - FLOOR_LATE))
    times = service_times([sample for played in traces for sample in played.samples])
    long_s = arrivals("poisson", rate_hz, LONG, SEEDS_FROM - 1)
    server_slo_s = replay(long_s, typical(times), stage.batch_limit).quantile_s(1 - FLOOR_LATE)
    return Setup(rate_hz, slo_s, server_slo_s, stage.batch_limit, dict(times.seconds))


def _steady_round_trip_s(stage: Stage) -> float:
    """Seconds of a request that meets nobody: measured until two in a row agree, for a host has slow minutes."""
    before_s = _round_trip_s(stage.play([0.1 * number for number in range(10)]))
    for _ in range(TRIES):
        gap_s = min(3 * before_s, LONGEST_GAP_S)
        now_s = _round_trip_s(stage.play([gap_s * number for number in range(ALONE)]))
        if max(before_s, now_s) <= ALIKE * min(before_s, now_s):
            break
        before_s = now_s
    return now_s


def _round_trip_s(played: Played) -> float:
    return float(np.median([latency_s for latency_s in played.latencies_s if latency_s is not None]))
