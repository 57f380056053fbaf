# SPDX-License-Identifier: Apache-2.0
"""What the next trial is worth: expected improvement under the constraint, less the price of breaking it.

The price of a violation is a share of the energy. It rises with every one seen and falls as trials are spent, and so do
the margins of the points that may be tried at all: this is the safety filter, and it relaxes with the budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from botorch.acquisition.analytic import LogConstrainedExpectedImprovement, LogProbabilityOfFeasibility

from .surfaces import Expected, Surfaces

PRICE = 0.02
"""A violation costs as much as this share of the energy,"""
DEARER = 3.0
"""so many times more after each one,"""
PER_TRIALS = 15.0
"""and that much less again after so many trials: about one violation in as many is put up with."""

FLOOR, FALL, RISE = 0.45, 60.0, 0.1
"""A point must be feasible with this probability; it falls by one in so many trials, and rises with each violation."""
FLOOR_RANGE = (0.2, 0.6)

WORST = 1.5
"""Latencies beyond this multiple of the limit are to be avoided at almost any price:"""
CAUTION = (2.33, 1.28, 0.5)
"""they must lie so many deviations away; less only if nothing within promises `WORTHWHILE`, and nothing went wrong."""
WORTHWHILE = 0.01

USEFUL = 0.3
"""What is tried must promise this share of the most that may be tried: no risk for no gain is a lost trial."""


@dataclass(frozen=True, slots=True)
class Worth:
    """Of every point: what trying it is worth (`n`, in log energy), and the gain alone, risk left aside (`n`)."""

    value: torch.Tensor
    gain: torch.Tensor


def worth(surfaces: Surfaces, limit: float, incumbent: float | None, tried: torch.Tensor, told: list[int]) -> Worth:
    """What every point is worth under a log latency `limit`; `tried` ones (bool, `n`) are worth nothing.

    `incumbent`: the log energy to beat; None while nothing is feasible, when likely feasibility is all that counts.
    """
    model, numbers = Expected(surfaces), torch.arange(len(tried), dtype=torch.float64).reshape(-1, 1, 1)
    constraints: dict[int, tuple[float | None, float | None]] = {1: (None, limit)}
    log_feasible = LogProbabilityOfFeasibility(model, constraints=constraints)(numbers)
    if incumbent is None:
        value = log_feasible.masked_fill(tried, -math.inf)
        return Worth(value, torch.full_like(value, math.inf).masked_fill(tried, -math.inf))
    gain = LogConstrainedExpectedImprovement(
        model, best_f=incumbent, objective_index=0, constraints=constraints, maximize=False
    )(numbers).exp()
    feasible = log_feasible.exp()
    broken = float((1 - feasible[told]).round(decimals=1).sum())
    price = PRICE * DEARER ** (broken - len(told) / PER_TRIALS)
    value = (gain - price * (1 - feasible)).masked_fill(tried, -math.inf)
    floor = min(max(FLOOR - len(told) / FALL + RISE * broken, FLOOR_RANGE[0]), FLOOR_RANGE[1])
    allowed = _allowed(surfaces, limit, value.where(feasible >= floor, -math.inf), careful=broken >= 0.5)
    allowed &= gain >= USEFUL * gain.where(allowed, 0.0).max()
    # Where nothing is allowed, the likeliest feasible point.
    value = value.where(allowed, log_feasible - 1e6).masked_fill(tried, -math.inf)
    return Worth(value, gain.masked_fill(tried, -math.inf))


def _allowed(surfaces: Surfaces, limit: float, value: torch.Tensor, *, careful: bool) -> torch.Tensor:
    """The points that may be tried (bool, `n`): as far from the worst as leaves one that is worth it."""
    allowed = torch.zeros_like(value, dtype=torch.bool)
    for deviations in CAUTION:
        worst = surfaces.latency + deviations * surfaces.latency_deviation
        allowed = (value > -math.inf) & (worst < limit + math.log(WORST))
        if careful or bool((value[allowed] > WORTHWHILE).any()):
            break
    return allowed
