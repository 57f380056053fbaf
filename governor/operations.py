# SPDX-License-Identifier: Apache-2.0
"""How long a job's operations are: what a request waits for that arrives while one runs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from predictor.admission import KNOWN
from predictor.corun import TrainingSlices

from .latency import HOPELESS
from .reader import TrainerView

FEW, LATEST = 8, 2 * KNOWN
"""Fewer operations say nothing; of more, the latest count."""
EVEN = 0.5
"""The mix of a job that has not told it."""


class Operations:
    """Those of the job that trains now, and how much of their time memory traffic takes."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        """Of all that were seen, and of those that the trainer told of; 0 while nothing is known."""
        self._stretches_s: deque[float] = deque(maxlen=LATEST)
        self._mix = EVEN

    def see(self, trainer: TrainerView) -> None:
        """Take in what was noted since the last look."""
        self._stretches_s += [stretch_s for stretch_s in trainer.stretches_s if stretch_s > 0]
        if trainer.notice.mix is not None:
            self._mix = min(1.0, max(0.0, trainer.notice.mix))
        self.longest_s = max(self.longest_s, trainer.notice.longest_s, *trainer.stretches_s)

    def forget(self) -> None:
        """Another job has others."""
        self._stretches_s.clear()
        self.longest_s, self._mix = 0.0, EVEN

    @property
    def measured(self) -> int:
        """0: too few to predict from; 1: some; 2: enough to refuse a job for."""
        count = len(self._stretches_s)
        return (count >= FEW) + (count >= KNOWN)

    def slices(self, duty: float = 1.0, slice_s: float = math.inf, slowdown: float = 1.0) -> TrainingSlices:
        """Training made of them; without stretches until they are measured."""
        stretches_s = tuple(self._stretches_s) if self.measured else ()
        return TrainingSlices(stretches_s, duty, self._mix, slice_s, slowdown)

    def at_worst(self, limits_s: Iterable[float], slowdown: float) -> TrainingSlices:
        """As `slices`; if none is measured but one is known that keeps requests waiting hopelessly, that one alone."""
        if not self.measured and any(slowdown * self.longest_s > HOPELESS * limit_s for limit_s in limits_s):
            return TrainingSlices((self.longest_s,) * KNOWN, 1.0, self._mix, math.inf, slowdown)
        return self.slices(slowdown=slowdown)
