# SPDX-License-Identifier: Apache-2.0
"""Whether it pays to hold the next batch for a moment, because clients just answered are about to ask again.

Clients in a closed loop come back together a few milliseconds after they were answered together. Starting the first of
them alone splits them into small batches for good; holding it briefly keeps them in step. Clients in an open loop do
not come back, and holding is then given up but for a try now and then.
"""

from __future__ import annotations

SHARE = 0.15
"""The longest hold, as a share of what a batch takes."""

LONGEST_NS = 5_000_000
_PAYS = 0.3
_BLEND = 0.25
_TRY_EVERY = 32


class Company:
    """Decides after each batch; times are CLOCK_MONOTONIC nanoseconds."""

    __slots__ = ("_expected", "_gain", "_skipped", "_there", "until_ns")

    def __init__(self) -> None:
        self.until_ns = 0
        """How long the next batch may be held, 0 if it is not."""
        self._expected = 0
        self._there = 0
        self._gain = 1.0
        self._skipped = 0

    def parted(self, answered: int, waiting: int, service_ns: float, now_ns: int) -> None:
        """A batch of `answered` samples, which took `service_ns`, has ended while `waiting` others were queued."""
        self.until_ns = 0
        if answered + waiting >= 2 and self._worth_a_try():
            self._expected, self._there = answered + waiting, waiting
            self.until_ns = now_ns + int(min(LONGEST_NS, SHARE * service_ns))

    def holds(self, samples: int, limit: int, now_ns: int) -> bool:
        """Whether a batch of `samples` should still be held."""
        return now_ns < self.until_ns and samples < min(limit, self._expected)

    def started(self, samples: int) -> None:
        """A batch of `samples` starts: learn whether the hold brought anybody."""
        if self.until_ns:
            came = max(0, samples - self._there) / max(1, self._expected - self._there)
            self._gain += _BLEND * (min(1.0, came) - self._gain)
            self.until_ns = 0

    def _worth_a_try(self) -> bool:
        if self._gain >= _PAYS:
            return True
        self._skipped = (self._skipped + 1) % _TRY_EVERY
        return self._skipped == 0
