# SPDX-License-Identifier: Apache-2.0
"""Plain constrained Bayesian optimisation: expected improvement times the chance to keep the limit, in logs.

Independent exact Gaussian processes of standardised log energy and log latency, Matérn-5/2 with a length scale per
knob, fitted by maximum a posteriori: log length scale ~ N(log 0.8, 0.9²), log output scale ~ N(0, 1), log noise
variance ~ N(log 0.002, 1.5²). Five random points first, no point twice. A `margin` asks for more improvement (the xi of
the literature, here in standard deviations of the log energies seen).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize  # type: ignore[import-untyped]

from .modelling import Modelling

REFIT_AT = (5, 6, 8, 11, 14, 18, 23, 28)
STEPS = 15
LENGTH, LENGTH_DEVIATION = math.log(0.8), 0.9
NOISE, NOISE_DEVIATION = math.log(2e-3), 1.5


@dataclass(frozen=True, slots=True)
class Posterior:
    """Mean and standard deviation at the candidates, in the units of the targets."""

    mean: torch.Tensor
    deviation: torch.Tensor


class Process:
    """A Gaussian process whose hyper-parameters outlive a refit; parameters are d log length scales, scale, noise."""

    def __init__(self, dimensions: int) -> None:
        self._start = torch.tensor([LENGTH] * dimensions + [0.0, NOISE], dtype=torch.float64)
        self._parameters = self._start

    def fit(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Maximum a posteriori over `m x d` inputs and `m` standardised targets; kept as it was if that fails."""

        def loss(values: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
            raw = torch.tensor(values, requires_grad=True)
            value = self._loss(raw, inputs, targets)
            return float(value.detach()), torch.autograd.grad(value, raw)[0].numpy()

        try:
            found = minimize(loss, self._start.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            return
        if np.isfinite(found).all():
            self._parameters = torch.tensor(found)

    def posterior(self, inputs: torch.Tensor, targets: torch.Tensor, candidates: torch.Tensor) -> Posterior:
        """What is expected at `n x d` candidates."""
        factor = _cholesky(self._parameters, inputs)
        cross = _kernel(self._parameters, candidates, inputs)
        weights = torch.cholesky_solve(targets.unsqueeze(1), factor).squeeze(1)
        explained = torch.linalg.solve_triangular(factor, cross.T, upper=False).square().sum(0)
        variance = (self._parameters[-2].exp() - explained).clamp_min(1e-9)
        return Posterior(cross @ weights, variance.sqrt())

    @staticmethod
    def _loss(raw: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        factor = _cholesky(raw, inputs)
        scaled = torch.linalg.solve_triangular(factor, targets.unsqueeze(1), upper=False)
        likelihood = scaled.square().sum() / 2 + factor.diagonal().log().sum()
        lengths, scale, noise = raw[:-2], raw[-2], raw[-1]
        prior = ((lengths - LENGTH) / LENGTH_DEVIATION).square().sum() + scale.square()
        total: torch.Tensor = likelihood + (prior + ((noise - NOISE) / NOISE_DEVIATION).square()) / 2
        return total


class ConstrainedGp(Modelling):
    """Five random points, then the largest expected improvement times probability of feasibility."""

    def __init__(
        self,
        knobs: Mapping[str, Sequence[float]],
        slo_s: float,
        seed: int,
        prior: object = None,
        *,
        margin: float = 0.0,
    ) -> None:
        super().__init__(knobs, slo_s, seed, prior)
        self._margin = margin
        self._processes = [Process(self.features.shape[1]) for _ in range(2)]

    def scores(self, open_points: list[int]) -> torch.Tensor:
        """Log of improvement times feasibility; of feasibility alone until a point was seen to keep the limit."""
        energy, unit = self._posterior(0, self.seen.energies_j, open_points)
        latency, _ = self._posterior(1, self.seen.latencies_s, open_points)
        spare = (math.log(self.seen.slo_s) - latency.mean) / latency.deviation
        likely: torch.Tensor = torch.special.log_ndtr(spare)
        best = self.seen.best()
        if best is None:
            return likely
        ahead = math.log(best.energy_j) - self._margin * unit - energy.mean
        return log_improvement(ahead, energy.deviation) + likely

    def _posterior(self, which: int, values: list[float], open_points: list[int]) -> tuple[Posterior, float]:
        """In logs, at the open points; and the deviation of the logs seen."""
        logs = torch.tensor(values, dtype=torch.float64).log()
        mean, unit = logs.mean(), logs.std().clamp_min(1e-6)
        inputs, targets = self.features[self.seen.told], (logs - mean) / unit
        if len(logs) in REFIT_AT:
            self._processes[which].fit(inputs, targets)
        found = self._processes[which].posterior(inputs, targets, self.features[open_points])
        return Posterior(found.mean * unit + mean, found.deviation * unit), float(unit)


def log_improvement(ahead: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Log expected improvement of normal values that lie `ahead` of the incumbent on average.

    Far behind it, where the closed form is a difference of equal numbers, by its asymptote phi(z) / z².
    """
    z = ahead / deviation
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    near = (density + z * torch.special.ndtr(z)).clamp_min(1e-300).log()
    far = -z.square() / 2 - math.log(2 * math.pi) / 2 - 2 * z.abs().clamp_min(1).log()
    return torch.where(z < -8, far, near) + deviation.log()


def _kernel(raw: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Matérn-5/2, `n x m`."""
    scales = raw[:-2].exp()
    apart = (left / scales).unsqueeze(1) - (right / scales).unsqueeze(0)
    # the root of nothing has no gradient
    distance = (5 * apart.square().sum(2) + 1e-12).sqrt()
    kernel: torch.Tensor = raw[-2].exp() * (1 + distance + distance.square() / 3) * torch.exp(-distance)
    return kernel


def _cholesky(raw: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    noise = raw[-1].exp() + 1e-6
    matrix = _kernel(raw, inputs, inputs) + noise * torch.eye(len(inputs), dtype=torch.float64)
    factor: torch.Tensor = torch.linalg.cholesky(matrix)
    return factor
