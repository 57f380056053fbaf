# SPDX-License-Identifier: Apache-2.0
"""The demand on all instances that are governed: their traffic, waits and promises taken together."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from .config import Config
from .guard import Slo, Verdict, judge
from .latency import ModelWindow
from .reader import InstanceView
from .sequential import unsafe_wait
from .traffic import Traffic

LOAD_CHANGE = 0.2
SURGE = 0.005
"""Chance of so many arrivals at the usual load, below which a hopeless wait is the load's doing."""
ENOUGH_ARRIVALS = 30
"""Before as many arrivals the offered load is not known well enough to say what a request costs."""


class Demand:
    """Traffic by instance, of those that have an objective: their own, or the configuration's in its place."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.traffic: dict[str, Traffic] = {}

    def add(self, views: Iterable[InstanceView]) -> None:
        """Take in what the pages show."""
        for view in views:
            if (slo := self._slo(view)) is not None:
                self.traffic.setdefault(view.info.instance, Traffic(slo)).add(view)
        self.traffic = dict(sorted(self.traffic.items()))

    def keep(self, present: Collection[str]) -> None:
        """Forget the instances that have gone."""
        self.traffic = {name: traffic for name, traffic in self.traffic.items() if name in present}

    def mark(self) -> None:
        """Begin a new window."""
        for traffic in self.traffic.values():
            traffic.mark()

    def forget(self) -> None:
        """Forget what arrived before the window."""
        for traffic in self.traffic.values():
            traffic.forget()

    @property
    def slos(self) -> dict[str, Slo]:
        """The objectives by instance."""
        return {name: traffic.slo for name, traffic in self.traffic.items()}

    @property
    def known(self) -> bool:
        """Whether the load of every instance is known."""
        return all(len(traffic.arrivals_s) >= ENOUGH_ARRIVALS for traffic in self.traffic.values())

    @property
    def arrivals_s(self) -> dict[str, tuple[float, ...]]:
        """Arrivals of the run, ascending, by instance."""
        return {name: traffic.arrivals_s for name, traffic in self.traffic.items()}

    @property
    def failed(self) -> int:
        """Requests of the window that got an error for an answer."""
        return sum(traffic.failed for traffic in self.traffic.values())

    @property
    def all_served(self) -> bool:
        """Whether every instance answered something in the window."""
        return all(traffic.latencies_s for traffic in self.traffic.values())

    @property
    def share_of_limit(self) -> float:
        """The window's constrained quantile over its limit, of the instance nearest to it."""
        return max(traffic.share_of_limit for traffic in self.traffic.values())

    def waits(self, now_ns: int, limits: float) -> bool:
        """Whether some request has waited for more than so many times its limit."""
        return any(traffic.waited_s(now_ns) > limits * traffic.slo.limit_s for traffic in self.traffic.values())

    def waits_unsafely(self, now_ns: int) -> bool:
        """Whether some request has waited for so long that no point which keeps its objective would let it."""
        return any(
            traffic.waited_s(now_ns) > unsafe_wait(traffic.slo.quantile) * traffic.slo.limit_s
            for traffic in self.traffic.values()
        )

    def began_before(self, at_s: float) -> bool:
        """Whether a request in flight arrived before then, on CLOCK_MONOTONIC."""
        busy = [traffic for traffic in self.traffic.values() if traffic.in_flight]
        return any(0 < traffic.oldest_arrival_ns < 1e9 * at_s for traffic in busy)

    def changed(self, span_s: float) -> bool:
        """Whether any instance's load over the window of `span_s` is no longer what it was."""
        return any(
            load_changed(traffic.usual_hz, traffic.seen, span_s, traffic.usual_known)
            for traffic in self.traffic.values()
        )

    def busier(self, span_s: float) -> bool:
        """Whether any instance got more requests in the window of `span_s` than is usual, be it by luck."""
        return any(traffic.seen > (1 + LOAD_CHANGE) * traffic.usual_hz * span_s for traffic in self.traffic.values())

    def surged(self, now_ns: int) -> bool:
        """Whether any instance has lately got more requests than its usual load explains."""
        return any(surged(traffic, now_ns / 1e9) for traffic in self.traffic.values())

    def windows(self, batch_limits: Mapping[str, int]) -> dict[str, ModelWindow]:
        """The window by instance, under these batch limits."""
        return {name: traffic.window(batch_limits[name]) for name, traffic in self.traffic.items()}

    def verdicts(self) -> dict[str, Verdict]:
        """What the window says about each instance's promise."""
        return {name: judge(traffic.latencies_s, traffic.failed, traffic.slo) for name, traffic in self.traffic.items()}

    def _slo(self, view: InstanceView) -> Slo | None:
        limit_s = self._config.slo_s or view.info.slo_s
        quantile = self._config.slo_quantile or view.info.slo_quantile
        return Slo(quantile, limit_s, self._config.slo_window_s) if limit_s else None


def load_changed(usual_hz: float, seen: int, span_s: float, known: float = math.inf) -> bool:
    """Whether the load differs by more than a fifth, and by more than Poisson luck (four deviations) explains.

    `known` is the number of arrivals that `usual_hz` was counted from, which had a luck of its own.
    """
    usual = usual_hz * span_s
    luck = math.sqrt(usual + usual**2 / known) if known else math.inf
    return abs(seen - usual) > max(LOAD_CHANGE * usual, 4.0 * luck)


def surged(traffic: Traffic, now_s: float) -> bool:
    """Whether more requests arrived than Poisson luck explains, since the oldest one in flight did or of late."""
    span_s = max(0.5, traffic.waited_s(round(now_s * 1e9)))
    for lately_s in (span_s, 2 * span_s, 4 * span_s):
        usual, arrived = traffic.usual_hz * lately_s, traffic.arrived_since(now_s - lately_s)
        if arrived > (1 + LOAD_CHANGE) * usual and chance_of_arrivals(arrived, usual) < SURGE:
            return True
    return False


def chance_of_arrivals(count: int, usual: float) -> float:
    """Probability of at least `count` arrivals where `usual` are expected; 1 where nobody knows what is usual."""
    if not usual:
        return 1.0
    fewer = math.fsum(math.exp(k * math.log(usual) - usual - math.lgamma(k + 1)) for k in range(count))
    return max(0.0, 1.0 - fewer)
