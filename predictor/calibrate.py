# SPDX-License-Identifier: Apache-2.0
"""On-line calibration: the terms of interference follow what is measured, and the interval holds as often as promised.

The terms are the state of an extended Kalman filter (Jazwinski, 1970) on the logarithm of the latency quantile, which
forgets slowly. The interval is adaptive conformal (Gibbs and Candès, 2021): quantiles of past residuals in units of
the filter's standard deviation, at a level that falls after each miss and rises after each hit. It therefore needs
no normal distribution and survives a model that is wrong; before there are residuals, it is a wide normal one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from .interference import PRIOR, TERMS, Interference, bounded
from .queueing import quantile

MISFIT = 0.03
"""Standard deviation, of the logarithm, that no term explains and no number of requests removes."""

FORGETTING = 0.005
"""Share of the prior variance that comes back with each window."""

VAGUE = 0.5
"""An interval is made of no larger standard deviation: past residuals say more than a model that knows so little."""

NOISE, NOISIEST = 0.1, 9.0
"""Weight of the latest window in how much noisier the host is than requests drawn at random, and its most."""

WILD = 1.5
"""A residual beyond so many standard deviations moves the terms as far as one at them, and makes them less sure than
that would: a window may be an accident, or a belief far off [Huber, 1964, the weight]."""

SCORES, FARTHEST = 120, 4.0
"""Residuals remembered, and the most that one counts: an accident in a narrow interval says little of wide ones."""

SEEDS, WARY = 20, 1.3
"""Normal residuals to begin with, and how many times wider they are: a model believes itself too much at first."""

STEP = 0.02
"""How fast the level follows misses [Gibbs and Candès, gamma]."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the replay says at the present terms: logarithm of the quantile, its gradient, its sampling variance."""

    log_s: float
    gradient: tuple[float, ...]
    variance: float


class Filter:
    """The belief about the terms: a mean and a covariance, d and d x d; plain lists, as a governor needs no numpy."""

    def __init__(self) -> None:
        self.terms: Interference = PRIOR
        self._noise = 1.0
        self._prior = [belief.sd**2 for belief in TERMS.values()]
        self._covariance = [
            [variance * (row == column) for column in range(len(TERMS))] for row, variance in enumerate(self._prior)
        ]

    def variance(self, outlook: Outlook) -> float:
        """Variance of a measured log quantile around the predicted one."""
        return _dot(outlook.gradient, self._reach(outlook)) + self._noise * (outlook.variance + MISFIT**2)

    def deviation(self, outlook: Outlook) -> float:
        """The standard deviation that intervals are made of."""
        return min(VAGUE, math.sqrt(self.variance(outlook)))

    def learn(self, outlook: Outlook, residual: float) -> None:
        """Move the terms towards what explains `residual`, log measured minus log predicted."""
        reach, variance = self._reach(outlook), self.variance(outlook)
        believed = min(1.0, WILD * math.sqrt(variance) / abs(residual)) if residual else 1.0
        step = believed * residual / variance
        moved = [term + moves * step for term, moves in zip(self.terms.terms, reach, strict=True)]
        for row, prior in enumerate(self._prior):
            line = self._covariance[row]
            share = believed * reach[row] / variance
            line[:] = [known - share * moves for known, moves in zip(line, reach, strict=True)]
            # never less sure than before anything was seen
            line[row] += FORGETTING * max(0.0, prior - line[row])
        self.terms = Interference(self._within_bounds(moved))
        self._noise = max(1.0, (1 - NOISE) * self._noise + NOISE * min(NOISIEST, residual**2 / variance) * self._noise)

    def _within_bounds(self, terms: Sequence[float]) -> tuple[float, ...]:
        """The likeliest terms within their bounds: what one may not explain, those that it is confused with do.

        The projection of constrained Kalman filters [Simon and Chia, 2002], one bound after the other.
        """
        for place, line in enumerate(self._covariance):
            beyond = bounded(terms)[place] - terms[place]
            if beyond:
                terms = [term + shared / line[place] * beyond for term, shared in zip(terms, line, strict=True)]
        return bounded(terms)

    def _reach(self, outlook: Outlook) -> list[float]:
        """Covariance of each term with the log quantile."""
        return [_dot(line, outlook.gradient) for line in self._covariance]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(one * other for one, other in zip(left, right, strict=True))


class Conformal:
    """Bounds in standard deviations that hold a share `target` of what is measured, whatever its distribution."""

    def __init__(self, target: float) -> None:
        self._miss = self._level = 1 - target
        normal = NormalDist()
        seeds = (WARY * normal.inv_cdf((place + 0.5) / SEEDS) for place in range(SEEDS))
        self._scores = deque(seeds, maxlen=SCORES)

    @property
    def bounds(self) -> tuple[float, float]:
        """The lower and the upper bound; the lower is never above 0, nor the upper below."""
        tail = self._level / 2
        return min(0.0, -quantile([-score for score in self._scores], 1 - tail)), max(
            0.0, quantile(self._scores, 1 - tail)
        )

    def learn(self, score: float, held: bool) -> None:
        """Remember a residual in standard deviations, and whether its interval held it."""
        self._level = min(0.5, max(0.01, self._level + STEP * (self._miss - (not held))))
        self._scores.append(min(FARTHEST, max(-FARTHEST, score)))
