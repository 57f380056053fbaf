# SPDX-License-Identifier: Apache-2.0
"""Joules per request, against windows whose truth is known and against long runs of the simulated device."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

import pytest
from device import info

from boards.clocks import ClockPoint
from boards.physics import shipped
from governor.guard import Slo
from governor.joules import Tick, energy_per_request, power_line
from governor.simulation import SimulatedModel, Simulation
from governor.traffic import Traffic
from governor.trial import Evidence
from governor.window import counters
from telemetry.instance_page import Knobs

IDLE_W, BUSY_W, SERVICE_S, RATE_HZ = 10.0, 40.0, 0.02, 15.0
EXACT_J = (IDLE_W + (BUSY_W - IDLE_W) * RATE_HZ * SERVICE_S) / RATE_HZ
LOW = ClockPoint(612_000_000, 612_000_000, 2_133_000_000, 1_497_600_000, 8)


def ticks(busy: Sequence[float], averaging_s: float = 0.0, dt_s: float = 0.05) -> list[Tick]:
    """Looks at a board whose power is linear in its busy share, through a sensor that averages over the past."""
    powers = [IDLE_W + (BUSY_W - IDLE_W) * share for share in busy]
    length = max(1, round(averaging_s / dt_s))
    rows = [Tick(0.0, 0.0, 0.0, 0)]
    for number, share in enumerate(busy):
        seen = powers[max(0, number + 1 - length) : number + 1]
        shown_w = sum(seen) / len(seen)
        last = rows[-1]
        rows.append(Tick(last.at_s + dt_s, last.energy_j + shown_w * dt_s, last.busy_s + share * dt_s, 0))
    return rows


@pytest.mark.parametrize("averaging_s", [0.0, 0.2, 0.45, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_energy_is_that_of_the_offered_load_however_lucky_the_window(seed: int, averaging_s: float) -> None:
    """Power linear in the busy share, shown at once or averaged: the exact joules come back from any window."""
    rng = random.Random(seed)
    measured = ticks([float(rng.random() < 0.3) for _ in range(100)], averaging_s)
    found = energy_per_request(measured, RATE_HZ, RATE_HZ * SERVICE_S, averaging_s)
    assert found.per_request_j == pytest.approx(EXACT_J, rel=0.01)
    assert found.half_width < 0.05


def test_a_window_without_variation_is_taken_as_it_is() -> None:
    """Where busy share never differs there is no line to fit: the mean power over the offered load."""
    found = energy_per_request(ticks([0.32] * 80), 16.0, 0.5)
    assert found.per_request_j == pytest.approx((IDLE_W + 30.0 * 0.32) / 16.0)


def test_what_is_not_known_widens_the_interval() -> None:
    """Readings that were missed, and a busy share that is known badly, are parts of it; a short window knows none."""
    rng = random.Random(1)
    measured = ticks([float(rng.random() < 0.3) for _ in range(100)])
    sure = energy_per_request(measured, RATE_HZ, 0.3)
    missed = [Tick(tick.at_s, tick.energy_j, tick.busy_s, 0, error_j=tick.at_s) for tick in measured]
    power_w = sure.per_request_j * RATE_HZ
    assert energy_per_request(missed, RATE_HZ, 0.3).half_width == pytest.approx(
        math.hypot(sure.half_width, 1 / power_w)
    )
    vague = energy_per_request(measured, RATE_HZ, 0.3, busy_half_width=0.1)
    assert vague.half_width == pytest.approx(math.hypot(sure.half_width, 30 * 0.1 / power_w), rel=0.01)
    assert energy_per_request(measured[:15], RATE_HZ, 0.3).half_width == float("inf")


@pytest.mark.parametrize(("looks", "rate_hz"), [(1, 15.0), (50, 0.0)])
def test_no_time_or_load_no_energy_per_request(looks: int, rate_hz: float) -> None:
    """Without them there is no such figure; nor is there power before the sensor has forgotten the past."""
    with pytest.raises(ValueError, match="no energy per request"):
        energy_per_request(ticks([0.3] * 50)[:looks], rate_hz, 0.3)
    with pytest.raises(ValueError, match="no power"):
        power_line(ticks([0.3] * 5), 0.45)


def energies(world: Simulation, limit: int, length_s: float, count: int) -> tuple[list[float], float]:
    """Joules per request as windows one after the other tell them at the load of all, and the true figure over all."""
    world.board.lease(LOW, 1e9)
    governed = [model.info.instance for model in world.models if model.info.slo_s]
    traffic = {name: Traffic(Slo(0.95, 0.5)) for name in governed}
    for model in world.models:
        world.write_knobs(model.info.instance, Knobs(limit, 0), 1e9)
    world.step(2.0)
    before_j, before = world.energy_j, sum(len(model.finished) for model in world.models if model.info.slo_s)
    found, rows = [], [counters(world.read(), governed)]
    while len(found) < count:
        world.step(0.1)
        now = world.read()
        for view in now.instances:
            if view.info.instance in traffic:
                traffic[view.info.instance].add(view)
        rows.append(counters(now, governed))
        if rows[-1].at_s - rows[0].at_s >= length_s - 0.01:
            models = {name: one.window(limit) for name, one in traffic.items()}
            found.append(Evidence(tuple(rows), models, averaging_s=0.43))
            rows = rows[-1:]
            for one in traffic.values():
                one.mark()
    tuned = [model for model in world.models if model.info.slo_s]
    served = sum(len(model.finished) for model in tuned) - before
    arrivals_s = {
        model.info.instance: tuple(sorted(sample.arrival_ns / 1e9 for sample in model.finished)) for model in tuned
    }
    records = [evidence.under(arrivals_s, {}).record({}) for evidence in found]
    judged = [record.energy_j for record in records if record.energy_j is not None]
    return judged, (world.energy_j - before_j) / served


@pytest.mark.parametrize(("rate_hz", "limit"), [(3.0, 1), (12.0, 1), (12.0, 4), (25.0, 1), (40.0, 8)])
def test_windows_tell_the_long_run_joules_per_request(rate_hz: float, limit: int) -> None:
    """Idle energy at the offered load included: within 1.5 % on average over windows of 3 s, from 7 to 60 % load."""
    found, true_j = energies(Simulation([SimulatedModel(info(), rate_hz, seed=1)]), limit, 3.0, 40)
    assert statistics.mean(found) == pytest.approx(true_j, rel=0.015)
    assert statistics.stdev(found) < 0.03 * true_j


def test_of_several_models_the_sum_counts_whatever_the_window_saw_of_each() -> None:
    """A quick model and a rare slow one: all joules over all requests, within 2 %, though windows mix them by luck."""
    models = [SimulatedModel(info(), 12.0, 1), SimulatedModel(info("slow"), 2.0, 2)]
    models[1].workload = shipped("bert")
    found, true_j = energies(Simulation(models), 1, 4.0, 40)
    assert statistics.mean(found) == pytest.approx(true_j, rel=0.02)


def test_a_model_that_nobody_tunes_costs_the_board_its_joules_and_adds_no_requests() -> None:
    """Its busy time stays as it was; the board's joules are shared by the requests that are governed."""
    models = [SimulatedModel(info(), 12.0, 1), SimulatedModel(info("other", slo_s=0.0), 8.0, 2)]
    found, true_j = energies(Simulation(models), 1, 4.0, 40)
    assert statistics.mean(found) == pytest.approx(true_j, rel=0.03)
