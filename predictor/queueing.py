# SPDX-License-Identifier: Apache-2.0
"""Latency of a batching server, by replaying arrivals.

One server takes up to `batch_limit` waiting requests at a time (the discipline of the governed backend's batcher). Its
latency at a load is found by replaying a trace of arrivals against service times, after Lindley's recursion (1952)
extended to batches. Replaying the *same* arrivals for every configuration removes the luck of the draw from their
comparison (common random numbers), which is why a short trial can be judged on a long trace.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .vacations import Absence, Vacations


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """Seconds that a batch occupies the server, as measured, by batch size; sizes not seen are interpolated.

    Raises `ValueError` if no size was seen or a time is not positive.
    """

    seconds: Mapping[int, tuple[float, ...]]
    lean: int = 0
    """What to think of other sizes if only one was seen: 0 that batching saves nothing, -1 the best, 1 the worst."""

    def __post_init__(self) -> None:
        if not any(self.seconds.values()):
            raise ValueError("no service time was measured")
        if any(time_s <= 0 for times in self.seconds.values() for time_s in times):
            raise ValueError("service times must be positive")

    def stretched(self, times: float, lean: int = 0) -> ServiceTimes:
        """The same if everything took `times` as long, and other sizes were what `lean` says."""
        seconds = {size: tuple(times * time_s for time_s in seen) for size, seen in self.seconds.items()}
        return ServiceTimes(seconds, lean)

    def mean_s(self, batch: int) -> float:
        """Mean seconds of one batch of this size: measured, or on the line through the nearest two sizes measured."""
        means = {size: sum(times) / len(times) for size, times in self.seconds.items() if times}
        if batch in means:
            return means[batch]
        near, *others = sorted(means, key=lambda size: abs(size - batch))
        if not others:
            # One size only: nothing is known of what batching saves, so claim that it saves nothing.
            alike, apart = means[near], means[near] * batch / near
            return {-1: min(alike, apart), 0: apart, 1: max(alike, apart)}[self.lean]
        other = others[0]
        slope = (means[other] - means[near]) / (other - near)
        return max(means[near] + max(slope, 0.0) * (batch - near), min(means.values()) / 2)

    def of(self, batch: int) -> tuple[float, ...]:
        """Service times to draw from for a batch of this size: those measured, scaled if this size was not seen."""
        if times := self.seconds.get(batch):
            return times
        near = min((size for size, times in self.seconds.items() if times), key=lambda size: abs(size - batch))
        scale = self.mean_s(batch) / self.mean_s(near)
        return tuple(scale * time_s for time_s in self.seconds[near])


def occupied_s(arrival_s: float, start_s: float, end_s: float, free_s: float, batch_wait_s: float = 0.0) -> float:
    """Seconds that a batch occupied the server: from when it could have begun, not from when it did.

    That is once its first request was there (`arrival_s`) and had waited for others, and the batch before had ended
    (`free_s`). What passes from then on, a thread that wakes up late, is the server's own.
    """
    return end_s - min(start_s, max(arrival_s + batch_wait_s, free_s))


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found: latency of each request in seconds, in order of arrival, and the server's busy share."""

    latencies_s: tuple[float, ...]
    busy_share: float
    mean_batch: float
    training_share: float = 0.0
    """Share of the time that training in the gaps got."""

    def quantile_s(self, q: float) -> float:
        """The q-quantile of latency in seconds."""
        return quantile(self.latencies_s, q)


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least a share `q` of the values does not exceed; `ValueError` if there is none."""
    if not values:
        raise ValueError("no values to take a quantile of")
    ordered = sorted(values)
    # rounded first: 0.55 * 100 is a hair above 55
    rank = math.ceil(round(q * len(ordered), 9))
    return ordered[min(len(ordered), max(1, rank)) - 1]


def replay(
    arrivals_s: Sequence[float],
    services: ServiceTimes,
    batch_limit: int,
    batch_wait_s: float = 0.0,
    vacations: Vacations | None = None,
    seed: int = 0,
) -> Replay:
    """Replay ascending `arrivals_s` (seconds) through one batching server; `ValueError` if there are none.

    With `vacations`, training fills the gaps. Luck belongs to a request, whichever batch it opens: what the same seed
    draws differs from configuration to configuration only where these do (common random numbers).
    """
    if not arrivals_s:
        raise ValueError("no arrivals to replay")
    count, waits = len(arrivals_s), batch_wait_s > 0
    luck = _luck(count, seed)
    absence = Absence(vacations, _luck(count, seed + 1)) if vacations and vacations.duty else None
    latencies: list[float] = []
    times_s: dict[int, tuple[float, ...]] = {}
    free_s, busy_s, batches, first = arrivals_s[0], 0.0, 0, 0
    while first < count:
        arrival_s = arrivals_s[first]
        start_s = free_s if free_s > arrival_s else arrival_s
        if waits:
            full = first + batch_limit - 1
            filled_s = arrivals_s[full] if full < count else math.inf
            start_s = max(start_s, min(filled_s, arrival_s + batch_wait_s))
        last, most = first + 1, min(count, first + batch_limit)
        while last < most and arrivals_s[last] <= start_s:
            last += 1
        size = last - first
        drawn = times_s.get(size) or times_s.setdefault(size, services.of(size))
        service_s = drawn[int(luck[first] * len(drawn))]
        if absence is not None:
            service_s += absence.extra_s(first, free_s, arrival_s, start_s, service_s)
        end_s = start_s + service_s
        latencies.append(end_s - arrival_s)
        if size > 1:
            latencies += [end_s - arrived_s for arrived_s in arrivals_s[first + 1 : last]]
        free_s = end_s
        busy_s += service_s
        batches += 1
        first = last
    span_s = max(free_s - arrivals_s[0], busy_s)
    trained = absence.trained_s / span_s if absence is not None else 0.0
    return Replay(tuple(latencies), busy_s / span_s, len(arrivals_s) / batches, trained)


@lru_cache(maxsize=8)
def _luck(count: int, seed: int) -> tuple[float, ...]:
    """Numbers from 0 to 1 in random order, one of each `count`-th part: a tail neither too long nor too short."""
    luck = [(place + 0.5) / count for place in range(count)]
    random.Random(seed).shuffle(luck)  # noqa: S311 - a simulation, nothing secret
    return tuple(luck)
