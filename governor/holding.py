# SPDX-License-Identifier: Apache-2.0
"""A point being held: its windows are judged one after the other, and compared with the time of the trials."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from telemetry.board_page import BoardReading

from .demand import Demand
from .drift import Drift, Look
from .guard import Verdict
from .reader import Snapshot
from .window import board_of


@dataclass(frozen=True, slots=True)
class Finding:
    """What one window said: verdict and quantile by instance, whether the load is another, what changed for good.

    `share_of_limit`: the constrained quantile over its limit, of the instance nearest to it.
    """

    verdicts: dict[str, Verdict]
    latency_s: dict[str, float | None]
    share_of_limit: float
    load_differs: bool
    crowded: bool
    """Whether more was asked for than usual, be it by luck."""
    changed: str

    @property
    def broken(self) -> bool:
        """Whether any promise was broken."""
        return Verdict.BROKEN in self.verdicts.values()


class Holding:
    """Judges windows of `window_s` from now on."""

    def __init__(
        self, demand: Demand, drift: Drift, clock: Callable[[], float], window_s: float, now: Snapshot
    ) -> None:
        self._demand, self._drift, self._clock, self._window_s = demand, drift, clock, window_s
        self._other_load = False
        self._before: Look | None = None
        self._begin(now)

    @property
    def over(self) -> bool:
        """Whether the window is."""
        return self._clock() >= self._from_s + self._window_s

    @property
    def began_s(self) -> float:
        """When the window did."""
        return self._from_s

    def restart(self, now: Snapshot) -> None:
        """Counters are not what they were: the window begins again."""
        self._begin(now)

    def close(self, now: Snapshot, *, alone: bool = True, cool: bool = True) -> Finding:
        """What the window said; the next one begins.

        Unless it was `alone`, joules are not those of requests; unless the board is `cool`, it may be training's heat.
        """
        span_s = self._clock() - self._from_s
        offered = {name: traffic.seen for name, traffic in self._demand.traffic.items()}
        energy_j = board_of(now).energy_j - board_of(self._mark).energy_j
        celsius = hottest(board_of(now)) if cool else None
        requests = _requests(now) - _requests(self._mark)
        look = Look(span_s, offered, celsius, *((energy_j, requests) if alone else ()))
        # of a window cut short the load is known too badly to excuse a point
        load = look.after(self._before) if self._before and span_s < self._window_s / 2 else look
        finding = Finding(
            self._demand.verdicts(),
            {name: traffic.quantile_s for name, traffic in self._demand.traffic.items()},
            self._demand.share_of_limit,
            self._drift.load_differs(load),
            self._drift.crowded(load),
            self._drift.changed(look),
        )
        if finding.load_differs != self._other_load:
            # from here on the load is another one, and trials are to be judged by that
            self._demand.forget()
            self._other_load = finding.load_differs
        self._before = look
        self._begin(now)
        return finding

    def _begin(self, now: Snapshot) -> None:
        self._from_s, self._mark = self._clock(), now
        self._demand.mark()


def hottest(board: BoardReading) -> float | None:
    """Degrees Celsius of the board's hottest zone, None if none is known."""
    return max((celsius for celsius in board.zones_celsius.values() if math.isfinite(celsius)), default=None)


def _requests(now: Snapshot) -> int:
    return sum(view.requests for view in now.instances)
