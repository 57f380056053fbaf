# SPDX-License-Identifier: Apache-2.0
"""A search without mathematics, for rehearsals: it needs no torch and starts in no time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from .points import Best, Point, Table, is_batch


class InTurn:
    """Asks for every point once, the fastest first; the best is the cheapest that was seen feasible."""

    def __init__(
        self,
        knobs: Mapping[str, Sequence[float]],
        slo_s: float,
        seed: int,
        prior: Sequence[Table] | None = None,
        regret: float | None = None,
    ) -> None:
        self.prior, self.regret = tuple(prior or ()), regret
        self.knobs = {name: tuple(float(value) for value in values) for name, values in knobs.items()}
        self.told: list[tuple[Point, float, float]] = []
        """Points with their latency in seconds and joules per request."""
        self._slo_s = slo_s
        downwards = [values if is_batch(name) else values[::-1] for name, values in self.knobs.items()]
        self._open = [dict(zip(self.knobs, values, strict=True)) for values in itertools.product(*downwards)]

    def ask(self) -> Point | None:
        """The next point, None when all were asked for."""
        return self._open.pop(0) if self._open else None

    def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
        """Remember a trial."""
        self.told.append((dict(point), latency_s, energy_j))
        self._open = [other for other in self._open if other != point]

    def forget(self) -> None:
        """Forget what was told, not what was asked."""
        self.told.clear()

    def best(self) -> Best | None:
        """The cheapest point told that kept the limit."""
        rows = [(energy_j, latency_s, point) for point, latency_s, energy_j in self.told if latency_s <= self._slo_s]
        if not rows:
            return None
        energy_j, latency_s, point = min(rows, key=lambda row: row[:2])
        return Best(point, energy_j, latency_s, 1.0)
