# SPDX-License-Identifier: Apache-2.0
"""What windows of requests say of training beside them: one after the other, and at once where one is lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from predictor.queueing import quantile
from telemetry.instance_page import Status

from .guard import Slo, beyond_doubt, late_over_allowed
from .latency import HOPELESS
from .reader import InstanceView, waited_s
from .traffic import FAILURES


@dataclass(frozen=True, slots=True)
class Heard:
    """One window; `latency_s` is the constrained quantile and `arrivals_s` when its requests came, by instance."""

    late: Mapping[str, float]
    """Late requests over as many as may be late: above 1 only where the promise was broken."""
    latency_s: Mapping[str, float]
    arrivals_s: Mapping[str, tuple[float, ...]]

    @property
    def worst(self) -> float:
        """`late` of the worst instance."""
        return max(self.late.values(), default=0.0)


@dataclass(slots=True)
class _Own:
    """The requests of one instance; the late ones are counted as they come, for they are looked at many times."""

    arrivals_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    late: int = 0
    failed: int = 0

    def take(self, view: InstanceView, limit_s: float, from_ns: int) -> None:
        for sample in view.samples:
            if sample.arrival_ns < from_ns:
                continue
            if sample.status is Status.OK:
                self.arrivals_s.append(sample.arrival_ns / 1e9)
                self.latencies_s.append(sample.latency_s)
                self.late += sample.latency_s > limit_s
            else:
                self.failed += sample.status in FAILURES

    def lost(self, slo: Slo, whole: float) -> bool:
        """Whether the window will be broken, even if of `whole` times as many requests none other is late."""
        total = round(whole * (len(self.latencies_s) + self.failed))
        return beyond_doubt(self.late + self.failed, total, slo)


class Beside:
    """Collects the window under way."""

    def __init__(self) -> None:
        self._begin_s: float | None = None
        self._from_ns = 0
        self._own: dict[str, _Own] = {}

    def restart(self) -> None:
        """What was heard so far was under other conditions."""
        self._begin_s = None

    def add(
        self, views: Iterable[InstanceView], slos: Mapping[str, Slo], now_ns: int, *, trained: bool
    ) -> Heard | None:
        """Take in what has finished; the window, if it is over by now.

        Also if it is lost and something `trained`, which has to stop at once: no sooner, for requests that are late
        come in rows. Without training the whole window tells more, and each one taken costs the processor that requests
        wait for.
        """
        now_s = now_ns / 1e9
        if self._begin_s is None:
            self._from_ns = now_ns  # requests from before still tell of what was then
            self._begin(now_s)
        views = [view for view in views if view.info.instance in slos]
        for view in views:
            name = view.info.instance
            self._own.setdefault(name, _Own()).take(view, slos[name].limit_s, self._from_ns)
        hopeless = self._hopeless(views, slos, now_ns)
        passed_s = now_s - (self._begin_s or now_s)
        window_s = max((slo.window_s for slo in slos.values()), default=10.0)
        over = passed_s >= window_s
        if not (over or (trained and (hopeless or self._lost(slos, window_s, passed_s)))):
            return None
        heard = self._heard(slos, hopeless)
        self._begin(now_s)
        if heard.worst > 1:
            self._from_ns = now_ns
        return heard

    def _begin(self, now_s: float) -> None:
        self._begin_s = now_s
        self._own.clear()

    def _hopeless(self, views: Iterable[InstanceView], slos: Mapping[str, Slo], now_ns: int) -> set[str]:
        """Instances with a request that waits hopelessly, and came after the last breach."""
        own = (view for view in views if view.oldest_arrival_ns >= self._from_ns)
        waits = ((view.info.instance, waited_s(now_ns, view.in_flight, view.oldest_arrival_ns)) for view in own)
        return {name for name, wait_s in waits if wait_s > HOPELESS * slos[name].limit_s}

    def _lost(self, slos: Mapping[str, Slo], window_s: float, passed_s: float) -> bool:
        return passed_s > 0 and any(own.lost(slos[name], window_s / passed_s) for name, own in self._own.items())

    def _heard(self, slos: Mapping[str, Slo], hopeless: Set[str]) -> Heard:
        heard = {name: self._own.get(name, _Own()) for name in slos}
        late = {name: late_over_allowed(own.latencies_s, own.failed, slos[name]) for name, own in heard.items()}
        late |= {name: max(late[name], HOPELESS) for name in hopeless}
        served = {name: own for name, own in heard.items() if own.latencies_s}
        latency_s = {name: quantile(own.latencies_s, slos[name].quantile) for name, own in served.items()}
        return Heard(late, latency_s, {name: tuple(sorted(own.arrivals_s)) for name, own in served.items()})
