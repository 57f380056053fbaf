# SPDX-License-Identifier: Apache-2.0
"""How long inference waits for training to stop: a pacer whose requests come at random moments, and what it noted."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class YieldTimes:
    """Seconds from a request to the trainer's stop: how many, median, 99th percentile, longest."""

    requests: int
    p50_s: float
    p99_s: float
    max_s: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> YieldTimes:
        """Those of a list that is not empty."""
        found = sorted(seconds)
        return cls(len(found), found[len(found) // 2], found[int(0.99 * (len(found) - 1) + 0.5)], found[-1])


class RandomRequests:
    """A `Pacer` that inference asks to stop at moments drawn beforehand, each an exponential gap after the last stop.

    The moment of a request is a time and no thread's doing: a thread of the trainer's process could not announce it
    while the interpreter's lock is taken, which another process would. `clock_ns`: wall clock, or the thread's own
    processor time for figures without the machine's other load. `served_s`: how long inference takes.
    """

    def __init__(
        self,
        mean_gap_s: float,
        seed: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        served_s: float = 0.0,
    ) -> None:
        self.waited_s: list[float] = []
        self._mean_gap_s, self._clock_ns, self._served_s = mean_gap_s, clock_ns, served_s
        self._random = random.Random(seed)
        self._next_ns = 0
        self.restart()

    def restart(self) -> None:
        """Draw the next request anew, from now on: after a pause between steps."""
        self._next_ns = self._clock_ns() + int(self._random.expovariate(1.0 / self._mean_gap_s) * 1e9)

    def clear(self) -> bool:
        """Whether no request has come yet."""
        return self._clock_ns() < self._next_ns

    def wait(self) -> float:
        """Note how long the request waited, serve it, draw the next; seconds served."""
        now_ns = self._clock_ns()
        if now_ns >= self._next_ns:
            self.waited_s.append((now_ns - self._next_ns) / 1e9)
            if self._served_s:
                time.sleep(self._served_s)
            self.restart()
        return self._served_s

    def slice_done(self, busy_s: float) -> None:
        """No duty to keep."""

    @property
    def times(self) -> YieldTimes:
        """What was noted so far."""
        return YieldTimes.of(self.waited_s)
