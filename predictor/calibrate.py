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
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .interference import PRIOR, TERMS, Interference, bounded
from .queueing import quantile

MISFIT = 0.03
"""Standard deviation, of the logarithm, that no term explains and no number of requests removes."""

FORGETTING = 0.005
"""Share of the prior variance that comes back with each window."""

WILD = 3.0
"""A residual beyond so many standard deviations teaches as much as one at them: a window may be an accident."""

SCORES = 120
"""Residuals remembered."""

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
    """The belief about the terms: a mean and a covariance, d terms and d x d."""

    def __init__(self) -> None:
        self.terms: Interference = PRIOR
        self._prior: NDArray[np.float64] = np.diag([belief.sd**2 for belief in TERMS.values()])
        self._covariance = self._prior.copy()

    def variance(self, outlook: Outlook) -> float:
        """Variance of a measured log quantile around the predicted one."""
        slope = np.asarray(outlook.gradient)
        return float(slope @ self._covariance @ slope) + outlook.variance + MISFIT**2

    def learn(self, outlook: Outlook, residual: float) -> None:
        """Move the terms towards what explains `residual`, log measured minus log predicted."""
        slope, variance = np.asarray(outlook.gradient), self.variance(outlook)
        most = WILD * math.sqrt(variance)
        gain = self._covariance @ slope / variance
        self.terms = Interference(bounded(np.asarray(self.terms.terms) + gain * min(most, max(-most, residual))))
        kept = self._covariance - np.outer(gain, slope @ self._covariance)
        # never less sure than before anything was seen
        self._covariance = kept + FORGETTING * np.clip(np.diag(np.diag(self._prior - kept)), 0.0, None)


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
        self._scores.append(score)
