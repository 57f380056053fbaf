# SPDX-License-Identifier: Apache-2.0
"""Counts between two pushes to Triton's metrics: plain Python, as one metric operation costs a round trip of 30 us.

Counters are exact. Histograms take at most `MAX_OBSERVATIONS` values a push, spread evenly over what came, so that a
busy model pays no more than about 1 % of a core for them; quantiles are unharmed, their `_count` then lags behind
`teg_requests_total`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from telemetry.instance_page import Sample, Status

MAX_OBSERVATIONS = 64


class Reservoir:
    """Every `stride`-th value of a stream; the stride doubles when `MAX_OBSERVATIONS` are kept."""

    __slots__ = ("_seen", "_stride", "values")

    def __init__(self) -> None:
        self.values: list[float] = []
        self._seen = 0
        self._stride = 1

    def add(self, value: float) -> None:
        """See one value, and perhaps keep it."""
        if self._seen % self._stride == 0:
            if len(self.values) == MAX_OBSERVATIONS:
                self.values = self.values[::2]
                self._stride *= 2
            if self._seen % self._stride == 0:
                self.values.append(value)
        self._seen += 1


@dataclass(slots=True)
class Tally:
    """What happened since the last push."""

    requests: Counter[Status] = field(default_factory=Counter)
    batches: int = 0
    busy_ns: int = 0
    knobs_ignored: int = 0
    queue_s: Reservoir = field(default_factory=Reservoir)
    request_s: Reservoir = field(default_factory=Reservoir)
    batch_sizes: Reservoir = field(default_factory=Reservoir)
    queue_depth: int = 0
    batch_limit: int = 0

    def request(self, sample: Sample) -> None:
        """Count one finished request."""
        self.requests[sample.status] += 1
        if sample.status is Status.OK:
            self.queue_s.add((sample.start_ns - sample.arrival_ns) / 1e9)
            self.request_s.add(sample.latency_s)

    def batch(self, samples: int, busy_ns: int) -> None:
        """Count one executed batch."""
        self.batches += 1
        self.busy_ns += busy_ns
        self.batch_sizes.add(samples)
