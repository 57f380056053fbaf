# SPDX-License-Identifier: Apache-2.0
"""What training draws beside serving: where its joules are compared between points, they are measured ones.

Watts at a point that no job has run at are not known. They are taken to be the same multiple of what serving alone
draws there, for clocks raise both.
"""

from __future__ import annotations

from collections.abc import Hashable

from telemetry.board_page import BoardReading

from .reader import TrainerView
from .spots import Spot

SEGMENT_S, SHARE = 2.0, 0.25
"""Length of the segments that are looked at, and the least share of one in which training computed: beside less, what
serving draws by chance counts for more."""
COMPUTED_S = 5.0
"""Seconds of computing after which the multiple is believed."""
LEAST, MOST = 0.1, 10.0


class Draw:
    """Fed with every look at the board; `over_serving` is the multiple, 1 until it was measured."""

    def __init__(self) -> None:
        self.over_serving = 1.0
        self._spot: Spot | None = None
        self._begin: tuple[float, float, float] | None = None
        """Seconds, joules and busy seconds at the begin of the segment."""
        self._above_j = self._computed_s = 0.0

    def begin(self, spot: Spot | None) -> None:
        """A job trains at this point from now on; None where nobody knows what serving draws."""
        if spot is None or self._spot is None or spot.clocks != self._spot.clocks:
            self._begin, self._above_j, self._computed_s = None, 0.0, 0.0
        self._spot = spot

    def see(self, board: BoardReading | None, trainer: TrainerView | None, clocks: Hashable) -> None:
        """One look at the joules, and at what training has computed."""
        spot = self._spot
        if board is None or trainer is None or spot is None or spot.serving_w <= 0 or clocks != spot.clocks:
            self._begin = None
            return
        now_s, busy_s = board.sampled_ns / 1e9, trainer.busy_ns / 1e9
        if self._begin is None or busy_s < self._begin[2]:
            self._begin = now_s, board.energy_j, busy_s
            return
        span_s, computed_s = now_s - self._begin[0], busy_s - self._begin[2]
        if span_s < SEGMENT_S:
            return
        if computed_s >= SHARE * span_s:
            self._above_j += board.energy_j - self._begin[1] - spot.serving_w * span_s
            self._computed_s += computed_s
        self._begin = now_s, board.energy_j, busy_s
        if self._computed_s >= COMPUTED_S:
            self.over_serving = min(MOST, max(LEAST, self._above_j / self._computed_s / spot.serving_w))
