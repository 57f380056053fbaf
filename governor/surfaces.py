# SPDX-License-Identifier: Apache-2.0
"""Gaussian processes of log energy and log latency over scaled log knobs, fitted by maximum a posteriori.

A linear kernel carries the power laws that physics suggests, a Matérn-5/2 kernel with one length scale per knob what
they leave over. Priors keep fits of five points sane; [Gardner et al., ICML 2014] for the constrained pair.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.exceptions.warnings import BotorchWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.model_list_gp_regression import ModelListGP
from botorch.models.transforms import Standardize
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import LinearKernel, MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from linear_operator import to_dense
from linear_operator.utils.errors import NanError, NotPSDError
from linear_operator.utils.warnings import NumericalWarning

MAX_STEPS = 25
NUMERICAL_FAILURES = (
    ModelFittingError,
    NotPSDError,
    NanError,
    torch.linalg.LinAlgError,  # type: ignore[attr-defined]
)


class DenseLinear(LinearKernel):  # type: ignore[misc]
    """A linear kernel that adds to a dense one as a matrix; gpytorch's low-rank sum decomposes it at every step."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The kernel matrix, `m x m`."""
        return to_dense(super().forward(*args, **kwargs))


def fit_surfaces(inputs: torch.Tensor, targets: torch.Tensor, seed: int) -> ModelListGP | None:
    """One GP per column of `targets` (m x t) over `inputs` (m x d); None with too few points or when the numerics fail.

    The global random state is left as it was.
    """
    if len(inputs) < 3:
        return None
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        warnings.simplefilter("ignore", BotorchWarning)
        warnings.simplefilter("ignore", NumericalWarning)
        try:
            return ModelListGP(*(_fitted(inputs, column) for column in torch.split(targets, 1, dim=1)))
        except NUMERICAL_FAILURES:
            return None


def _fitted(inputs: torch.Tensor, targets: torch.Tensor) -> SingleTaskGP:
    """A GP with a linear and a Matérn-5/2 kernel, one length scale per knob; `inputs` m x d, `targets` m x 1."""
    dimensions = inputs.shape[-1]
    matern = MaternKernel(nu=2.5, ard_num_dims=dimensions, lengthscale_prior=LogNormalPrior(math.log(0.8), 0.9))
    covariance = ScaleKernel(matern, outputscale_prior=LogNormalPrior(-1.0, 1.0)) + DenseLinear(ard_num_dims=dimensions)
    noise = LogNormalPrior(math.log(2e-3), 1.5)
    likelihood = GaussianLikelihood(noise_prior=noise, noise_constraint=GreaterThan(1e-5))
    model = SingleTaskGP(
        inputs, targets, covar_module=covariance, likelihood=likelihood, outcome_transform=Standardize(m=1)
    )
    fit_gpytorch_mll(
        ExactMarginalLogLikelihood(model.likelihood, model), optimizer_kwargs={"options": {"maxiter": MAX_STEPS}}
    )
    return model
