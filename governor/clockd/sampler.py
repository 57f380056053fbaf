# SPDX-License-Identifier: Apache-2.0
"""Looks at the board: power at every tick, clocks five times a second, temperatures and throttle counters once.

Each sensor is read on its own: one that fails is counted, and takes neither the others nor the leases with it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from boards.clocks import Board, ClockPoint
from boards.errors import BoardError
from boards.thermal import Throttle

from .energy import EnergyMeter

log = logging.getLogger("teg.clockd")

CLOCKS_S = 0.2
"""Clocks are looked at this often, and at once after we have changed them; who else does is seen by the knob files."""
SLOW_S = 1.0
"""Temperatures and throttle counters are read this often; they change in seconds, and each is a file."""
Value = TypeVar("Value")


class Sampler:
    """What the latest samples said, and what was counted since the start. `board` is None where there is none."""

    def __init__(self, board: Board | None, now_s: float) -> None:
        self.board = board
        self.observed = ClockPoint()
        self.meter = EnergyMeter()
        self.rails_w: dict[str, float] = {}
        self.zones_celsius: dict[str, float] = {}
        self.throttle_events = 0
        self.brief_throttles = 0
        self.faults: Counter[str] = Counter()
        """Reads that failed, by sensor."""
        self._throttle: Throttle | None = None
        self._clocks_s = self._slow_s = float("-inf")
        self._zones_s = self._changed_s = now_s
        self._ailing: set[str] = set()

    def sample(self, now_s: float) -> None:
        """Look once."""
        board = self.board
        if board is None:
            return
        # Power first: its time is the sample's.
        self._sample_power(board, now_s)
        if now_s - self._clocks_s >= CLOCKS_S:
            self._clocks_s = now_s
            self._sample_clocks(board)
        if now_s - self._slow_s >= SLOW_S:
            self._slow_s = now_s
            self._sample_slowly(board, now_s)

    def look_again(self) -> None:
        """The clocks have been changed: the next sample looks at them."""
        self._clocks_s = float("-inf")

    def power_same_s(self, now_s: float) -> float:
        """For how long every rail has shown exactly the same."""
        return now_s - self._changed_s

    def zones_age_s(self, now_s: float) -> float:
        """Age of the last temperature that could be read."""
        return now_s - self._zones_s

    def _sample_power(self, board: Board, now_s: float) -> None:
        def read() -> float:
            rails_w = board.rails()
            if rails_w != self.rails_w:
                self.rails_w, self._changed_s = rails_w, now_s
            return board.power_w(rails_w)

        counted_j = self._attempt("energy", board.energy_j)
        if self.meter.take(now_s, self._attempt("power", read), counted_j):
            self.faults["power"] += 1

    def _sample_clocks(self, board: Board) -> None:
        before, self.observed = self.observed, self._attempt("clocks", board.observe) or self.observed
        if before != self.observed:
            # Was it heat? Whoever reads the page must not see the one without the other.
            self._slow_s = float("-inf")

    def _sample_slowly(self, board: Board, now_s: float) -> None:
        self.meter.window_s = board.averaging_s
        zones = self._attempt("temperature", board.thermals)
        self.zones_celsius = {zone: celsius for zone, celsius in (zones or {}).items() if celsius is not None}
        if self.zones_celsius or zones == {}:
            # A board that has no sensor at all is not blind.
            self._zones_s = now_s
        throttle, before = self._attempt("throttle", board.throttle), self._throttle
        if throttle is None:
            return
        if before is not None:
            self.throttle_events += max(0, throttle.events - before.events)
            self.throttle_events += len(set(throttle.alerts) - set(before.alerts))
            self.brief_throttles += max(0, throttle.brief_events - before.brief_events)
        self._throttle = throttle

    def _attempt(self, sensor: str, read: Callable[[], Value]) -> Value | None:
        """What `read` gives, None if it failed. A failure is counted each time, and logged when it begins."""
        try:
            value = read()
        except (BoardError, OSError, ValueError) as error:
            self.faults[sensor] += 1
            if sensor not in self._ailing:
                self._ailing.add(sensor)
                log.warning("%s not read: %s", sensor, error)
            return None
        self._ailing.discard(sensor)
        return value
