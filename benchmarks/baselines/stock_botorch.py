# SPDX-License-Identifier: Apache-2.0
"""BoTorch as its tutorials use it: SingleTaskGP with its defaults and constrained expected improvement.

Five random points first. Inputs are the log knobs scaled to [0, 1], outcomes log energy and log latency, which is
already more than its defaults would do; every model is fitted anew after every trial. No point twice.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Mapping, Sequence

import torch
from botorch.acquisition.analytic import LogConstrainedExpectedImprovement, LogProbabilityOfFeasibility
from botorch.exceptions.warnings import BotorchWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.model_list_gp_regression import ModelListGP
from gpytorch.mlls import SumMarginalLogLikelihood
from linear_operator.utils.warnings import NumericalWarning

from governor.points import Point

from .seen import Peer

FIRST = 5


class StockBotorch(Peer):
    """Five random points, then constrained expected improvement."""

    def __init__(self, knobs: Mapping[str, Sequence[float]], slo_s: float, seed: int, prior: object = None) -> None:
        super().__init__(knobs, slo_s, seed, prior)
        self._features = torch.from_numpy(self.seen.features())
        count = len(self.seen.points)
        self._first = iter(random.Random(seed).sample(range(count), min(FIRST, count)))

    def ask(self) -> Point | None:
        """The next point; None after all of them."""
        number = next(self._first, None)
        if number is not None:
            return self.point(number)
        open_points = self.seen.untried()
        if not open_points:
            return None
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            warnings.simplefilter("ignore", BotorchWarning)
            warnings.simplefilter("ignore", NumericalWarning)
            return self.point(open_points[int(self._scores(open_points).argmax())])

    def _scores(self, open_points: list[int]) -> torch.Tensor:
        """The acquisition at the open points."""
        logs = torch.tensor([self.seen.energies_j, self.seen.latencies_s], dtype=torch.float64).log()
        inputs = self._features[self.seen.told]
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
            scores: torch.Tensor = acquire(self._features[open_points].unsqueeze(1))
        return scores
