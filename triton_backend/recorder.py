# SPDX-License-Identifier: Apache-2.0
"""What an instance tells others about its requests: its page's gate, samples and counters, and counts for the metrics.

Called by the thread of `execute`, the worker and the heartbeat, hence the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from telemetry.instance_page import Counter, InstancePage, Knobs, Sample, Status

from .tally import Tally

MAX_WAIT_NS = 1_000_000_000
"""The longest batch wait that a knob may ask for."""

GLANCE_NS = 10_000_000
"""What others write to the page is read at most this often: a light model serves many batches meanwhile."""


class Recorder:
    """Keeps one instance page and one tally in step."""

    def __init__(self, page: InstancePage, tally: Tally, configured: Knobs, max_batch: int) -> None:
        self._page = page
        self._tally = tally
        self._configured = configured
        self._max_batch = max_batch
        self._lock = threading.Lock()
        self._in_flight: dict[int, int] = {}
        self._refused_knobs: Knobs | None = None
        self._applied = configured
        self._knobs_read_ns = 0
        self._stretches: dict[int, tuple[int, float]] = {}
        self.virtual = False
        """Whether a virtual board's clockd was seen to slow batches down."""
        page.write_applied(configured)

    def arrived(self, number: int, arrival_ns: int) -> None:
        """A request was accepted; the gate closes."""
        with self._lock:
            self._in_flight[number] = arrival_ns
            self._show_gate()

    def finished(self, outcomes: Sequence[tuple[int, Sample]]) -> None:
        """Requests were answered, by number."""
        with self._lock:
            for number, sample in outcomes:
                self._in_flight.pop(number, None)
                self._add(sample)
            self._show_gate()

    def turned_away(self, sample: Sample) -> None:
        """A request was answered without ever being accepted."""
        with self._lock:
            self._add(sample)

    def executed(self, samples: int, busy_ns: int) -> None:
        """A batch ran."""
        with self._lock:
            self._page.count(Counter.BUSY_NS, busy_ns)
            self._page.count(Counter.BUSY_BATCH_NS, busy_ns * samples)
            self._page.count(Counter.BATCHES)
            self._tally.batch(samples, busy_ns)

    def stretch(self, samples: int, now_ns: int) -> float:
        """The virtual board's slow-down for a batch, 1 on a real board."""
        read_ns, factor = self._stretches.get(samples, (0, 1.0))
        if now_ns - read_ns > GLANCE_NS:
            factor = self._page.stretch(samples)
            self.virtual = self._page.stretched
            self._stretches[samples] = (now_ns, factor)
        return factor

    def knobs(self, now_ns: int) -> Knobs:
        """The knobs in force: the governor's while they are fresh and in range, else those of config.pbtxt."""
        if now_ns - self._knobs_read_ns <= GLANCE_NS:
            return self._applied
        with self._lock:
            self._knobs_read_ns = now_ns
            asked = self._page.read_knobs(now_ns)
            if asked is not None and not self._in_range(asked):
                if asked != self._refused_knobs:
                    self._refused_knobs = asked
                    self._page.count(Counter.KNOBS_IGNORED)
                    self._tally.knobs_ignored += 1
                asked = None
            applied = asked or self._configured
            if applied != self._applied:
                self._applied = applied
                self._page.write_applied(applied)
            return self._applied

    def beat(self) -> None:
        """Say that the instance lives."""
        self._page.beat()

    def harvest(self, queue_depth: int) -> Tally:
        """What was counted since the last harvest."""
        with self._lock:
            harvest, self._tally = self._tally, Tally()
            harvest.queue_depth = queue_depth
            harvest.batch_limit = self._applied.batch_limit
            return harvest

    def close(self) -> None:
        """Take the page away."""
        with self._lock:
            self._page.remove()

    def _in_range(self, knobs: Knobs) -> bool:
        return 1 <= knobs.batch_limit <= self._max_batch and 0 <= knobs.batch_wait_ns <= MAX_WAIT_NS

    def _add(self, sample: Sample) -> None:
        self._page.add_sample(sample)
        self._page.count(Counter.REQUESTS)
        self._tally.request(sample)

    def _show_gate(self) -> None:
        # insertion order is arrival order
        oldest_ns = next(iter(self._in_flight.values()), 0)
        self._page.set_gate(len(self._in_flight), oldest_ns)


def instant(arrival_ns: int, now_ns: int, samples: int, status: Status) -> Sample:
    """The sample of a request that never executed."""
    return Sample(arrival_ns, now_ns, now_ns, samples, status)
