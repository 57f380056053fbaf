# SPDX-License-Identifier: Apache-2.0
"""The page of one model instance: gate, counters, knobs, and a ring of per-request samples.

The governed backend owns it. The governor writes only the knobs; a virtual board's clockd writes only the stretch. Who
waits for inference (the trainer) reads the gate: one word, no system call.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import IntEnum

from .pages import HEADER_WORDS, WORD, Page, Record, fixed, text

RING = 4096
"""Samples kept; at 1000 requests a second a reader may be four seconds late."""

STRETCH_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
"""The batch sizes whose stretch a virtual board publishes; sizes between them interpolate."""


BOOKS = "none"
"""The workload of an instance that computes nothing: its requests are neither load nor anybody's promise."""


class Counter(IntEnum):
    """Words that only grow, written by the backend."""

    BUSY_NS = HEADER_WORDS + 2
    """Time the device was busy, stretched on a virtual board."""
    BUSY_BATCH_NS = BUSY_NS + 1
    """Busy time multiplied by the batch size, so that a difference of both gives the mean batch."""
    REQUESTS = BUSY_NS + 2
    BATCHES = BUSY_NS + 3
    SAMPLES = BUSY_NS + 4
    KNOBS_IGNORED = BUSY_NS + 5


class Status(IntEnum):
    """How a request ended."""

    OK = 0
    INVALID = 1
    REJECTED = 2
    """The queue was full."""
    TIMED_OUT = 3
    CANCELLED = 4
    FAILED = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished request; times are CLOCK_MONOTONIC nanoseconds, `start_ns` the moment its batch began to execute."""

    arrival_ns: int
    start_ns: int
    end_ns: int
    batch: int
    status: Status

    @property
    def latency_s(self) -> float:
        """Server-side latency, queueing included, in seconds."""
        return (self.end_ns - self.arrival_ns) / 1e9

    @property
    def service_s(self) -> float:
        """Time its batch took, in seconds."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Knobs:
    """What the governor may change while the model serves: the largest batch, and how long a batch may wait to fill."""

    batch_limit: int
    batch_wait_ns: int


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """What a reader must know about an instance; `slo_s` is 0 where the model states no objective."""

    model: str
    version: str
    instance: str
    virtual_workload: str
    max_batch: int
    batch_wait_ns: int
    slo_s: float
    slo_quantile: float
    slo_weight: float

    @property
    def served(self) -> bool:
        """Whether it is a model that computes; what only keeps books is nobody's load."""
        return self.virtual_workload != BOOKS


_IN_FLIGHT = HEADER_WORDS
_OLDEST_NS = HEADER_WORDS + 1
_RECORDS_AT = 16 * WORD
_INFO = Record(_RECORDS_AT, "64s16s64s32sIQddd")
_KNOBS = Record(_INFO.offset + _INFO.size, "QQQ")
_APPLIED = Record(_KNOBS.offset + _KNOBS.size, "QQ")
_STRETCH = Record(_APPLIED.offset + _APPLIED.size, f"{len(STRETCH_BATCHES)}d")
_RING = Record(_STRETCH.offset + _STRETCH.size, "QQQQII")


class InstancePage(Page):
    """One model instance, as seen by the governor, the trainer and a virtual board's clockd."""

    magic = b"TEGINSTC"
    version = 1
    size = _RING.offset + RING * _RING.size

    def set_gate(self, in_flight: int, oldest_arrival_ns: int) -> None:
        """Say how many requests are queued or executing, and since when the oldest has waited (0: none)."""
        self.words[_IN_FLIGHT] = in_flight
        self.words[_OLDEST_NS] = oldest_arrival_ns

    @property
    def in_flight(self) -> int:
        """Requests queued or executing now."""
        return int(self.words[_IN_FLIGHT])

    @property
    def gate(self) -> memoryview:
        """The word that holds `in_flight`, for who looks after every operation; to be released before `close`."""
        return self.words[_IN_FLIGHT : _IN_FLIGHT + 1]

    @property
    def oldest_arrival_ns(self) -> int:
        """Arrival of the oldest request in flight, 0 if there is none."""
        return int(self.words[_OLDEST_NS])

    def count(self, counter: Counter, by: int = 1) -> None:
        """Add to one counter; for the backend only."""
        self.words[counter] += by

    def counter(self, counter: Counter) -> int:
        """The counter's value since the page was made."""
        return int(self.words[counter])

    def add_sample(self, sample: Sample) -> None:
        """Append to the ring; the oldest of `RING` samples is overwritten."""
        index = self.words[Counter.SAMPLES]
        fields = (index, sample.arrival_ns, sample.start_ns, sample.end_ns, sample.batch, sample.status)
        _RING.write(self.memory, fields, index % RING)
        self.words[Counter.SAMPLES] = index + 1

    def samples_since(self, cursor: int) -> tuple[list[Sample], int, int]:
        """Samples numbered `cursor` and later, the next cursor, and how many were overwritten before they were read."""
        end = self.counter(Counter.SAMPLES)
        first = max(cursor, end - RING)
        samples = []
        for number in range(first, end):
            fields = _RING.read(self.memory, number % RING)
            if fields is not None and fields[0] == number:
                arrival_ns, start_ns, end_ns, batch, status = fields[1:]
                samples.append(Sample(arrival_ns, start_ns, end_ns, batch, Status(status)))
        return samples, end, end - cursor - len(samples)

    def write_knobs(self, knobs: Knobs, ttl_s: float) -> None:
        """Set the knobs for `ttl_s` seconds; for the governor only."""
        expires_ns = time.monotonic_ns() + int(ttl_s * 1e9)
        _KNOBS.write(self.memory, (knobs.batch_limit, knobs.batch_wait_ns, expires_ns))

    def read_knobs(self, now_ns: int) -> Knobs | None:
        """The governor's knobs, or None if it set none or they have expired: then config.pbtxt holds."""
        fields = _KNOBS.read(self.memory)
        if fields is None or fields[2] <= now_ns:
            return None
        return Knobs(fields[0], fields[1])

    def write_applied(self, knobs: Knobs) -> None:
        """Say which knobs are in force; for the backend only."""
        _APPLIED.write(self.memory, (knobs.batch_limit, knobs.batch_wait_ns))

    @property
    def applied(self) -> Knobs | None:
        """The knobs in force, None before the backend said so."""
        fields = _APPLIED.read(self.memory)
        return Knobs(*fields) if fields else None

    def write_info(self, info: InstanceInfo) -> None:
        """Describe the instance; for the backend, once."""
        names = (
            fixed(info.model, 64),
            fixed(info.version, 16),
            fixed(info.instance, 64),
            fixed(info.virtual_workload, 32),
        )
        slo = info.slo_s, info.slo_quantile, info.slo_weight
        _INFO.write(self.memory, (*names, info.max_batch, info.batch_wait_ns, *slo))

    @property
    def info(self) -> InstanceInfo | None:
        """The description, None before it was written."""
        fields = _INFO.read(self.memory)
        if fields is None:
            return None
        model, version, instance, workload = (text(name) for name in fields[:4])
        return InstanceInfo(model, version, instance, workload, *fields[4:])

    def write_stretch(self, factors: tuple[float, ...]) -> None:
        """Set the slow-down of each of `STRETCH_BATCHES` against maximum clocks; for a virtual board's clockd only."""
        _STRETCH.write(self.memory, factors)

    @property
    def stretched(self) -> bool:
        """Whether a virtual board has said how it slows batches down; False on a real board."""
        return _STRETCH.read(self.memory) is not None

    def stretch(self, batch: int) -> float:
        """Slow-down of one batch relative to maximum clocks; 1 on a real board. Linear between the sizes published."""
        factors = _STRETCH.read(self.memory)
        if factors is None:
            return 1.0
        for (low, at_low), (high, at_high) in zip(
            zip(STRETCH_BATCHES, factors, strict=True), zip(STRETCH_BATCHES[1:], factors[1:], strict=True), strict=False
        ):
            if batch <= high:
                return float(at_low + (at_high - at_low) * max(0, batch - low) / (high - low))
        return float(factors[-1])
