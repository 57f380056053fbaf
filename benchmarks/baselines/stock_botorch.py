# SPDX-License-Identifier: Apache-2.0
"""BoTorch as its tutorials use it: SingleTaskGP with its defaults and constrained expected improvement.

Five random points first. Inputs are the log knobs scaled to [0, 1], outcomes log energy and log latency, which is
already more than its defaults would do; every model is fitted anew after every trial. No point twice.
"""

from __future__ import annotations

import math
import warnings

import torch
from botorch.acquisition.analytic import LogConstrainedExpectedImprovement, LogProbabilityOfFeasibility
from botorch.exceptions.warnings import BotorchWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.model_list_gp_regression import ModelListGP
from gpytorch.mlls import SumMarginalLogLikelihood
from linear_operator.utils.warnings import NumericalWarning

from .modelling import Modelling


class StockBotorch(Modelling):
    """Five random points, then constrained expected improvement."""

    def scores(self, open_points: list[int]) -> torch.Tensor:
        """The acquisition at the open points; the global random state is left as it was."""
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            warnings.simplefilter("ignore", BotorchWarning)
            warnings.simplefilter("ignore", NumericalWarning)
            return self._acquired(open_points)

    def _acquired(self, open_points: list[int]) -> torch.Tensor:
        """The acquisition at the open points."""
        logs = torch.tensor([self.seen.energies_j, self.seen.latencies_s], dtype=torch.float64).log()
        inputs = self.features[self.seen.told]
        model = ModelListGP(*(SingleTaskGP(inputs, column.unsqueeze(1)) for column in logs))
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        limits: dict[int, tuple[float | None, float | None]] = {1: (None, math.log(self.seen.slo_s))}
        best = self.seen.best()
        acquire = (
            LogConstrainedExpectedImprovement(model, math.log(best.energy_j), 0, limits, maximize=False)
            if best
            else LogProbabilityOfFeasibility(model, limits)
        )
        with torch.no_grad():
            scores: torch.Tensor = acquire(self.features[open_points].unsqueeze(1))
        return scores
