# SPDX-License-Identifier: Apache-2.0
"""What windows of requests say of training beside them: one after the other, and at once where a breach is plain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from predictor.queueing import quantile
from telemetry.instance_page import Sample, Status

from .guard import Slo, counted, late_over_allowed
from .latency import HOPELESS
from .reader import InstanceView, waited_s
from .traffic import FAILURES
from .watch import plainly_broken


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


class Beside:
    """Collects the window under way."""

    def __init__(self) -> None:
        self._begin_s: float | None = None
        self._from_ns = 0
        self._served: dict[str, list[Sample]] = {}
        self._failed: dict[str, int] = {}

    def restart(self) -> None:
        """What was heard so far was under other conditions."""
        self._begin_s = None

    def add(
        self, views: Iterable[InstanceView], slos: Mapping[str, Slo], now_ns: int, *, trained: bool
    ) -> Heard | None:
        """Take in what has finished; the window, if it is over by now.

        Also if it is plainly broken and something `trained`, which has to stop at once. Without, the whole window tells
        more than its worst moments, and each window taken costs the processor that requests wait for.
        """
        now_s = now_ns / 1e9
        if self._begin_s is None:
            self._from_ns = now_ns  # requests from before still tell of what was then
            self._begin(now_s)
        views = [view for view in views if view.info.instance in slos]
        for view in views:
            self._take(view)
        waits = ((view.info.instance, waited_s(now_ns, view.in_flight, view.oldest_arrival_ns)) for view in views)
        hopeless = {name for name, wait_s in waits if wait_s > HOPELESS * slos[name].limit_s}
        over = now_s - (self._begin_s or now_s) >= max((slo.window_s for slo in slos.values()), default=10.0)
        if not (over or (trained and (hopeless or self._plainly_broken(slos)))):
            return None
        heard = self._heard(slos, hopeless)
        self._begin(now_s)
        if heard.worst > 1:
            self._from_ns = now_ns
        return heard

    def _begin(self, now_s: float) -> None:
        self._begin_s = now_s
        self._served.clear()
        self._failed.clear()

    def _take(self, view: InstanceView) -> None:
        name = view.info.instance
        samples = [sample for sample in view.samples if sample.arrival_ns >= self._from_ns]
        self._served.setdefault(name, []).extend(sample for sample in samples if sample.status is Status.OK)
        self._failed[name] = self._failed.get(name, 0) + sum(sample.status in FAILURES for sample in samples)

    def _plainly_broken(self, slos: Mapping[str, Slo]) -> bool:
        for name, slo in slos.items():
            late, total = counted(*self._of(name), slo)
            if late and plainly_broken(late, total, slo):
                return True
        return False

    def _heard(self, slos: Mapping[str, Slo], hopeless: Set[str]) -> Heard:
        late = {name: late_over_allowed(*self._of(name), slo) for name, slo in slos.items()}
        late |= {name: max(late[name], HOPELESS) for name in hopeless}
        served = {name: samples for name, samples in self._served.items() if samples}
        latency_s = {name: quantile(self._of(name)[0], slos[name].quantile) for name in served}
        arrivals_s = {
            name: tuple(sorted(sample.arrival_ns / 1e9 for sample in samples)) for name, samples in served.items()
        }
        return Heard(late, latency_s, arrivals_s)

    def _of(self, name: str) -> tuple[list[float], int]:
        """Latencies of an instance's requests, and how many failed."""
        return [sample.latency_s for sample in self._served.get(name, [])], self._failed.get(name, 0)
