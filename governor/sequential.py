# SPDX-License-Identifier: Apache-2.0
"""Tests that may be looked at again and again, so that a trial can end as soon as it is known well enough.

A fixed interval that is looked at after every half second is wrong far more often than it says. What is here holds at
every look at once, by Ville's inequality for test martingales:

* `deviations`, for means and straight lines under normal noise of unknown size: the t statistic against a normal
  mixture of effects [Wang and Ramdas, arXiv 2310.03722, the Gaussian mixture; Lindon, Ham, Tingley and Bojinov,
  arXiv 2210.08589, for linear models]. Its martingale with nu degrees of freedom,
  k^(-1/2) · ((1 + t²/nu) / (1 + t²/(k·nu)))^((nu+1)/2) with k = (g+n)/g, reaches 1/alpha at the t that is returned;
* `sure_to_break`, for the share of late requests: a bet on every block of requests [Waudby-Smith and Ramdas, Estimating
  means of bounded random variables by betting, JRSS B 86(1), 2024: the capital process, one-sided]. A block is late by
  any share of its requests, so requests that are late together count as what they are.

That few requests are late can never be shown by counting in seconds (at 1 % it takes 300 on-time requests); it is
shown by replaying service times, whose mean is what the first test bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALPHA = 0.1
"""How often, over all looks together, the truth may lie outside an interval."""

BROKEN_ALPHA = 0.02
"""How often, over all looks together, an objective that is kept may be taken for broken."""

PRIOR = 0.1
"""g: weight, in observations, of the guess that effects are as large as the noise; small: narrow where n is small."""

BETS = (0.1, 0.25, 0.5)
"""Shares of the capital staked on every block, in equal parts."""

RARE = 1e-4
"""Chance of a wait so long, at a point that only just keeps its objective, that one such wait proves it broken."""


def deviations(count: int, parameters: int = 1, alpha: float = ALPHA) -> float:
    """Standard errors to each side of an estimate that hold at every look; infinite while there are too few values.

    `count` values were fitted with so many `parameters` (1: a mean, 2: a line).
    """
    freedom = count - parameters
    if freedom < 1:
        return math.inf
    k = (PRIOR + count) / PRIOR
    reached = (k / alpha**2) ** (1 / (freedom + 1))
    return math.sqrt(freedom * (reached - 1) / (1 - reached / k)) if reached < k else math.inf


def half_width(values: Sequence[float], alpha: float = ALPHA) -> float:
    """To each side of the mean of `values`, at every look."""
    if len(values) < 2:
        return math.inf
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return deviations(len(values), alpha=alpha) * math.sqrt(variance / len(values))


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line by least squares through n points; `slope` 0 where x does not vary."""

    mean_x: float
    mean_y: float
    slope: float
    count: int
    spread: float
    """Sum of squares of x about its mean."""
    residual: float
    """Sum of squares of y about the line."""

    def at(self, x: float) -> float:
        """The line's value."""
        return self.mean_y + self.slope * (x - self.mean_x)

    def half_width(self, x: float, alpha: float = ALPHA) -> float:
        """To each side of it, at every look."""
        parameters = 2 if self.slope else 1
        if self.count <= parameters:
            return math.inf
        variance = self.residual / (self.count - parameters)
        leverage = 1 / self.count + ((x - self.mean_x) ** 2 / self.spread if self.slope else 0.0)
        return deviations(self.count, parameters, alpha) * math.sqrt(variance * leverage)


def fit_line(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """The line through at least one point, level where it would fall or x hardly varies."""
    mean_x, mean_y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    spread = math.fsum((x - mean_x) ** 2 for x in xs)
    together = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    slope = max(0.0, together / spread) if len(xs) > 2 and spread > 1e-6 else 0.0
    residual = math.fsum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in zip(xs, ys, strict=True))
    return Line(mean_x, mean_y, slope, len(xs), spread, residual)


def sure_to_break(late: Iterable[float], allowed: float, alpha: float = BROKEN_ALPHA) -> bool:
    """Whether more than a share `allowed` of requests is late for sure; `late` is the share in each block, in order.

    If on average no more are late, this is ever True with probability `alpha` at most.
    """
    capitals = [1.0] * len(BETS)
    for share in late:
        capitals = [capital * (1 + bet * (share / allowed - 1)) for bet, capital in zip(BETS, capitals, strict=True)]
        if math.fsum(capitals) >= len(BETS) / alpha:
            return True
    return False


def unsafe_wait(quantile: float) -> float:
    """Multiples of the limit after which one waiting request proves the objective broken.

    Waiting times have exponential tails at least [Kingman, 1964]: where a share 1 - `quantile` waits beyond the limit,
    (1 - `quantile`)^m at most waits beyond m limits.
    """
    return max(2.0, math.log(RARE) / math.log(1 - quantile))
