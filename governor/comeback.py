# SPDX-License-Identifier: Apache-2.0
"""A served model died and is back: the fastest point is kept until some windows in a row were clean."""

from __future__ import annotations

from .demand import Demand
from .guard import Verdict

WINDOWS = 3


class Comeback:
    """Judges windows of `window_s`, from `at_s` on; one in which a promise was broken begins the count anew."""

    def __init__(self, demand: Demand, window_s: float, at_s: float) -> None:
        self.clean = 0
        self._demand, self._window_s = demand, window_s
        self._begin(at_s)

    def over(self, at_s: float) -> bool:
        """Whether there were enough clean windows; with nothing asked one is clean too."""
        if at_s >= self._until_s:
            broken = Verdict.BROKEN in self._demand.verdicts().values()
            self.clean = 0 if broken else self.clean + 1
            self._begin(at_s)
        return self.clean >= WINDOWS

    def _begin(self, at_s: float) -> None:
        self._demand.mark()
        self._until_s = at_s + self._window_s
