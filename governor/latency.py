# SPDX-License-Identifier: Apache-2.0
"""What a window says about one model's latency quantile at the offered load, and how well it knows it.

A few seconds hold too few requests for a quantile of their own. The window's service times are replayed against the
arrivals of the whole run (`predictor.queueing`), which also makes trials comparable with one another. How well the
window knows its service times is told by how much they differ between its segments: spells of a busy host included.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from predictor.queueing import ServiceTimes, occupied_s, quantile, replay
from telemetry.instance_page import Sample, Status

from .guard import Slo, Verdict, judge
from .joules import SEGMENT_S
from .sequential import half_width, sure_to_break

HOPELESS = 4.0
"""Latencies beyond this multiple of the limit are reported as this multiple: how far beyond says nothing useful."""

ENOUGH_REQUESTS = 150
"""Before as many requests the tail of what was seen says nothing about that of the replay."""

FEWEST = 3
"""Batches of one size before they say how much its service times vary."""

LATEST = 300
"""Arrivals that are enough to say how far a quantile moves with the service times."""

BLOCK = 4.0
"""Multiples of the limit in a block of requests that are judged together: late ones come in rows."""


@dataclass(frozen=True, slots=True)
class ModelWindow:
    """One model's traffic: requests finished in the window, and arrivals (seconds) of the whole run so far."""

    samples: tuple[Sample, ...]
    arrivals_s: tuple[float, ...]
    slo: Slo
    batch_limit: int
    batch_wait_s: float = 0.0
    surprise: float = 1.0
    """How much longer than replayed requests were seen to take; see `surprise`."""
    bounds: tuple[float, float] | None = None
    """Multiples of its latency quantile between which the true one lies, where known; see `latency_bounds`."""
    lost: tuple[Sample, ...] = ()
    """Requests of the window that got an error for an answer."""

    @property
    def rate_hz(self) -> float:
        """Requests per second offered over the whole run; 0 with fewer than two arrivals."""
        if len(self.arrivals_s) < 2:
            return 0.0
        return (len(self.arrivals_s) - 1) / (self.arrivals_s[-1] - self.arrivals_s[0])


@dataclass(frozen=True, slots=True)
class Busy:
    """Share of the time that the offered load keeps the device busy, and its half-width, a share too."""

    share: float
    half_width: float


def batches_of(samples: Iterable[Sample]) -> list[Sample]:
    """Of each batch served the sample that arrived first, in order of their start."""
    served = [sample for sample in samples if sample.status is Status.OK]
    served.sort(key=lambda sample: (sample.start_ns, -sample.arrival_ns))
    return list({sample.start_ns: sample for sample in served}.values())


def service_times(samples: Iterable[Sample], batch_wait_s: float = 0.0) -> ServiceTimes:
    """Seconds that each batch occupied the server, by batch size; `ValueError` if no request was served."""
    sizes: dict[int, list[float]] = defaultdict(list)
    free_ns = math.inf  # nothing is known of what the first one found
    for batch in batches_of(samples):
        arrival_s, free_s = (batch.arrival_ns - batch.start_ns) / 1e9, (free_ns - batch.start_ns) / 1e9
        sizes[batch.batch].append(occupied_s(arrival_s, 0.0, batch.service_s, free_s, batch_wait_s))
        free_ns = batch.end_ns
    return ServiceTimes({size: tuple(times_s) for size, times_s in sizes.items()})


def latency_at_load_s(window: ModelWindow) -> float:
    """The SLO's quantile of latency when the whole run's arrivals meet this window's service times, in seconds."""
    replayed_s = _replayed_s(window, window.arrivals_s, service_times(window.samples, window.batch_wait_s))
    return min(replayed_s * window.surprise, HOPELESS * window.slo.limit_s)


def latency_bounds(window: ModelWindow) -> ModelWindow:
    """The window with what its service times leave open of the quantile, on the latest of the arrivals.

    That is how long a batch takes, and what larger batches than any seen would save.
    """
    doubt = half_width(_paces(window.samples))
    if not doubt < 1:
        return window
    latest_s, services = window.arrivals_s[-LATEST:], service_times(window.samples, window.batch_wait_s)
    low_s, usual_s, high_s = (
        _replayed_s(window, latest_s, services.stretched(1 + lean * doubt, lean)) for lean in (-1, 0, 1)
    )
    return replace(window, bounds=(low_s / usual_s, high_s / usual_s))


def _replayed_s(window: ModelWindow, arrivals_s: Sequence[float], services: ServiceTimes) -> float:
    replayed = replay(arrivals_s, services, window.batch_limit, window.batch_wait_s)
    return replayed.quantile_s(window.slo.quantile)


def busy_at_load(window: ModelWindow) -> Busy:
    """How busy the whole run's load keeps the device at this window's service times; `ValueError` if none was served.

    Which batch sizes come up is part of what is known badly.
    """
    batches = batches_of(window.samples)
    requests = sum(batch.batch for batch in batches)
    if not requests:
        raise ValueError("no request was served")
    service_s = sum(batch.service_s for batch in batches) / requests
    each_s = [
        sum(batch.service_s for batch in rows) / sum(batch.batch for batch in rows) for rows in _segments(batches)
    ]
    return Busy(window.rate_hz * service_s, window.rate_hz * half_width(each_s))


def is_broken(window: ModelWindow, begin_s: float, end_s: float) -> bool:
    """Whether the requests seen since `begin_s` break the promise itself over its last window, or are sure to."""
    if end_s - begin_s >= window.slo.window_s:
        latest = [sample for sample in window.samples if sample.end_ns / 1e9 >= end_s - window.slo.window_s]
        lost = sum(sample.end_ns / 1e9 >= end_s - window.slo.window_s for sample in window.lost)
        if judge([sample.latency_s for sample in latest], lost, window.slo) is Verdict.BROKEN:
            return True
    return sure_to_be_late(window, begin_s, end_s)


def sure_to_be_late(window: ModelWindow, begin_s: float, end_s: float) -> bool:
    """Whether the requests seen between these moments prove the objective broken, however the replay judges it."""
    length_s = max(SEGMENT_S, BLOCK * window.slo.limit_s)
    blocks: dict[int, list[bool]] = defaultdict(list)
    for sample in (*window.samples, *window.lost):
        late = sample.status is not Status.OK or sample.latency_s > window.slo.limit_s
        blocks[int((sample.end_ns / 1e9 - begin_s) / length_s)].append(late)
    whole = int((end_s - begin_s) / length_s)
    shares = (sum(blocks[number]) / len(blocks[number]) for number in sorted(blocks) if number < whole)
    return sure_to_break(shares, 1 - window.slo.quantile)


def surprise(windows: Sequence[ModelWindow]) -> float:
    """The factor by which one instance's real latencies exceed the replay at the SLO's quantile; never below 1.

    Real service times come in slow and fast spells, which a replay that draws them one by one does not know. Pooled
    over all trials that kept the SLO: the quantile of latency over replayed quantile; 1 before `ENOUGH_REQUESTS`.
    """
    ratios: list[float] = []
    for window in windows:
        replayed_s = latency_at_load_s(replace(window, surprise=1.0))
        if replayed_s <= window.slo.limit_s:
            ratios += [sample.latency_s / replayed_s for sample in window.samples]
    if len(ratios) < ENOUGH_REQUESTS:
        return 1.0
    return max(1.0, quantile(ratios, windows[0].slo.quantile))


def _paces(samples: Sequence[Sample]) -> list[float]:
    """For each segment, how long its batches took relative to the mean of their size."""
    batches = batches_of(samples)
    sizes: dict[int, list[float]] = defaultdict(list)
    for batch in batches:
        sizes[batch.batch].append(batch.service_s)
    means = {size: sum(seen) / len(seen) for size, seen in sizes.items() if len(seen) >= FEWEST}
    known = [batch for batch in batches if batch.batch in means]
    return [sum(row.service_s / means[row.batch] for row in rows) / len(rows) for rows in _segments(known)]


def _segments(batches: Sequence[Sample]) -> list[list[Sample]]:
    """Batches by the half second in which they began."""
    rows: dict[int, list[Sample]] = defaultdict(list)
    for batch in batches:
        rows[int((batch.start_ns - batches[0].start_ns) / 1e9 / SEGMENT_S)].append(batch)
    return list(rows.values())
