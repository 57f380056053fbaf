# SPDX-License-Identifier: Apache-2.0
"""The traffic of one model instance as the governor has seen it: arrivals of the whole run, requests since a mark."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from predictor.queueing import quantile
from telemetry.instance_page import Sample, Status

from .guard import Slo
from .latency import HOPELESS, ModelWindow
from .reader import InstanceView, waited_s

ARRIVALS = 1500
"""Arrivals remembered; the trace against which every trial of a run is replayed."""

FAILURES = (Status.REJECTED, Status.TIMED_OUT, Status.FAILED)


class Traffic:
    """Collects one instance's samples. An invalid or cancelled request is the client's doing and counts for nothing."""

    def __init__(self, slo: Slo) -> None:
        self.slo = slo
        self._arrivals_s: deque[float] = deque(maxlen=ARRIVALS)
        self._since: list[Sample] = []
        self.in_flight = 0
        self.oldest_arrival_ns = 0
        self._waiting_at_mark = 0
        self._usual_hz, self._usual_known = 0.0, 0

    def add(self, view: InstanceView) -> None:
        """Take in what finished since the view before."""
        self.in_flight, self.oldest_arrival_ns = view.in_flight, view.oldest_arrival_ns
        for sample in view.samples:
            if sample.status is Status.OK or sample.status in FAILURES:
                self._since.append(sample)
                self._arrivals_s.append(sample.arrival_ns / 1e9)

    def mark(self) -> None:
        """Begin a new window."""
        self._usual_hz, self._usual_known = self.rate_hz, len(self._arrivals_s)
        self._waiting_at_mark = self.in_flight
        self._since.clear()

    def forget(self) -> None:
        """Forget what arrived before the window: the load is no longer what it was."""
        self._arrivals_s = deque((sample.arrival_ns / 1e9 for sample in self._since), maxlen=ARRIVALS)

    def waited_s(self, now_ns: int) -> float:
        """How long the oldest request in flight has waited, 0 if there is none."""
        return waited_s(now_ns, self.in_flight, self.oldest_arrival_ns)

    @property
    def failed(self) -> int:
        """Requests of the window that got an error for an answer."""
        return sum(sample.status in FAILURES for sample in self._since)

    @property
    def latencies_s(self) -> list[float]:
        """Latencies of the window's answered requests."""
        return [sample.latency_s for sample in self._since if sample.status is Status.OK]

    @property
    def rate_hz(self) -> float:
        """Requests per second offered over the run."""
        return self.window(1).rate_hz

    @property
    def arrivals_s(self) -> tuple[float, ...]:
        """Arrivals of the run, ascending, in CLOCK_MONOTONIC seconds."""
        return tuple(sorted(self._arrivals_s))

    def window(self, batch_limit: int, batch_wait_s: float = 0.0) -> ModelWindow:
        """The window as a trial sees it."""
        served = tuple(sample for sample in self._since if sample.status is Status.OK)
        lost = tuple(sample for sample in self._since if sample.status in FAILURES)
        return ModelWindow(served, self.arrivals_s, self.slo, batch_limit, batch_wait_s, lost=lost)

    @property
    def seen(self) -> int:
        """Requests that arrived within the window, answered or not."""
        return max(0, len(self._since) + self.in_flight - self._waiting_at_mark)

    @property
    def usual_hz(self) -> float:
        """Requests per second offered before the window, over all of the run if that is not known."""
        return self._usual_hz or self.rate_hz

    @property
    def usual_known(self) -> int:
        """How many arrivals say so."""
        return self._usual_known if self._usual_hz else len(self._arrivals_s)

    def arrived_since(self, at_s: float) -> int:
        """Requests that arrived since then, answered or not; not later than the oldest one in flight did."""
        return self.in_flight + sum(sample.arrival_ns / 1e9 >= at_s for sample in self._since)

    @property
    def share_of_limit(self) -> float:
        """The window's constrained quantile over its limit; a failed request counts as `HOPELESS`; 0 if empty."""
        answered = [min(HOPELESS, latency_s / self.slo.limit_s) for latency_s in self.latencies_s]
        shares = answered + [HOPELESS] * self.failed
        return quantile(shares, self.slo.quantile) if shares else 0.0

    @property
    def quantile_s(self) -> float | None:
        """The constrained quantile of the window's latencies, None without any."""
        latencies_s = self.latencies_s
        return quantile(latencies_s, self.slo.quantile) if latencies_s else None


def batch_values(max_batches: Iterable[int]) -> tuple[int, ...]:
    """Batch limits worth trying: powers of two up to the smallest `max_batch_size`, and that size itself."""
    top = max(1, min(max_batches))
    powers = [1 << power for power in range(top.bit_length())]
    return tuple(sorted({*(value for value in powers if value <= top), top}))
