# SPDX-License-Identifier: Apache-2.0
"""What windows of requests say of training beside them: one after the other, and at once where a breach is plain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from predictor.queueing import quantile
from telemetry.instance_page import Status

from .guard import Slo, Verdict, judge
from .latency import HOPELESS
from .reader import InstanceView, waited_s
from .traffic import FAILURES
from .watch import plainly_broken


@dataclass(frozen=True, slots=True)
class Heard:
    """One window; `latency_s` is the constrained quantile and `requests` their number, by instance."""

    share_of_limit: float
    """The quantile over its limit, of the instance nearest to it: above 1 only where the promise was broken."""
    latency_s: Mapping[str, float]
    requests: Mapping[str, int]


class Beside:
    """Collects the window under way."""

    def __init__(self) -> None:
        self._begin_s: float | None = None
        self._from_ns = 0
        self._latencies_s: dict[str, list[float]] = {}
        self._failed: dict[str, int] = {}

    def restart(self) -> None:
        """What was heard so far was under other conditions."""
        self._begin_s = None

    def add(self, views: Iterable[InstanceView], slos: Mapping[str, Slo], now_ns: int) -> Heard | None:
        """Take in what has finished; the window, if it is over by now or plainly broken."""
        now_s = now_ns / 1e9
        if self._begin_s is None:
            self._from_ns = now_ns  # requests from before still tell of what was then
            self._begin(now_s)
        views = [view for view in views if view.info.instance in slos]
        for view in views:
            self._take(view)
        waits = ((view, waited_s(now_ns, view.in_flight, view.oldest_arrival_ns)) for view in views)
        hopeless = any(wait_s > HOPELESS * slos[view.info.instance].limit_s for view, wait_s in waits)
        over = now_s - (self._begin_s or now_s) >= max((slo.window_s for slo in slos.values()), default=10.0)
        if not (over or hopeless or self._plainly_broken(slos)):
            return None
        heard = self._heard(slos, hopeless=hopeless)
        self._begin(now_s)
        if heard.share_of_limit > 1:
            self._from_ns = now_ns
        return heard

    def _begin(self, now_s: float) -> None:
        self._begin_s = now_s
        self._latencies_s.clear()
        self._failed.clear()

    def _take(self, view: InstanceView) -> None:
        name = view.info.instance
        samples = [sample for sample in view.samples if sample.arrival_ns >= self._from_ns]
        served = [sample.latency_s for sample in samples if sample.status is Status.OK]
        self._latencies_s.setdefault(name, []).extend(served)
        self._failed[name] = self._failed.get(name, 0) + sum(sample.status in FAILURES for sample in samples)

    def _plainly_broken(self, slos: Mapping[str, Slo]) -> bool:
        for name, slo in slos.items():
            latencies_s, failed = self._latencies_s.get(name, []), self._failed.get(name, 0)
            late, total = failed + sum(latency_s > slo.limit_s for latency_s in latencies_s), failed + len(latencies_s)
            if late and plainly_broken(late, total, slo):
                return True
        return False

    def _heard(self, slos: Mapping[str, Slo], *, hopeless: bool) -> Heard:
        quantiles = {name: quantile(seen, slos[name].quantile) for name, seen in self._latencies_s.items() if seen}
        shares = [self._share(name, slo, quantiles.get(name, 0.0)) for name, slo in slos.items()]
        share = max(shares, default=0.0)
        requests = {name: len(self._latencies_s[name]) for name in quantiles}
        return Heard(max(share, HOPELESS) if hopeless else share, quantiles, requests)

    def _share(self, name: str, slo: Slo, latency_s: float) -> float:
        """Above 1 only where luck would hardly show so much."""
        verdict = judge(self._latencies_s.get(name, []), self._failed.get(name, 0), slo)
        share = latency_s / slo.limit_s
        return max(share, 1.01) if verdict is Verdict.BROKEN else min(share, 1.0)
