# SPDX-License-Identifier: Apache-2.0
"""Log latency and log energy over the points of a search: physics fitted to the trials, and a Gaussian process on top.

What physics leaves over is small and smooth in the clocks, and hardly so in the batch, where a library may choose
another kernel: a Matern-5/2 process with fixed scales, as found on measured boards. The parameters' own uncertainty
enters through their Jacobian, so that both figures share it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from gpytorch.distributions import MultitaskMultivariateNormal
from gpytorch.kernels import MaternKernel
from linear_operator.operators import DiagLinearOperator
from linear_operator.utils.errors import NanError, NotPSDError

from ..points import is_batch
from .calibration import Belief, Calibration, Trials, calibrate
from .roofline import Offered, Settings, linearized

RESIDUALS = (0.06, 0.12, 0.25, 0.5)
"""Deviation of what physics leaves over of a log figure: the first that makes most trials credible."""
DISBELIEVED, FEW, SHARE = 0.25, 2.0, 1 / 3
"""A trial weighing less is not believed; that may be a few, or such a share."""

LENGTH = {"cores": 0.6, "batch": 0.3}
OTHER_LENGTH = 0.5
"""How far that reaches, in shares of a knob's logarithmic range."""

NUMERICAL_FAILURES = (NotPSDError, NanError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]
FIGURES = 2


@dataclass(frozen=True, slots=True)
class Space:
    """The points of a search: scaled logs of their knobs (`n x d` in [0, 1]) for the residual, settings for physics."""

    scaled: torch.Tensor
    settings: Settings
    lengths: torch.Tensor


@dataclass(frozen=True, slots=True)
class Told:
    """Trials: indices of their points, log latency (s) and log energy (J) of each, `m`, and their deviations.

    `noise`: of latencies, then of energies, `2m`.
    """

    indices: list[int]
    latency: torch.Tensor
    energy: torch.Tensor
    noise: torch.Tensor


@dataclass(frozen=True, slots=True)
class Surfaces:
    """What is expected at every point: means and deviations of log latency (s) and log energy (J), each `n`."""

    latency: torch.Tensor
    latency_deviation: torch.Tensor
    energy: torch.Tensor
    energy_deviation: torch.Tensor
    calibration: Calibration
    weights: torch.Tensor
    """How much each trial is believed, the lesser of its two figures', `m`."""

    def feasible(self, slo_s: float) -> torch.Tensor:
        """The probability that the latency is at most `slo_s`, `n`."""
        chance: torch.Tensor = torch.special.ndtr((math.log(slo_s) - self.latency) / self.latency_deviation)
        return chance


class Expected(Model):
    """The surfaces as a BoTorch model of points given by number, `n x 1 x 1`; outputs: log energy, log latency."""

    def __init__(self, surfaces: Surfaces) -> None:
        super().__init__()
        self._mean = torch.stack([surfaces.energy, surfaces.latency], dim=-1)
        self._variance = torch.stack([surfaces.energy_deviation, surfaces.latency_deviation], dim=-1) ** 2

    @property
    def num_outputs(self) -> int:
        """Two."""
        return FIGURES

    def posterior(self, X: torch.Tensor, *_: Any, **__: Any) -> GPyTorchPosterior:  # noqa: N803 - BoTorch's name
        """Independent normals, `n x 1 x 2`."""
        rows = X[..., 0].long()
        mean, variance = self._mean[rows], self._variance[rows]
        covariance = DiagLinearOperator(variance.flatten(-2))
        return GPyTorchPosterior(MultitaskMultivariateNormal(mean, covariance, interleaved=True))


def space_of(points: Sequence[Mapping[str, float]], knobs: Mapping[str, Sequence[float]]) -> Space:
    """The space of these points; a knob of one value is a constant."""

    def column(name: str) -> torch.Tensor:
        return torch.tensor([point[name] for point in points], dtype=torch.float64)

    def relative(name: str) -> torch.Tensor:
        return column(name) / knobs[name][-1] if name in knobs else torch.ones(len(points), dtype=torch.float64)

    scaled = [
        (column(name) / values[0]).log() / (math.log(values[-1] / values[0]) or 1.0) for name, values in knobs.items()
    ]
    batches = [column(name) for name in knobs if is_batch(name)]
    batch = torch.stack(batches).mean(0) if batches else torch.ones(len(points), dtype=torch.float64)
    settings = Settings(relative("cores"), relative("cpu_hz"), relative("gpu_hz"), relative("emc_hz"), batch)
    lengths = [LENGTH.get("batch" if is_batch(name) else name, OTHER_LENGTH) for name in knobs]
    return Space(torch.stack(scaled, dim=-1), settings, torch.tensor(lengths, dtype=torch.float64))


def fit_surfaces(
    space: Space, told: Told, belief: Belief, last: torch.Tensor | None = None, rate_hz: float | None = None
) -> Surfaces:
    """Both surfaces given these trials, of batches back to back or at an offered load of `rate_hz` requests a second.

    Raises one of `NUMERICAL_FAILURES`.
    """
    rows = told.indices
    first = reference(space.settings[rows])
    seconds = float(told.latency[first])
    offered = Offered(1.0 / (rate_hz * math.exp(seconds))) if rate_hz else None
    period = offered.period if offered else 1.0 / float(space.settings.batch[rows[first]])
    joules = float(told.energy[first]) - math.log(period)
    logs = torch.cat([told.latency - seconds, told.energy - joules])
    similar = alike(space, rows)
    for residual in RESIDUALS:
        among = residual**2 * for_both(similar[rows])
        trials = Trials(space.settings[rows], logs, among, told.noise, offered)
        fit = calibrate(trials, belief, last)
        weights = torch.minimum(*fit.weights.chunk(FIGURES))
        if int((weights < DISBELIEVED).sum()) <= max(FEW, SHARE * len(rows)):
            break
    mean, variance = _conditional(space, trials, belief, fit, residual, residual**2 * similar)
    if not (mean.isfinite().all() and variance.isfinite().all()):
        raise NanError("the surfaces are not finite")
    deviation = variance.clamp(min=1e-8).sqrt()
    count = len(space.scaled)
    return Surfaces(mean[:count] + seconds, deviation[:count], mean[count:] + joules, deviation[count:], fit, weights)


def reference(at: Settings) -> int:
    """Which of these trials stands nearest to the fastest point: its latency and power are 1 from here on."""
    return int((at.cores * at.cpu * at.gpu * at.emc / at.batch).argmax())


def _conditional(
    space: Space, trials: Trials, belief: Belief, fit: Calibration, residual: float, between: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the relative log figures at every point, `2n`: latencies, then energies.

    `between`: covariance of the residual between every point and the tried ones, `n x m`.
    """
    values, slopes = linearized(fit.theta, trials.at, trials.offered)
    far_values, far_slopes = linearized(fit.theta, space.settings, trials.offered)
    precision = torch.cholesky_inverse(torch.linalg.cholesky(fit.covariance))
    ridge = torch.diag(belief.deviation**-2)
    spread = torch.cholesky_inverse(torch.linalg.cholesky(slopes.T @ precision @ slopes + ridge))
    means, variances = [], []
    count, seen = len(space.scaled), between.shape[1]
    for figure in range(FIGURES):
        here = slice(figure * count, (figure + 1) * count)
        # One figure's residual says nothing of the other's.
        gain = between @ precision[figure * seen : (figure + 1) * seen]
        open_slopes = far_slopes[here] - gain @ slopes
        means.append(far_values[here] + gain @ (trials.logs - values))
        explained = (gain[:, figure * seen : (figure + 1) * seen] * between).sum(-1)
        variances.append(residual**2 - explained + ((open_slopes @ spread) * open_slopes).sum(-1))
    return torch.cat(means), torch.cat(variances)


def for_both(between: torch.Tensor) -> torch.Tensor:
    """The matrix `m x m` of one figure for both, which know nothing of each other: `2m x 2m`."""
    return torch.kron(torch.eye(FIGURES, dtype=torch.float64), between)


def alike(space: Space, rows: list[int]) -> torch.Tensor:
    """Correlation of what physics leaves over between every point and the tried ones, `n x m`."""
    kernel = MaternKernel(nu=2.5, ard_num_dims=len(space.lengths))
    kernel.lengthscale = space.lengths
    with torch.no_grad():
        covariance: torch.Tensor = kernel(space.scaled, space.scaled[rows]).to_dense()
    return covariance
