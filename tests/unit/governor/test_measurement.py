# SPDX-License-Identifier: Apache-2.0
"""How long trials last: as their confidence needs. Virtual time; the search tries every point in turn."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from device import TICK_S, config, info, rehearsed, simulation

from governor.demand import chance_of_arrivals
from governor.simulation import SimulatedModel, Simulation
from governor.status import Phase
from governor.trial import Feasible, TrialRecord, Violated

TRIAL_S = 6.0


def tried(
    folder: Path, world: Simulation, trials: int = 6, knobs: tuple[str, ...] = ("gpu_hz", "emc_hz")
) -> list[TrialRecord]:
    """The trials of a tuning."""
    with rehearsed(world, config(folder, knobs=knobs, trials=trials, trial_s=TRIAL_S)) as (device, _):
        device.until_phase(Phase.HOLDING)
        return list(device.status.trials)


def test_when_all_is_clear_a_trial_is_short(tmp_path: Path) -> None:
    """Steady service far below the limit: half the typical length, with both figures known as they should be."""
    trials = tried(tmp_path, simulation(12.0, slo_s=0.2))
    assert {trial.outcome for trial in trials} == {Feasible()}
    assert all(TRIAL_S / 4 <= trial.window_s <= TRIAL_S for trial in trials)
    assert statistics.median(trial.window_s for trial in trials) <= TRIAL_S / 2
    assert all(trial.energy_half_width is not None and trial.energy_half_width <= 0.09 for trial in trials)


def test_when_in_doubt_a_trial_is_long(tmp_path: Path) -> None:
    """Service times all over the place: longer where that leaves the limit in doubt, and never beyond the most."""
    world = simulation(12.0, slo_s=0.07)
    world.models[0].jitter = 0.5
    trials = tried(tmp_path, world)
    spans_s = [trial.window_s for trial in trials]
    assert 2 * TRIAL_S < max(spans_s) <= 4 * TRIAL_S + 2 * TICK_S


@pytest.mark.parametrize("rate_hz", [30.0, 40.0])
def test_when_hopeless_a_trial_is_cut_short(tmp_path: Path, rate_hz: float) -> None:
    """A point that cannot keep up is left within seconds, so that few requests suffer, and is told as violated."""
    world = simulation(rate_hz, slo_s=0.06)
    world.models[0].info = replace(info(slo_s=0.06), max_batch=1)
    trials = tried(tmp_path, world, trials=4, knobs=("gpu_hz", "cpu_hz"))
    broken = [trial for trial in trials if trial.outcome == Violated()]
    assert broken
    assert all(trial.latency_s is not None and trial.latency_s > 0.06 for trial in broken)
    assert all(trial.window_s <= 0.5 * TRIAL_S for trial in broken)


def test_a_load_that_is_not_known_yet_is_waited_for(tmp_path: Path) -> None:
    """After a change of load nothing is concluded before thirty requests have come."""
    with rehearsed(simulation(8.0, slo_s=0.5), config(tmp_path, trials=4, trial_s=TRIAL_S)) as (device, _):
        device.until(lambda: len(device.outcomes) == 1)
        device.until_phase(Phase.MEASURING)
        device.model.offer(24.0)
        device.until(lambda: "load" in device.outcomes)
        known = len(device.outcomes)
        device.until(lambda: len(device.outcomes) == known + 1)
        assert device.status.trials[-1].energy_j is not None
        assert device.status.trials[-1].energy_j < 1.2


def test_two_models_are_both_known_before_a_trial_ends(tmp_path: Path) -> None:
    """A rare, slow model is waited for: no trial ends idle."""
    models = [SimulatedModel(info(slo_s=0.3), 12.0, 1), SimulatedModel(info("rare", slo_s=0.5), 2.0, 2)]
    trials = tried(tmp_path, Simulation(models), trials=4)
    assert {trial.outcome for trial in trials} == {Feasible()}
    assert all(trial.requests >= 12 for trial in trials)


def test_luck_of_arrivals() -> None:
    """Poisson's tail: exact at small counts; unknown where nobody knows the load."""
    assert chance_of_arrivals(1, 1.0) == pytest.approx(1 - 0.367879, abs=1e-5)
    assert chance_of_arrivals(0, 5.0) == pytest.approx(1.0)
    assert chance_of_arrivals(11, 3.6) == pytest.approx(0.00137, rel=0.2)
    assert chance_of_arrivals(10, 0.0) == 1.0
