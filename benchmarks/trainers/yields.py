# SPDX-License-Identifier: Apache-2.0
"""How soon training yields: from the instant inference wants the device to the instant training asks and learns it.

A request may come at any instant of a step, so the spans between two askings hold the whole answer: one that comes
within a span of g seconds waits uniformly between 0 and g. They are taken by wall clock and, free of what neighbours on
a shared machine do, by the thread's own clock; real requests at random instants are there to check them by.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..yielding import RandomRequests

MEAN_GAP_S = 0.05


class Asked:
    """A `Pacer` that notes when it is asked, in wall seconds and the thread's own, between `begin` and `end` of steps.

    Requests are served at once; outside of such steps it is always clear.
    """

    def __init__(self) -> None:
        self.spans_s: list[float] = []
        self.busy_s: list[float] = []
        self._requests = RandomRequests(MEAN_GAP_S, seed=0)
        self._on = self._wanted = False

    def begin(self, *, requests: bool) -> None:
        """A step begins, with or without requests."""
        self._on, self._wanted = True, requests
        self._requests.restart()
        self._restart()

    def end(self) -> None:
        """The step has ended; training lets go of the device."""
        self._note()
        self._on = False

    def clear(self) -> bool:
        """Whether no request is there."""
        if not self._on:
            return True
        self._note()
        return not self._wanted or self._requests.clear()

    def wait(self) -> float:
        """The request is served; there is none while operations are only measured."""
        if not self._on:
            return 0.0
        served_s = self._requests.wait()
        self._restart()
        return served_s

    def slice_done(self, busy_s: float) -> None:
        """Nothing is charged."""

    def observed(self) -> dict[str, Any]:
        """How many requests there were, and how long they waited."""
        return asdict(self._requests.times) if self._requests.waited_s else {"requests": 0}

    def _note(self) -> None:
        wall_s, own_s = self._wall_s, self._own_s
        self._restart()
        self.spans_s.append(self._wall_s - wall_s)
        self.busy_s.append(self._own_s - own_s)

    def _restart(self) -> None:
        self._wall_s, self._own_s = time.perf_counter(), time.thread_time()


def quantile_s(spans_s: Sequence[float], q: float) -> float:
    """The wait that a share q of requests at random instants does not exceed: sum(max(0, g - t)) = (1 - q) sum(g)."""
    if not spans_s:
        raise ValueError("no spans")
    ordered = sorted(spans_s, reverse=True)
    left, above = (1 - q) * sum(ordered), 0.0
    for number, span_s in enumerate(ordered, 1):
        above += span_s
        wait_s = (above - left) / number
        if number == len(ordered) or wait_s >= ordered[number]:
            return max(0.0, wait_s)
    raise AssertionError("the last span ends the search")


def waits(spans_s: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and the longest wait of requests at random instants, seconds."""
    return {"p50_s": quantile_s(spans_s, 0.5), "p99_s": quantile_s(spans_s, 0.99), "max_s": max(spans_s)}
