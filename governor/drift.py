# SPDX-License-Identifier: Apache-2.0
"""Whether the world is still the one in which a point was chosen: pure decisions on the windows of a hold.

A change counts once two looks in a row show it. The load is compared with the one at which the trials were judged, the
temperature with that of the trials, joules per request with those of the hold's own beginning: what a search says of a
point is smoothed over its neighbours, and a hold is measured far longer than a trial.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .demand import LOAD_CHANGE, load_changed

LASTING = 2
"""Looks in a row that make a change a lasting one."""
WARMER_K = 15.0
ENERGY_CHANGE = 0.15
ENERGY_REQUESTS = 700
"""Requests of one look at the joules: Poisson luck in their number (four deviations) is then below `ENERGY_CHANGE`."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one window of a hold showed; requests offered by instance, joules and requests answered of the board."""

    span_s: float
    offered: Mapping[str, int]
    celsius: float | None = None
    energy_j: float = 0.0
    requests: int = 0

    def after(self, before: Look) -> Look:
        """Both windows as one, as far as the load goes."""
        offered = {name: count + before.offered.get(name, 0) for name, count in self.offered.items()}
        return replace(self, span_s=self.span_s + before.span_s, offered=offered)


@dataclass(slots=True)
class Drift:
    """Follows one hold. `load_hz` by instance and `celsius` are those at which its trials were judged."""

    load_hz: Mapping[str, float]
    celsius: float | None
    _streaks: dict[str, int] = field(default_factory=dict)
    _energy_j: float = 0.0
    _requests: int = 0
    _reference_j: float | None = None
    """Joules per request at the beginning of the hold."""

    def load_differs(self, look: Look) -> bool:
        """Whether the load of any instance is another one, by more than a fifth and more than luck."""
        return any(
            load_changed(self.load_hz[name], offered, look.span_s)
            for name, offered in look.offered.items()
            if name in self.load_hz
        )

    def crowded(self, look: Look) -> bool:
        """Whether any instance was asked for a fifth more or above, be it by luck: the load may have broken it."""
        return any(
            offered > (1 + LOAD_CHANGE) * self.load_hz[name] * look.span_s
            for name, offered in look.offered.items()
            if name in self.load_hz
        )

    def changed(self, look: Look) -> str:
        """What has changed for good: `load`, `temperature` or `energy`; empty if nothing has.

        Without a request nothing can be measured, so that nobody asking is no change.
        """
        if not any(look.offered.values()):
            return ""
        if look.celsius is not None and self.celsius is None:
            self.celsius = look.celsius
        signs = {"load": self.load_differs(look), "temperature": self._warmer(look.celsius), "energy": self._dear(look)}
        for why, shows in signs.items():
            if shows is not None:
                self._streaks[why] = self._streaks.get(why, 0) + 1 if shows else 0
        return next((why for why in signs if self._streaks.get(why, 0) >= LASTING), "")

    def _warmer(self, celsius: float | None) -> bool | None:
        if celsius is None or self.celsius is None:
            return None
        return abs(celsius - self.celsius) > WARMER_K

    def _dear(self, look: Look) -> bool | None:
        """Whether a request costs another price than at first; None before enough of them were answered."""
        self._energy_j += look.energy_j
        self._requests += look.requests
        if self._requests < ENERGY_REQUESTS or not self._energy_j > 0:
            return None
        price_j, self._energy_j, self._requests = self._energy_j / self._requests, 0.0, 0
        if self._reference_j is None:
            self._reference_j = price_j
        return abs(math.log(price_j / self._reference_j)) > math.log1p(ENERGY_CHANGE)
