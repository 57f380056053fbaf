# SPDX-License-Identifier: Apache-2.0
"""PolyThrottle's search as published [Yan, Wang, Venkataraman, arXiv 2310.19991]: the CPU alone, then the rest.

The CPU's knobs are tuned first with everything else at its top (five random points, second smallest batch) and frozen
at the cheapest that keeps the limit; then constrained Bayesian optimisation over GPU clock, memory clock and batch:
five random points, then expected improvement with xi = 0.1 times the chance to keep the limit. Kernel, fit and the unit
of xi are not published: those of `gp.py`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

from governor.points import Point

from .gp import ConstrainedGp
from .seen import FIRST, Peer

CPU = ("cores", "cpu_hz")
XI = 0.1


class TwoPhase(Peer):
    """Five points of the CPU's knobs, then constrained optimisation over the others."""

    def __init__(self, knobs: Mapping[str, Sequence[float]], slo_s: float, seed: int, prior: object = None) -> None:
        super().__init__(knobs, slo_s, seed, prior)
        frozen = {name: values[-1] for name, values in knobs.items() if name not in CPU}
        if "batch" in knobs:
            frozen["batch"] = knobs["batch"][min(1, len(knobs["batch"]) - 1)]
        axes = [[(name, value) for value in values] for name, values in knobs.items() if name in CPU]
        settings = [dict(setting) for setting in itertools.product(*axes)] if axes else []
        chosen = random.Random(seed).sample(settings, min(FIRST, len(settings)))
        self._first = [{name: {**frozen, **setting}[name] for name in knobs} for setting in chosen]
        self._rest: ConstrainedGp | None = None
        self._cpu: Point = {}

    def ask(self) -> Point | None:
        """The next point; None after all of those left."""
        if len(self.seen.told) < len(self._first):
            return dict(self._first[len(self.seen.told)])
        if self._rest is None:
            self._freeze()
        assert self._rest is not None
        point = self._rest.ask()
        return None if point is None else {name: {**point, **self._cpu}[name] for name in self.seen.knobs}

    def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
        """Keep what a trial measured."""
        super().tell(point, latency_s, energy_j)
        if self._rest is not None:
            self._rest.tell(point, latency_s, energy_j)

    def _freeze(self) -> None:
        """The CPU's knobs of the cheapest point seen to keep the limit, else of the fastest."""
        best = self.seen.best()
        fastest = min(zip(self.seen.latencies_s, self.seen.told, strict=True), default=None)
        kept = best.point if best else self.point(fastest[1]) if fastest else {}
        self._cpu = {name: value for name, value in kept.items() if name in CPU}
        others = {name: values for name, values in self.seen.knobs.items() if name not in CPU}
        self._rest = ConstrainedGp(others, self.seen.slo_s, self.seed, margin=XI)
