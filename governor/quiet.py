# SPDX-License-Identifier: Apache-2.0
"""What served models do while nothing trains beside them: their arrivals, and how long batches take at which clocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, replace

from predictor.corun import Serving
from predictor.queueing import ServiceTimes, occupied_s
from telemetry.instance_page import Status

from .reader import InstanceView

ARRIVALS = 1000
"""Arrivals remembered by instance: a prediction replays them some thirty times."""
TIMES = 400
"""Service times kept by batch size."""
ENOUGH = 20
"""Batches after which service times are known."""
TOLD = 20
"""Requests of a window that say something of a quantile."""
CLOCKS = 40
"""Sets of clocks whose service times are kept."""
SUMMARY = 32
"""Of so many times a summary consists."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What batches of one size took an instance at one set of clocks: at most `SUMMARY` times, ascending."""

    clocks: Hashable
    instance: str
    batch: int
    times_s: tuple[float, ...]


class Quiet:
    """By instance. Clocks are whatever the caller calls them; a batch counts if it began while nothing trained."""

    def __init__(self) -> None:
        self._arrivals_s: dict[str, deque[float]] = {}
        self._times_s: dict[Hashable, dict[str, dict[int, deque[float]]]] = {}
        self._limits: dict[str, tuple[str, int, float]] = {}
        """The model, and the batch limit and wait in force."""
        self._free_s: dict[str, float] = {}
        """When the latest batch ended."""

    def add(self, views: Iterable[InstanceView], clocks: Hashable, since_s: float) -> None:
        """Take in what finished; batches that began after `since_s` ran at these clocks, with nothing beside them."""
        if clocks not in self._times_s and len(self._times_s) >= CLOCKS:
            self._times_s.pop(next(iter(self._times_s)))
        here = self._times_s.setdefault(clocks, {})
        for view in views:
            name, applied = view.info.instance, view.applied
            limit, wait_ns = (applied.batch_limit, applied.batch_wait_ns) if applied else (view.info.max_batch, 0)
            self._limits[name] = view.info.model, limit, wait_ns / 1e9
            arrivals_s = self._arrivals_s.setdefault(name, deque(maxlen=ARRIVALS))
            by_batch = here.setdefault(name, {})
            for sample in view.samples:
                if sample.status is not Status.OK:
                    continue
                arrivals_s.append(sample.arrival_ns / 1e9)
                start_s, end_s, free_s = sample.start_ns / 1e9, sample.end_ns / 1e9, self._free_s.get(name, 0.0)
                if end_s <= free_s:
                    continue  # those of one batch are one service time
                self._free_s[name] = end_s
                time_s = occupied_s(arrivals_s[-1], start_s, end_s, free_s, wait_ns / 1e9)
                if end_s - time_s >= since_s and time_s > 0:
                    by_batch.setdefault(sample.batch, deque(maxlen=TIMES)).append(time_s)

    @property
    def summary(self) -> list[Timed]:
        """What is known of each set of clocks, to be kept over a restart."""
        return [
            Timed(clocks, name, batch, _condensed(times_s))
            for clocks, here in self._times_s.items()
            for name, by_batch in here.items()
            for batch, times_s in by_batch.items()
            if times_s
        ]

    def recall(self, summary: Iterable[Timed]) -> None:
        """Take up a summary where no batch was timed since; what is timed from now on comes on top of it."""
        known = {(clocks, name) for clocks, here in self._times_s.items() for name in here}
        for timed in summary:
            room = timed.clocks in self._times_s or len(self._times_s) < CLOCKS
            if room and (timed.clocks, timed.instance) not in known:
                here = self._times_s.setdefault(timed.clocks, {}).setdefault(timed.instance, {})
                here[timed.batch] = deque(timed.times_s, maxlen=TIMES)

    def batches(self, name: str, clocks: Hashable) -> int:
        """How many batches of an instance were timed at these clocks."""
        return sum(map(len, self._times_s.get(clocks, {}).get(name, {}).values()))

    def serving(self, name: str, clocks: Hashable, batch_limit: int | None = None) -> Serving | None:
        """An instance at these clocks, under this batch limit or the one in force; None if no batch was timed there."""
        times_s = self._times_s.get(clocks, {}).get(name, {})
        if not any(times_s.values()):
            return None
        model, limit, wait_s = self._limits[name]
        services = ServiceTimes({size: tuple(times) for size, times in times_s.items() if times})
        arrivals_s = tuple(sorted(self._arrivals_s[name]))
        return Serving(arrivals_s, services, batch_limit or limit, wait_s, name=model)

    def asked(self, name: str, clocks: Hashable, arrivals_s: tuple[float, ...]) -> Serving | None:
        """An instance as these very requests met it; None where they are too few to say, or nothing was timed."""
        serving = self.serving(name, clocks) if len(arrivals_s) >= TOLD else None
        return replace(serving, arrivals_s=arrivals_s) if serving is not None else None

    def slowdown(self, names: Iterable[str], clocks: Hashable, against: Hashable) -> float:
        """How many times longer batches take than at other clocks; 1 where no size was timed at both."""
        ratios = [
            _mean(times_s) / _mean(other)
            for name in names
            for size, times_s in self._times_s.get(clocks, {}).get(name, {}).items()
            if times_s and (other := self._times_s.get(against, {}).get(name, {}).get(size))
        ]
        return sum(ratios) / len(ratios) if ratios else 1.0

    def forget(self, present: Collection[str]) -> None:
        """Forget the instances that have gone."""
        for name in self._limits.keys() - set(present):
            self._limits.pop(name)
            self._arrivals_s.pop(name)
            self._free_s.pop(name, None)
            for here in self._times_s.values():
                here.pop(name, None)


def _condensed(times_s: Collection[float]) -> tuple[float, ...]:
    """Quantiles in place of many times."""
    ordered = sorted(times_s)
    if len(ordered) <= SUMMARY:
        return tuple(ordered)
    return tuple(ordered[int((number + 0.5) * len(ordered) / SUMMARY)] for number in range(SUMMARY))


def _mean(times_s: Iterable[float]) -> float:
    values = tuple(times_s)
    return sum(values) / len(values)
