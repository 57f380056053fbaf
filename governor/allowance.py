# SPDX-License-Identifier: Apache-2.0
"""How many windows exploring may break: trials wait while their share of the run's windows is used up.

Windows follow one another without a gap, whatever the governor does in them. A window counts against exploring only if
another point than the fastest was tried in it, since what breaks at the fastest point nobody could have kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from telemetry.instance_page import Status

from .guard import Slo, Verdict, judge
from .reader import InstanceView
from .traffic import FAILURES


class Allowance:
    """Judges the windows of a run. One of them may always be broken, then a `share` of all."""

    def __init__(self, slos: Mapping[str, Slo], share: float, at_s: float) -> None:
        self.windows = self.broken = 0
        self._slos, self._share = dict(slos), share
        self._window_s = max(slo.window_s for slo in slos.values())
        self._until_s = at_s + self._window_s
        self._latencies_s: dict[str, list[float]] = {name: [] for name in slos}
        self._failed = dict.fromkeys(slos, 0)
        self._explored = False

    def add(self, views: Iterable[InstanceView], at_s: float, *, exploring: bool) -> None:
        """Take in what has finished by `at_s`, under a point that was being tried or not."""
        self._explored |= exploring
        for view in views:
            if (name := view.info.instance) in self._slos:
                self._latencies_s[name] += [seen.latency_s for seen in view.samples if seen.status is Status.OK]
                self._failed[name] += sum(seen.status in FAILURES for seen in view.samples)
        if at_s >= self._until_s:
            self._close(exploring=exploring)
            self._until_s = at_s + self._window_s

    @property
    def wait_s(self) -> float:
        """Seconds of windows without a breach until more may be tried; 0 if it may be now."""
        if self.broken <= max(1.0, self._share * self.windows):
            return 0.0
        return (self.broken / self._share - self.windows) * self._window_s

    def _close(self, *, exploring: bool) -> None:
        verdicts = [judge(self._latencies_s[name], self._failed[name], slo) for name, slo in self._slos.items()]
        self.windows += 1
        self.broken += self._explored and Verdict.BROKEN in verdicts
        self._explored = exploring
        for name in self._slos:
            self._latencies_s[name].clear()
            self._failed[name] = 0
