# SPDX-License-Identifier: Apache-2.0
"""Fitting the physics of `roofline` to trials: maximum a posteriori under what physics leaves over and under noise.

What physics leaves over is a Gaussian process of its own (`residual`), so that its misfit is not taken for evidence
about its parameters [Kennedy, O'Hagan, JRSS-B 63(3), 2001]. Steps are Levenberg's and Marquardt's. A trial that fits
neither weighs less, as under a Student-t likelihood [Lange, Little, Taylor, JASA 84, 1989]: one wild reading moves
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .roofline import Offered, Settings, linearized, log_surfaces

NOISE = 0.03
"""Deviation of a trial's log figures where nobody says how well they are known: 2 % and as much of the cell's own."""

CELL = 0.02
"""The cell's own: what sets a point apart from its neighbours, whatever physics says."""

FREEDOM = 4.0
"""Degrees of freedom of the noise's Student-t distribution."""

EXPECTED = 3.0
"""Deviations from what the other trials say that surprise nobody."""

STEPS = 12
LONGEST = 1.5
"""No parameter moves farther in one step."""


@dataclass(frozen=True, slots=True)
class Belief:
    """A normal prior of the parameters, `p` each."""

    mean: torch.Tensor
    deviation: torch.Tensor


@dataclass(frozen=True, slots=True)
class Trials:
    """Trials to fit: where, and log figures, latencies, then energies: `2m`.

    `residual`: its covariance, `2m x 2m`; `noise`: the deviation of each log figure, `2m`.
    """

    at: Settings
    logs: torch.Tensor
    residual: torch.Tensor
    noise: torch.Tensor
    offered: Offered | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """The parameters (`p`), and the covariance of noise and residual that the trials were given (`2m x 2m`)."""

    theta: torch.Tensor
    covariance: torch.Tensor
    weights: torch.Tensor
    """How much each log figure is believed, `2m` in (0, 1]."""


def noise_of(deviations: Sequence[float | None]) -> torch.Tensor:
    """The noise of log figures known to these deviations, None where nobody says, `m`."""
    known = [NOISE if deviation is None else math.hypot(CELL, deviation) for deviation in deviations]
    return torch.tensor(known, dtype=torch.float64)


def calibrate(trials: Trials, belief: Belief, last: torch.Tensor | None = None) -> Calibration:
    """The best fit from the prior's mean and from the `last` one.

    Raises `torch.linalg.LinAlgError` when the numerics fail.
    """
    starts = [belief.mean] if last is None else [last, belief.mean]
    plain = trials.residual + torch.diag(trials.noise**2)
    theta = _fit(trials, belief, plain, starts)
    if len(trials.logs) < 2 * FREEDOM:
        return Calibration(theta, plain, torch.ones_like(trials.logs))
    weights = _weights(trials, belief, plain, theta)
    weighed = trials.residual + torch.diag(trials.noise**2 / weights)
    return Calibration(_fit(trials, belief, weighed, [theta]), weighed, weights)


def _fit(trials: Trials, belief: Belief, covariance: torch.Tensor, starts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The parameters of least cost that descents from `starts` reach."""
    precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    return min((_descend(trials, belief, precision, start) for start in starts), key=lambda end: end[0])[1]


def _descend(
    trials: Trials, belief: Belief, precision: torch.Tensor, theta: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """Where a descent ends: cost and parameters."""
    ridge = torch.diag(belief.deviation**-2)

    def cost_of(theta: torch.Tensor, values: torch.Tensor) -> float:
        off, away = trials.logs - values, (theta - belief.mean) / belief.deviation
        return float(off @ precision @ off + away @ away)

    values, slopes = linearized(theta, trials.at, trials.offered)
    cost, damping = cost_of(theta, values), 1e-3
    for _ in range(STEPS):
        curvature = slopes.T @ precision @ slopes + ridge
        pull = slopes.T @ precision @ (trials.logs - values) - ridge @ (theta - belief.mean)
        damped = curvature + damping * torch.diag(curvature.diagonal())
        ahead = theta + torch.linalg.solve(damped, pull).clamp(-LONGEST, LONGEST)
        reached = cost_of(ahead, log_surfaces(ahead, trials.at, trials.offered))
        if not reached < cost:
            damping *= 6
            continue
        settled, theta, cost, damping = cost - reached < 1e-3, ahead, reached, max(damping / 5, 1e-6)
        if settled:
            break
        values, slopes = linearized(theta, trials.at, trials.offered)
    return cost, theta


def _weights(trials: Trials, belief: Belief, covariance: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """How much each figure is believed, in (0, 1]: by how far it lies from what all the others say of it, `2m`."""
    values, slopes = linearized(theta, trials.at, trials.offered)
    total = covariance + (slopes * belief.deviation**2) @ slopes.T
    precision = torch.cholesky_inverse(torch.linalg.cholesky(total))
    off = trials.logs - values - slopes @ (belief.mean - theta)
    # Leave one out: [Sundararajan, Keerthi, Neural Computation 13(5), 2001], eq. 8-9.
    alone = precision.diagonal()
    apart = (precision @ off) / alone
    # What the others left open is no surprise; only what lies beyond it counts against the noise.
    beyond = (1 - EXPECTED**2 / (apart**2 * alone)).clamp(min=0.0)
    return ((FREEDOM + 1) / (FREEDOM + beyond * apart**2 / trials.noise**2)).clamp(max=1.0)
