# SPDX-License-Identifier: Apache-2.0
"""A server that goes on vacation: training fills the moments in which no request is in flight.

After Doshi, "Queueing systems with vacations" (1986). Training looks at the gate between two operations, so a request
that arrives meanwhile finds the rest of one uninterrupted stretch. Three things then cost it time:

* The rest of the stretch. Where device and training share everything (one GPU), it is waited for (`block` = 1); where
  they share a part (two cores, one memory), the batch goes at the speed `1 - block` until the stretch is over.
* What training left behind: cold caches make the first batch after training take `1 + cold` times as long. A device
  that training kept awake (clocks up, no idle state to leave) makes it shorter than one alone: `cold` below 0.
* Training itself rests between slices, so that it takes `duty` of the idle time; who arrives then pays nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

LOOKS_S = 0.0005
"""How late training notices that the server is idle: the gate's polling interval."""

SLICE_S = 0.05
"""A slice of training between two rests, unless one stretch is longer: short enough for rests to be even."""

_FEW = 8
"""Stretches that are laid end to end before where they lie no longer matters."""

_GOLDEN = (math.sqrt(5) - 1) / 2
"""From one draw to the next, which spreads them evenly (a Weyl sequence)."""


@dataclass(frozen=True, slots=True)
class Vacations:
    """Training in the gaps: how long it goes without looking at the gate, how much of the idle time it may take.

    `stretches_s` are lengths as measured, drawn from with equal weight; a slice is at most `slice_s` seconds of
    training, followed by a rest in proportion. Raises `ValueError` where a figure makes no sense.
    """

    stretches_s: tuple[float, ...]
    duty: float = 1.0
    slice_s: float = SLICE_S
    block: float = 1.0
    cold: float = 0.0

    def __post_init__(self) -> None:
        if self.cold <= -1:
            raise ValueError(f"cold takes less than the whole batch away, not {self.cold}")
        if not self.stretches_s or not all(0 < stretch_s < math.inf for stretch_s in self.stretches_s):
            raise ValueError("stretches must be known, positive and finite")
        if not 0 <= self.duty <= 1:
            raise ValueError(f"duty is a share, not {self.duty}")
        if not 0 < self.slice_s < math.inf:
            raise ValueError(f"slice_s must be positive and finite, not {self.slice_s}")


class Absence:
    """One replay's training, at a duty above 0: when the stretch in progress ends, and the rest after it; seconds.

    `luck` has a number from 0 to 1 for each request, of which the stretch that it meets is drawn.
    """

    def __init__(self, vacations: Vacations, luck: Sequence[float]) -> None:
        self._of, self._luck = vacations, luck
        self._until_s = self._rest_until_s = -math.inf
        self.trained_s = 0.0
        lengths = vacations.stretches_s
        self._mean_s = sum(lengths) / len(lengths)
        self._ends_s = list(accumulate(lengths))
        self._rest = 1 / vacations.duty - 1
        self._slice_s = max(vacations.slice_s, self._mean_s)

    def extra_s(self, first: int, idle_from_s: float, arrival_s: float, start_s: float, service_s: float) -> float:
        """What the batch that request `first` opens at `start_s` takes longer; nobody was served from `idle_from_s`."""
        cold_s = 0.0
        if arrival_s > idle_from_s and self._trains(idle_from_s, arrival_s, self._luck[first]):
            cold_s = self._of.cold * service_s
        left_s = self._until_s - start_s
        if left_s <= 0:
            return cold_s
        block = self._of.block
        return cold_s + (left_s if block >= 1 else min(block * left_s, service_s * block / (1 - block)))

    def _trains(self, from_s: float, arrival_s: float, luck: float) -> bool:
        """Train while nobody is there, and on to the end of the stretch in progress; whether any training was done."""
        begin_s = max(from_s + LOOKS_S, self._until_s, self._rest_until_s)
        if begin_s >= arrival_s:
            return False
        since_s = arrival_s - begin_s
        if self._rest:
            cycle_s = self._slice_s * (1 + self._rest)
            whole = since_s // cycle_s
            self.trained_s += whole * self._slice_s
            since_s -= whole * cycle_s
            if since_s >= self._slice_s:
                self.trained_s += self._slice_s
                self._rest_until_s = arrival_s - since_s + cycle_s
                return True
        slice_s = since_s + self._residual_s(since_s, luck)
        self.trained_s += slice_s
        self._until_s = arrival_s - since_s + slice_s
        self._rest_until_s = self._until_s + slice_s * self._rest
        return True

    def _residual_s(self, since_s: float, luck: float) -> float:
        """What is left of the stretch in progress `since_s` after the first one began."""
        if since_s < _FEW * self._mean_s:
            lengths, end_s = self._of.stretches_s, 0.0
            while end_s <= since_s:
                end_s += lengths[int(luck * len(lengths))]
                luck = (luck + _GOLDEN) % 1.0
            return end_s - since_s
        # long ago: a moment falls into a stretch in proportion to its length (the inspection paradox), anywhere in it
        at_s = luck * self._ends_s[-1]
        return self._ends_s[min(bisect_right(self._ends_s, at_s), len(self._ends_s) - 1)] - at_s
