# SPDX-License-Identifier: Apache-2.0
"""What a trial is worth, on surfaces made by hand."""

from __future__ import annotations

import math

import torch

from governor.surrogate.acquisition import worth
from governor.surrogate.calibration import Calibration
from governor.surrogate.surfaces import Surfaces

LIMIT = math.log(0.1)


def surfaces(latencies_s: list[float], energies_j: list[float], deviation: float = 0.05) -> Surfaces:
    """Points that are expected there, all as well known."""
    none = torch.zeros(0, dtype=torch.float64)
    known = torch.full((len(latencies_s),), deviation, dtype=torch.float64)
    latency, energy = (torch.tensor(row, dtype=torch.float64).log() for row in (latencies_s, energies_j))
    return Surfaces(latency, known, energy, known / 5, Calibration(none, none, none), none)


def chosen(found: Surfaces, told: list[int], incumbent_j: float) -> int:
    tried = torch.zeros(len(found.latency), dtype=torch.bool)
    tried[told] = True
    return int(worth(found, LIMIT, math.log(incumbent_j), tried, told).value.argmax())


def test_the_cheapest_that_is_likely_feasible_is_next() -> None:
    """Neither a dearer point nor a cheaper one beyond the limit."""
    assert chosen(surfaces([0.05, 0.08, 0.08, 0.2], [2.0, 1.9, 1.6, 1.0]), [0], 2.0) == 2


def test_what_promises_nothing_is_not_tried_for_its_safety() -> None:
    """After two violations every gain costs more than it promises; a dear point that breaks nothing is no better."""
    found = surfaces([0.05, 0.15, 0.15, 0.05, 0.096], [2.0, 1.5, 1.5, 2.5, 1.97])
    assert chosen(found, [0, 1, 2], 2.0) == 4


def test_what_may_lie_far_beyond_the_limit_is_left_alone() -> None:
    """However cheap: one and a half limits lie within what its latency may be."""
    found = surfaces([0.05, 0.097, 0.08], [2.0, 0.5, 1.9], deviation=0.4)
    assert float(worth(found, LIMIT, math.log(2.0), torch.tensor([True, False, False]), [0]).value[1]) < -1e5
