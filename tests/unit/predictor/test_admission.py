# SPDX-License-Identifier: Apache-2.0
"""Admission: more room never makes for less training."""

from __future__ import annotations

import random

import pytest

from predictor.admission import DUTIES, Admit, Decision, InferenceLoad, Objective, Pace, Refuse, decide
from predictor.queueing import ServiceTimes


def load(rate_hz: float = 5.0, service_s: float = 0.02) -> InferenceLoad:
    rng, now_s, times = random.Random(3), 0.0, []
    for _ in range(1500):
        now_s += rng.expovariate(rate_hz)
        times.append(now_s)
    return InferenceLoad(times, ServiceTimes({1: (service_s,)}), 4)


def duty(decision: Decision) -> float:
    """The share of idle time granted."""
    match decision:
        case Admit():
            return 1.0
        case Pace(share):
            return share
        case Refuse():
            return 0.0


def test_room_to_spare_is_admitted() -> None:
    """Slices far shorter than the slack may use every idle moment; the prediction comes with it."""
    decision = decide(load(), Objective(0.95, 0.2), slice_s=0.005)
    assert isinstance(decision, Admit)
    assert 0.02 <= decision.latency_s <= 0.2


def test_some_room_is_paced() -> None:
    """Where every idle moment would be too much, a share of it is granted, within the objective."""
    decision = decide(load(), Objective(0.95, 0.055), slice_s=0.05)
    assert isinstance(decision, Pace)
    assert 0 < decision.duty < 1
    assert decision.latency_s <= 0.055
    assert decision.slice_s == 0.05


def test_no_room_is_refused_in_words() -> None:
    """Slices longer than the slack, even now and then, break the objective; the reason names both."""
    decision = decide(load(), Objective(0.99, 0.05), slice_s=1.0)
    assert isinstance(decision, Refuse)
    assert "1.0000 s" in decision.reason
    assert "0.0500 s" in decision.reason


def test_an_objective_missed_without_training_is_refused() -> None:
    """Then training is not the culprit, and the reason says so."""
    decision = decide(load(rate_hz=40.0, service_s=0.2), Objective(0.95, 0.1), slice_s=0.001)
    assert isinstance(decision, Refuse)
    assert "without training" in decision.reason


@pytest.mark.parametrize("slice_s", [0.01, 0.04, 0.2])
def test_a_looser_objective_never_grants_less(slice_s: float) -> None:
    """Monotone in the limit, from refusal to admission."""
    shares = [duty(decide(load(), Objective(0.95, limit_s), slice_s)) for limit_s in (0.01, 0.03, 0.05, 0.1, 0.3)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert set(shares) <= {0.0, *DUTIES}


def test_longer_slices_never_get_more() -> None:
    """Monotone in the slice."""
    shares = [duty(decide(load(), Objective(0.95, 0.06), slice_s)) for slice_s in (0.005, 0.02, 0.05, 0.1, 0.4)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]
