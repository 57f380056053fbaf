# SPDX-License-Identifier: Apache-2.0
"""A board and its clockd in virtual time, with everything that may go wrong: the governor's `Clocks`.

Every fault is an attribute: set it, and it lasts until it is set back. All figures are those of a virtual board.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from boards.clocks import KNOBS, Applied, ClockPoint, ClockTable
from telemetry.board_page import BoardReading

from .clockd.energy import EnergyMeter
from .errors import ClockdUnavailable, LeaseLost, LeaseRefused
from .points import without

SETTLE_S = 0.05
WINDOW_S = 0.43
"""The averaging of an INA3221."""
STEP_W = 0.1
"""One step of it: 20 mA at 5 V."""

TABLE = ClockTable(
    gpu_hz=(306_000_000, 612_000_000, 918_000_000, 1_300_500_000),
    gpu_min_hz=(306_000_000, 612_000_000, 918_000_000, 1_300_500_000),
    emc_hz=(665_600_000, 2_133_000_000, 3_199_000_000),
    cpu_hz=(729_600_000, 1_497_600_000, 2_201_600_000),
    cores=(4, 8, 12),
)
"""A few of the AGX Orin's values."""


class SimulatedBoard:
    """Leases as clockd grants them, and the readings that its page would show."""

    def __init__(self, clock: Callable[[], float], table: ClockTable = TABLE) -> None:
        self.running = True
        self.observe_only = False
        self.honours = True
        """False: every lease is granted, and the clocks stay where they are."""
        self.refusal = ""
        """The kind of error with which every lease is refused; empty: none is."""
        self.failing: dict[str, str] = {}
        """Knobs that cannot be written, and the cause: denied, busy, missing or refused."""
        self.vanished: set[str] = set()
        """Knobs whose files have gone: their values are not offered any more."""
        self.throttle_events = self.brief_throttles = self.foreign_changes = 0
        self.power_missing = self.power_frozen = self.blind = False
        """Whether power, or any temperature, cannot be read; whether the power sensor shows the same for ever."""
        self.celsius = 45.0
        """Of its one thermal zone."""
        self.averaging_s = WINDOW_S
        """What the page says of the power sensor's window."""
        self.writes = 0
        """Leases asked for, granted or not."""
        self._clock = clock
        self._table = table
        self._leased: ClockPoint | None = None
        self._expires_s = 0.0
        self._slices: deque[tuple[float, float]] = deque()
        self._meter = EnergyMeter(WINDOW_S)
        self._shown_w = 0.0
        self._changed_s = self._zones_s = clock()

    @property
    def point(self) -> ClockPoint:
        """The clocks in force: those leased over the board's own, which are its maximum."""
        own = self._table.maximum()
        if not self.leased or self._leased is None or not self.honours:
            return own
        chosen = {knob: value for knob in KNOBS if (value := getattr(self._leased, knob)) is not None}
        return replace(own, **chosen)

    @property
    def leased(self) -> bool:
        """Whether a lease is in force."""
        return self._leased is not None and self._clock() < self._expires_s

    def stop(self) -> None:
        """End clockd: the lease with it, its answers and its page. `start` brings back the last two."""
        self._leased, self.running = None, False

    def start(self) -> None:
        """Start clockd again."""
        self.running = True

    def take_back(self) -> None:
        """End the lease, as clockd does when it has to."""
        self._leased = None

    def change_clock(self, table: ClockTable | None = None) -> None:
        """Somebody else changes a clock, and with it perhaps what is offered: clockd notices and ends the lease."""
        self.foreign_changes += self.leased
        self._leased = None
        self._table = table or self._table

    def table(self) -> ClockTable:
        """The values the board offers."""
        self._answer()
        if self.observe_only:
            raise LeaseRefused("observe_only", "no board")
        return without(self._table, self.vanished)

    def lease(self, point: ClockPoint, ttl_s: float) -> Applied:
        """Hold `point` for `ttl_s` seconds; raises `LeaseRefused`."""
        self.writes += 1
        table = self.table()
        if self.refusal or not table.offers(point):
            raise LeaseRefused(self.refusal or "not_offered", f"{point}")
        for knob, cause in self.failing.items():
            if getattr(point, knob) is not None:
                self._leased = None
                raise LeaseRefused("board", f"{knob}: {cause}", cause, knob)
        self._leased, self._expires_s = point, self._clock() + ttl_s
        return Applied(point, self.point, SETTLE_S)

    def renew(self, ttl_s: float) -> None:
        """Hold it for another `ttl_s` seconds; raises `LeaseLost`."""
        self._held()
        self._expires_s = self._clock() + ttl_s

    def release(self) -> None:
        """Give the clocks back; raises `LeaseLost` if they were given back already."""
        self._held()
        self._leased = None

    def feed(self, power_w: float, dt_s: float) -> None:
        """Let the board draw so much for so long."""
        self._slices.append((power_w, dt_s))
        excess_s = sum(dt_s for _, dt_s in self._slices) - WINDOW_S
        while excess_s > 0:
            oldest_w, oldest_s = self._slices.popleft()
            if oldest_s > excess_s:
                self._slices.appendleft((oldest_w, oldest_s - excess_s))
            excess_s -= oldest_s

    def sample(self) -> None:
        """Look at the sensors, as clockd does at every tick."""
        seconds = sum(dt_s for _, dt_s in self._slices)
        shown_w = STEP_W * round(sum(power_w * dt_s for power_w, dt_s in self._slices) / seconds / STEP_W)
        if shown_w != self._shown_w and not self.power_frozen:
            self._shown_w, self._changed_s = shown_w, self._clock()
        self._meter.take(self._clock(), None if self.power_missing else self._shown_w)
        if not self.blind:
            self._zones_s = self._clock()

    def reading(self) -> BoardReading:
        """What the page shows."""
        now_s, meter = self._clock(), self._meter
        return BoardReading(
            board="virtual:simulated",
            virtual=True,
            observe_only=self.observe_only,
            sampled_ns=round(now_s * 1e9),
            requested=(self._leased if self.leased and self._leased else ClockPoint()).values(),
            observed=self.point.values(),
            energy_j=meter.joules,
            energy_error_j=meter.error_j,
            power_w=meter.power_w,
            lease_pid=int(self.leased),
            lease_expires_ns=round(self._expires_s * 1e9),
            throttle_events=self.throttle_events,
            foreign_changes=self.foreign_changes,
            brief_throttles=self.brief_throttles,
            averaging_s=self.averaging_s,
            power_missing_s=meter.missing_s,
            power_same_s=now_s - self._changed_s,
            zones_age_s=now_s - self._zones_s,
            zones_celsius={"tj": self.celsius},
        )

    def _answer(self) -> None:
        if not self.running:
            raise ClockdUnavailable(Path("simulated"), "nobody answers")

    def _held(self) -> None:
        self._answer()
        if not self.leased:
            raise LeaseLost("no lease is in force")
