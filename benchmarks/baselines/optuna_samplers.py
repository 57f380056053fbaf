# SPDX-License-Identifier: Apache-2.0
"""Optuna's samplers with a constraint function: multivariate TPE and its Gaussian process; five random points first.

Knobs are integers, the ranks of their values. The objective is log energy, the constraint log latency against the
limit. Optuna may ask for a point again, which then costs a trial as it would in use.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import optuna

from governor.points import Point

from .seen import FIRST, Peer

KEPT = "over_limit"


class Sampled(Peer):
    """A study driven by ask and tell."""

    def __init__(
        self, knobs: Mapping[str, Sequence[float]], slo_s: float, seed: int, sampler: optuna.samplers.BaseSampler
    ) -> None:
        super().__init__(knobs, slo_s, seed)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(sampler=sampler, direction="minimize")
        self._trial: optuna.Trial | None = None

    def ask(self) -> Point | None:
        """The next point."""
        with _quietly():
            self._trial = self._study.ask()
            ranks = {
                name: self._trial.suggest_int(name, 0, len(values) - 1) for name, values in self.seen.knobs.items()
            }
        return {name: float(self.seen.knobs[name][rank]) for name, rank in ranks.items()}

    def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
        """Keep what the trial asked for last measured."""
        super().tell(point, latency_s, energy_j)
        if self._trial is None:
            raise ValueError("told of a point that was not asked for")
        self._trial.set_user_attr(KEPT, math.log(latency_s / self.seen.slo_s))
        with _quietly():
            self._study.tell(self._trial, math.log(energy_j))
        self._trial = None


def tpe(knobs: Mapping[str, Sequence[float]], slo_s: float, seed: int, prior: object = None) -> Sampled:
    """Multivariate TPE."""
    del prior
    with _quietly():
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, n_startup_trials=FIRST, constraints_func=_constraint
        )
    return Sampled(knobs, slo_s, seed, sampler)


def gaussian_process(knobs: Mapping[str, Sequence[float]], slo_s: float, seed: int, prior: object = None) -> Sampled:
    """The Gaussian process sampler."""
    del prior
    with _quietly():
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=FIRST, constraints_func=_constraint)
    return Sampled(knobs, slo_s, seed, sampler)


def _constraint(trial: optuna.trial.FrozenTrial) -> tuple[float]:
    return (trial.user_attrs[KEPT],)


def _quietly() -> warnings.catch_warnings[None]:
    """Optuna announces what is experimental, or will go in a later version, at every turn."""
    return warnings.catch_warnings(action="ignore", category=FutureWarning)
