# SPDX-License-Identifier: Apache-2.0
"""Two settings of one served model, measured in turn on the same arrivals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from boards.clocks import ClockPoint
from governor.client import ClockClient
from governor.hand import Hand
from governor.joules import Tick
from governor.load import LoadPlan, LoadReport, run_load
from governor.reader import PageReader
from governor.window import counters
from predictor.queueing import quantile
from telemetry.instance_page import Sample, Status
from telemetry.rundir import RunDir

LEASE_S = 4.0
LOOK_S = 0.05
SETTLE_S = 0.6
"""After a change of clocks: the INA3221's running average of 430 ms, and the slowest clock's settling (EMC)."""
SENSOR_LAG_S = 0.25
"""Half the INA3221's averaging window of 430 ms, and half a batch."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What an arm holds."""

    clocks: ClockPoint
    batch: int


@dataclass(frozen=True, slots=True)
class Window:
    """What one arm showed over one trace: server-side samples, energy of the whole board, the client's report."""

    samples: tuple[Sample, ...]
    ticks: tuple[Tick, ...]
    span_s: float
    client: LoadReport

    @property
    def energy_j(self) -> float:
        """Joules of the whole board from the start of the trace to its end, idle included.

        Read a little later than the trace: the sensor averages over the past, and a batch is charged when it ends.
        """
        start_s = min(sample.arrival_ns for sample in self.samples) / 1e9 + SENSOR_LAG_S
        return energy_at(self.ticks, start_s + self.span_s) - energy_at(self.ticks, start_s)

    @property
    def j_per_request(self) -> float:
        """Joules per request."""
        return self.energy_j / len(self.samples)


@dataclass(frozen=True, slots=True)
class Summary:
    """Several windows of one arm, pooled; latencies in seconds, from arrival at the backend to the end of the batch."""

    requests: int
    j_per_request: float
    p50_s: float
    p95_s: float
    p99_s: float
    client_p95_s: float
    mean_batch: float


class Bench:
    """Holds settings through a lease and batch knobs, and runs load in this process. Close it to give both back."""

    def __init__(self, run_dir: RunDir) -> None:
        self._reader = PageReader(run_dir)
        self._client = ClockClient(run_dir.socket)
        self._hand = Hand(self._client, self._reader.write_knobs, LEASE_S, time.monotonic)
        self._ticks: list[Tick] = []
        self._samples: list[Sample] = []

    def measure(
        self, setting: Setting, plan: LoadPlan, settle_s: float = 1.5 * SETTLE_S, batch_wait_s: float = 0.0
    ) -> Window:
        """Hold `setting`, let it settle, send the plan's requests, and read what they cost."""
        self._reader.read()
        instances = [view.info.instance for view in self._reader.read().instances]
        self._hand.hold(setting.clocks, dict.fromkeys(instances, setting.batch), int(batch_wait_s * 1e9))
        self._keep_for(settle_s)
        self._ticks, self._samples = [], []
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(run_load, plan)
            while not load.done():
                self._keep_for(LOOK_S)
        report = load.result()
        self._keep_for(SETTLE_S)
        served = [sample for sample in self._samples if sample.status is Status.OK][plan.warmup :]
        return Window(tuple(served), tuple(self._ticks), plan.arrivals_s[-1] - plan.arrivals_s[0], report)

    def close(self) -> None:
        """Give clocks and knobs back."""
        self._hand.release()
        self._client.close()
        self._reader.close()

    def _look(self) -> None:
        """Renew what is held and take in what the pages say."""
        self._hand.keep()
        now = self._reader.read()
        tick = counters(now)
        if not self._ticks or tick.at_s > self._ticks[-1].at_s:
            self._ticks.append(tick)
        self._samples += [sample for view in now.instances for sample in view.samples]

    def _keep_for(self, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            self._look()
            time.sleep(LOOK_S)


def energy_at(ticks: Sequence[Tick], at_s: float) -> float:
    """The joule counter at one moment, between the ticks around it; `ValueError` if it lies outside them."""
    after = next((number for number, tick in enumerate(ticks) if tick.at_s >= at_s), 0)
    if after == 0:
        raise ValueError(f"no reading of the joule counter around {at_s} s")
    low, high = ticks[after - 1], ticks[after]
    return low.energy_j + (high.energy_j - low.energy_j) * (at_s - low.at_s) / (high.at_s - low.at_s)


def summarise(windows: Sequence[Window]) -> Summary:
    """One arm's windows as one."""
    samples = [sample for window in windows for sample in window.samples]
    latencies = [sample.latency_s for sample in samples]
    clients = [window.client.p95_s for window in windows if window.client.p95_s is not None]
    return Summary(
        requests=len(samples),
        j_per_request=sum(window.energy_j for window in windows) / len(samples),
        p50_s=quantile(latencies, 0.5),
        p95_s=quantile(latencies, 0.95),
        p99_s=quantile(latencies, 0.99),
        client_p95_s=sum(clients) / len(clients),
        mean_batch=sum(sample.batch for sample in samples) / len(samples),
    )
