# SPDX-License-Identifier: Apache-2.0
"""Service times of batch sizes seldom seen."""

from __future__ import annotations

import pytest

from predictor.queueing import ServiceTimes
from predictor.typical import ENOUGH, typical


def test_a_lone_stall_does_not_become_the_rule_of_its_size() -> None:
    """One batch of four that took ten times as long counts as one among all."""
    often = tuple(0.01 + 0.0001 * (number % 5) for number in range(100))
    services = ServiceTimes({1: often, 2: (0.012, 0.0121), 4: (0.16,)})
    made = typical(services)
    assert services.mean_s(4) == pytest.approx(0.16)
    assert sorted(made.seconds[4])[50] < 0.08
    assert made.seconds[1] == often
    assert len(made.seconds[4]) == 103


def test_what_was_seen_often_speaks_for_itself() -> None:
    """Enough batches of each size, or one size alone, are left as they are."""
    for services in (
        ServiceTimes({1: (0.01,) * ENOUGH, 8: (0.005,) * ENOUGH}),
        ServiceTimes({4: (0.01, 0.1)}),
    ):
        assert typical(services) is services


def test_sizes_that_cost_more_do_so_still() -> None:
    """A few batches of eight at eight times as long stay near it; lean is kept."""
    services = ServiceTimes({1: (0.01,) * 50, 8: (0.08,) * 5}, 1)
    made = typical(services)
    assert made.mean_s(8) == pytest.approx(0.08, rel=0.05)
    assert made.lean == 1


def test_no_time_becomes_unlikely_small() -> None:
    """Deviations of a slow size do not make a fast one take nothing."""
    services = ServiceTimes({1: (0.001, 0.001), 16: (0.1, 0.02, 0.3)})
    assert min(min(times) for times in typical(services).seconds.values()) > 0
