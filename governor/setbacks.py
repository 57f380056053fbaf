# SPDX-License-Identifier: Apache-2.0
"""What fails again and again: how often something may fail in a row before it is given up, and waits that grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

FAILURES = 3
"""Requests that failed in a row at one knob, after which it leaves the search."""

IGNORED = 5
"""Trials in a row whose clocks did not follow; with one more the clocks are given back."""

LONGEST_S = 300.0
"""The longest wait."""


@dataclass(slots=True)
class Setbacks:
    """Counts what failed in a row."""

    _failed: Counter[str] = field(default_factory=Counter)
    _ignored: int = 0

    def failed(self, knob: str) -> bool:
        """Count a request that failed at this knob; whether that is the third in a row."""
        self._failed[knob] += 1
        return self._failed[knob] >= FAILURES

    def granted(self, knobs: Iterable[str]) -> None:
        """A request for these knobs went through."""
        for knob in ("", *knobs):
            self._failed.pop(knob, None)

    def ignored(self) -> bool:
        """Count a trial whose clocks did not follow; whether that is more than five in a row."""
        self._ignored += 1
        return self._ignored > IGNORED

    def followed(self) -> None:
        """The clocks were as asked for from a trial's begin to its end."""
        self._ignored = 0


@dataclass(slots=True)
class Backoff:
    """Waits that double while what they wait out keeps coming back soon after, up to `longest_s`."""

    first_s: float
    longest_s: float = LONGEST_S
    _wait_s: float = 0.0
    _over_s: float = float("-inf")

    def next_s(self, now_s: float) -> float:
        """How long to wait this time; after `longest_s` of peace it begins anew."""
        peaceful = now_s - self._over_s > self.longest_s
        self._wait_s = self.first_s if peaceful else min(self.longest_s, 2 * self._wait_s)
        self._over_s = now_s + self._wait_s
        return self._wait_s
