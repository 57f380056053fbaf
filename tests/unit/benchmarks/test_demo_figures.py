# SPDX-License-Identifier: Apache-2.0
"""The demo's arithmetic: what its summary claims follows from what was measured."""

from __future__ import annotations

import pytest

from benchmarks.arms import energy_at
from benchmarks.oracle import Oracle, best_within
from boards.clocks import ClockTable
from boards.physics import MAXIMUM, idle_power_w, shipped
from governor.joules import Tick
from governor.load import draw_arrivals

TABLE = ClockTable(
    gpu_hz=(306_000_000, 816_000_000, 1_300_500_000),
    emc_hz=(2_133_000_000, 3_199_000_000),
    cpu_hz=(1_190_400_000, 1_958_400_000, 2_201_600_000),
    cores=(12,),
)
KNOBS = ("cpu_hz", "gpu_hz", "emc_hz")


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    services = {batch: (0.04 * batch,) for batch in (1, 2, 4)}
    return Oracle(shipped("resnet"), services, draw_arrivals(12.5, seed=7, requests=1000), quantile=0.95)


def test_energy_between_two_readings_is_interpolated() -> None:
    """The counter ticks 20 times a second; a window's ends fall between ticks."""
    ticks = [Tick(10.0, 100.0, 0.0, 0), Tick(10.1, 102.0, 0.0, 0), Tick(10.2, 103.0, 0.0, 0)]
    assert energy_at(ticks, 10.05) == pytest.approx(101.0)
    assert energy_at(ticks, 10.15) == pytest.approx(102.5)


@pytest.mark.parametrize("at_s", [9.9, 10.3])
def test_energy_outside_the_readings_is_not_made_up(at_s: float) -> None:
    """Before the first or after the last reading nobody knows the counter."""
    with pytest.raises(ValueError, match="no reading"):
        energy_at([Tick(10.0, 100.0, 0.0, 0), Tick(10.2, 103.0, 0.0, 0)], at_s)


def test_half_load_keeps_half_the_time_busy(oracle: Oracle) -> None:
    """At maximum clocks half the capacity is offered: mean power lies halfway between idle and busy."""
    figure = oracle.figure(MAXIMUM, 1)
    halfway_w = (shipped("resnet").busy_power_w(MAXIMUM, 1) + idle_power_w(MAXIMUM)) / 2
    assert figure.j_per_request * oracle.rate_hz == pytest.approx(halfway_w, rel=0.05)
    assert figure.latency_s > 0.04


def test_a_looser_objective_never_costs_more(oracle: Oracle) -> None:
    """More latency allowed, never more joules; and the optimum lies within the limit."""
    figures = oracle.sweep(TABLE, KNOBS, (1, 2), slowest=2.0)
    own = oracle.figure(TABLE.maximum(), 1)
    limits_s = [slack * own.latency_s for slack in (1.0, 1.25, 1.5, 2.0)]
    bests = [best_within(figures, limit_s) for limit_s in limits_s]
    costs = [best.j_per_request for best in bests]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.95 * own.j_per_request
    assert all(best.latency_s <= limit_s for best, limit_s in zip(bests, limits_s, strict=True))


def test_the_sweep_leaves_out_only_what_is_too_slow(oracle: Oracle) -> None:
    """Every point of the table that stretches a single request by no more than asked is there, at each batch."""
    figures = oracle.sweep(TABLE, KNOBS, (1, 2), slowest=100.0)
    assert len(figures) == 3 * 2 * 3 * 2
    quick = oracle.sweep(TABLE, KNOBS, (1, 2), slowest=1.2)
    assert {figure.clocks for figure in quick} == {
        figure.clocks for figure in figures if shipped("resnet").slowdown(figure.clocks, 1) <= 1.2
    }
