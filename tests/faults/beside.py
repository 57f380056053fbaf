# SPDX-License-Identifier: Apache-2.0
"""Inference beside training as an event simulation, made otherwise than the predictor thinks that it works.

Operations of a step come in their fixed order, not drawn. Service times come in slow and fast spells, and stall now
and then. A batch shares the device with the operation in progress at a speed of its own, and what training leaves
cold costs a fixed time, not a share. Clocks slow batches down by another power than said.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from predictor.queueing import ServiceTimes


@dataclass(frozen=True, slots=True)
class Truth:
    """What a device really does; seconds, shares and factors."""

    service_s: float = 0.01
    each_s: float = 0.003
    """What each further request of a batch adds."""
    noise: float = 0.05
    spells: float = 0.08
    """Standard deviation of the logarithm that a spell of some seconds multiplies service by."""
    stalls: float = 0.003
    """Share of batches that take `stall_s` longer."""
    stall_s: float = 0.01
    ops_s: tuple[float, ...] = (0.001, 0.001, 0.006, 0.002, 0.0005, 0.012, 0.001, 0.004)
    shared: float = 0.55
    """Speed of a batch beside an operation in progress."""
    cold_s: float = 0.001
    exponent: float = 1.15
    """Power of the slow-down that batches really follow."""
    batch_limit: int = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """What an instance page and a trainer's page would show of a window."""

    arrivals_s: tuple[float, ...]
    latencies_s: tuple[float, ...]
    batches: tuple[tuple[int, float], ...]
    trained_s: float

    @property
    def services(self) -> ServiceTimes:
        """Service times by batch size."""
        sizes: dict[int, list[float]] = {}
        for size, service_s in self.batches:
            sizes.setdefault(size, []).append(service_s)
        return ServiceTimes({size: tuple(times) for size, times in sizes.items()})


def poisson(rate_hz: float, number: int, rng: random.Random) -> list[float]:
    """Arrivals at a constant rate."""
    now_s, times = 0.0, []
    for _ in range(number):
        now_s += rng.expovariate(rate_hz)
        times.append(now_s)
    return times


def bursty(rate_hz: float, number: int, rng: random.Random) -> list[float]:
    """Arrivals whose rate turns between a third and five thirds of the mean, for seconds each."""
    now_s, times, high, turn_s = 0.0, [], False, 0.0
    for _ in range(number):
        if now_s >= turn_s:
            high, turn_s = not high, now_s + rng.expovariate(0.5)
        now_s += rng.expovariate(rate_hz * (5 / 3 if high else 1 / 3))
        times.append(now_s)
    return times


def happens(
    truth: Truth,
    arrivals_s: Sequence[float],
    rng: random.Random,
    *,
    duty: float = 0.0,
    slice_s: float = 0.05,
    slowdown: float = 1.0,
) -> Seen:
    """Serve `arrivals_s` with training in the gaps, event by event."""
    training = _Training(truth, rng, duty, slice_s)
    factor, spell_s, spell = slowdown**truth.exponent, 0.0, 0.0
    free_s, first, latencies_s, batches = arrivals_s[0], 0, [], []
    while first < len(arrivals_s):
        busy_until_s, trained = training.until(free_s, arrivals_s[first])
        start_s = max(free_s, arrivals_s[first]) + rng.uniform(0, 0.0001)
        last = first + 1
        while last < min(len(arrivals_s), first + truth.batch_limit) and arrivals_s[last] <= start_s:
            last += 1
        if start_s >= spell_s:
            spell_s, spell = start_s + rng.expovariate(0.3), rng.gauss(0, truth.spells)
        alone_s = factor * (truth.service_s + truth.each_s * (last - first - 1))
        alone_s *= math.exp(spell + rng.gauss(0, truth.noise))
        alone_s += truth.stall_s * rng.expovariate(1) * (rng.random() < truth.stalls) + truth.cold_s * trained
        beside_s = max(0.0, busy_until_s - start_s)
        done = truth.shared * beside_s
        service_s = alone_s / truth.shared if done >= alone_s else beside_s + alone_s - done
        free_s = start_s + service_s
        latencies_s += [free_s - arrival_s for arrival_s in arrivals_s[first:last]]
        batches.append((last - first, service_s))
        first = last
    return Seen(tuple(arrivals_s), tuple(latencies_s), tuple(batches), training.trained_s)


class _Training:
    """Operations one after the other while nobody is in flight, with rests as its duty asks."""

    def __init__(self, truth: Truth, rng: random.Random, duty: float, slice_s: float) -> None:
        self._truth, self._rng, self._duty, self._slice_s = truth, rng, duty, slice_s
        self._at, self._ends_s, self._next_s = 0, 0.0, 0.0
        self.trained_s = 0.0

    def until(self, idle_from_s: float, arrival_s: float) -> tuple[float, bool]:
        """Train until a request arrives; when the operation in progress ends, and whether any was begun."""
        if not self._duty or arrival_s <= idle_from_s:
            return self._ends_s, False
        now_s = max(self._next_s, self._ends_s, idle_from_s + self._rng.uniform(0, 0.0006))
        slice_s, begun = 0.0, False
        while now_s < arrival_s:
            op_s = self._truth.ops_s[self._at] * math.exp(self._rng.gauss(0, 0.1))
            self._at = (self._at + 1) % len(self._truth.ops_s)
            now_s, slice_s, begun = now_s + op_s, slice_s + op_s, True
            self.trained_s += op_s
            if slice_s >= self._slice_s or now_s >= arrival_s:
                self._ends_s, self._next_s = now_s, now_s + slice_s * (1 / self._duty - 1)
                now_s, slice_s = max(now_s, self._next_s), 0.0
        return self._ends_s, begun
