# SPDX-License-Identifier: Apache-2.0
"""Training beside serving, governed in virtual time: held, admitted, paced, given room, never mistaken for drift."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from device import SLO_S, TICK_S, Device, config, rehearsed, scale, simulation

from boards.physics import idle_power_w
from governor.cli.status import status_text
from governor.foresight import Foresight
from governor.presence import THROTTLED_S, UNASKED_S, UNSERVED_S
from governor.published import training_of
from governor.simulated_trainer import SimulatedTrainer
from governor.spots import SPOTS
from governor.status import Phase
from governor.times_file import FILE as TIMES
from governor.trial import Violated
from predictor.corun import Serving

ROOMY_S = 2 * SLO_S


@contextmanager
def held(tmp_path: Path, slo_s: float = ROOMY_S, trials: int = 3, **job: Any) -> Iterator[Device]:
    """A device that holds its best point, with a trainer that wants nothing yet."""
    world = simulation(slo_s=slo_s)
    world.trainer = SimulatedTrainer("resnet18", **job)
    world.trainer.wants = False
    with rehearsed(world, config(tmp_path, trials=trials)) as (device, _):
        device.until_phase(Phase.HOLDING)
        yield device
        assert not device.status.faults["tick"] + device.status.faults["predictor"]


def trainer_of(device: Device) -> SimulatedTrainer:
    assert device.world.trainer is not None
    return device.world.trainer


def late_share(device: Device, since_s: float) -> float:
    """Of the requests that arrived since then, those beyond the limit."""
    samples = [sample for sample in device.model.finished if sample.arrival_ns >= 1e9 * since_s]
    return sum(sample.latency_s > device.model.info.slo_s for sample in samples) / max(1, len(samples))


def test_training_stands_still_while_a_point_is_tried(tmp_path: Path) -> None:
    """Held with the reason; not one operation runs before a point is held."""
    world = simulation()
    world.trainer = SimulatedTrainer("resnet18")
    with rehearsed(world, config(tmp_path, trials=3)) as (device, _):
        device.until_phase(Phase.MEASURING)
        device.run(0.5)
        assert device.status.training.phase == "held"
        assert world.trainer.limits is not None
        assert (world.trainer.limits.duty, world.trainer.limits.reason) == (0.0, "tuning")
        device.until_phase(Phase.HOLDING)
        assert world.trainer.busy_s == 0.0
        assert device.outcomes == ["feasible"] * 3


def test_a_job_runs_to_its_end_while_a_point_is_held(tmp_path: Path) -> None:
    """In the gaps, with the objective kept; what it costs teaches nothing and counts as no drift."""
    with held(tmp_path, steps=300) as device:
        trainer, point, began_s = trainer_of(device), dict(device.status.point), device.world.now_s
        trainer.wants = True
        device.until(lambda: trainer.finished, 400.0)
        device.until(lambda: device.status.training.phase == "idle", 1.0)
        device.run(400.0)
        assert late_share(device, began_s) < 0.05
        assert device.status.phase is Phase.HOLDING
        assert device.status.point == point
        assert not device.status.faults
        assert len(device.outcomes) == 3


def test_the_predictor_learns_from_the_requests_of_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those alone, with their own arrivals: what came before them was another load, or other luck."""
    lessons: list[tuple[float, float, int]] = []
    learn = Foresight.learn

    def noted(self: Foresight, serving: Serving, *told: Any) -> None:
        lessons.append((serving.arrivals_s[0], serving.arrivals_s[-1], len(serving.arrivals_s)))
        assert told[-1] == len(serving.arrivals_s)
        learn(self, serving, *told)

    monkeypatch.setattr(Foresight, "learn", noted)
    with held(tmp_path, steps=100_000) as device:
        trainer_of(device).wants = True
        device.run(100.0)
    assert len(lessons) > 5
    assert all(last_s - first_s <= 10.0 + TICK_S for first_s, last_s, _ in lessons)
    assert all(before[1] <= after[0] for before, after in pairwise(lessons))


def test_heat_and_joules_of_training_are_no_drift(tmp_path: Path) -> None:
    """It warms the board by more than what opens the search again, and doubles what a request seems to cost."""
    with held(tmp_path, steps=100_000) as device:
        device.run(70.0)
        trainer_of(device).wants = True
        device.until(lambda: device.status.training.limits.duty > 0.2, 100.0)
        device.world.board.celsius += 20.0
        device.run(150.0)
        trainer_of(device).wants = False
        device.run(60.0)
        device.world.board.celsius -= 20.0
        device.run(320.0)
        assert device.status.phase is Phase.HOLDING
        assert len(device.outcomes) == 3


def test_another_load_is_noticed_beside_training_too(tmp_path: Path) -> None:
    """The search is opened again, and training stands still for it."""
    with held(tmp_path, steps=100_000) as device:
        trainer_of(device).wants = True
        device.until(lambda: trainer_of(device).busy_s > 1.0, 100.0)
        device.model.offer(4.0)
        device.until_phase(Phase.MEASURING, 200.0)
        busy_s = trainer_of(device).busy_s
        device.run(2.0)
        assert device.status.training.limits.reason == "tuning"
        assert trainer_of(device).busy_s <= busy_s + trainer_of(device).op_s * 4


def test_operations_that_are_too_long_are_refused(tmp_path: Path) -> None:
    """With the limit that would leave room, before anything runs."""
    with held(tmp_path, slo_s=SLO_S, op_s=2.0) as device:
        trainer_of(device).wants = True
        device.until(lambda: device.status.training.phase == "refused", 60.0)
        assert "no room" in device.status.training.limits.reason
        assert trainer_of(device).busy_s == 0.0


def test_one_long_operation_among_short_ones_shuts_no_job_out(tmp_path: Path) -> None:
    """Longer than the limit, and all that is known at first: a few operations are let in, and show what it is like."""
    with held(tmp_path, steps=100_000) as device:
        began_s, trainer_of(device).rare_s = device.world.now_s, 1.5 * ROOMY_S
        trainer_of(device).wants = True
        device.until(lambda: device.status.training.limits.duty > 0, 60.0)
        assert device.status.training.limits.duty == pytest.approx(0.025)
        device.until(lambda: device.status.training.limits.duty >= 0.25, 10.0)
        device.run(100.0)
        assert trainer_of(device).busy_s > 20.0
        assert late_share(device, began_s) < 0.05


def test_a_deadline_that_cannot_be_met_is_refused(tmp_path: Path) -> None:
    """The smallest one that could is known."""
    with held(tmp_path, steps=10_000) as device:
        trainer_of(device).deadline_s = device.world.now_s + 30.0
        trainer_of(device).wants = True
        device.until(lambda: device.status.training.phase == "refused", 60.0)
        assert "deadline" in device.status.training.limits.reason
        assert trainer_of(device).busy_s == 0.0


def test_where_a_job_has_no_room_the_governor_goes_where_it_has(tmp_path: Path) -> None:
    """To higher clocks for the life of the job, and back; the move is no trial and no hold that was broken."""
    with held(tmp_path, slo_s=ROOMY_S, trials=13, steps=500) as device:
        home = dict(device.status.point)
        assert home["gpu_hz"] < 1.3e9
        trainer_of(device).deadline_s = device.world.now_s + 500 * 0.1 * 2.2
        trainer_of(device).wants = True
        device.until(lambda: device.status.point != home, 60.0)
        assert device.status.point["gpu_hz"] > home["gpu_hz"]
        assert device.status.detail == "where a job has room"
        device.until(lambda: trainer_of(device).finished, 200.0)
        assert device.world.now_s <= trainer_of(device).deadline_s
        device.until(lambda: device.status.point == home, 60.0)
        assert device.status.phase is Phase.HOLDING
        device.run(60.0)
        assert device.status.point == home
        assert len(device.outcomes) == 13
        assert not device.status.faults


@pytest.mark.parametrize("kept", [True, False])
def test_where_there_is_room_is_known_after_a_restart(tmp_path: Path, kept: bool) -> None:
    """A governor that went through no trial itself knows what batches took in those of the run before it."""
    with held(tmp_path, slo_s=ROOMY_S, trials=13, steps=500) as device:
        world = device.world
    if not kept:
        (tmp_path / "state" / TIMES).unlink()
    with rehearsed(world, config(tmp_path, trials=13)) as (again, _):
        again.until_phase(Phase.HOLDING)
        home = dict(again.status.point)
        trainer_of(again).deadline_s = world.now_s + 500 * 0.1 * 1.6
        trainer_of(again).wants = True
        again.run(60.0)
        assert (again.status.point["gpu_hz"] > home["gpu_hz"]) == kept
        assert len(again.outcomes) == 13


def test_room_is_looked_for_from_the_cheapest_to_the_fastest(tmp_path: Path) -> None:
    """The point held first, few others, each with its own clocks and watts, the fastest clocks among them."""
    with held(tmp_path, trials=16) as device:
        course = device.governor._course
        assert course is not None
        here, *others = course.spots()
        assert here.point == device.status.point
        assert 2 <= len(others) <= SPOTS
        assert here.point not in [spot.point for spot in others]
        assert max(spot.point["gpu_hz"] for spot in others) == 1_300_500_000.0
        watts = [spot.serving_w for spot in others]
        assert watts == sorted(watts)
        assert here.serving_w < watts[-1]


def test_what_training_draws_is_measured(tmp_path: Path) -> None:
    """And is what places are compared by: on this board it is less than what serving draws."""
    with held(tmp_path, steps=100_000) as device:
        trainer_of(device).wants = True
        course = device.governor._course
        assert course is not None
        here = course.spots()[0]
        device.run(120.0)
        point = device.world.board.point
        extra_w = trainer_of(device).power_w(point) - idle_power_w(point)
        known = device.governor._training._draw.over_serving
        assert known == pytest.approx(extra_w / here.serving_w, rel=0.15)
        assert abs(known - 1.0) > 0.2


def test_a_place_that_cannot_be_had_is_given_up(tmp_path: Path) -> None:
    """The best point is held on, and the job waits."""
    with held(tmp_path, trials=13, steps=500) as device:
        home = dict(device.status.point)
        trainer_of(device).deadline_s = device.world.now_s + 500 * 0.1 * 2.2
        trainer_of(device).wants = True
        device.world.board.failing = {"gpu_hz": "busy"}
        device.until(lambda: device.status.training.phase == "refused", 60.0)
        device.world.board.failing = {}
        device.until(lambda: device.status.point == home and device.status.leased, 60.0)


@pytest.mark.parametrize("wrong", [0.5, 1.5], ids=["too_short", "too_long"])
def test_a_wrong_prediction_costs_training_and_not_the_objective(tmp_path: Path, wrong: float) -> None:
    """What is broken beside training is training's doing: it gets less, the point keeps its name."""
    with held(tmp_path, slo_s=1.25 * SLO_S, steps=100_000, op_s=0.02) as device:
        trainer, point, began_s = trainer_of(device), dict(device.status.point), device.world.now_s
        trainer.told, trainer.cold = wrong, 0.5
        trainer.wants = True
        device.run(250.0)
        assert late_share(device, began_s) < 0.05
        assert device.status.point == point
        assert Violated() not in [trial.outcome for trial in device.status.trials]


def test_a_point_that_breaks_without_training_is_to_blame(tmp_path: Path) -> None:
    """Training is held first; if that does not help, the fastest point is kept as ever."""
    with held(tmp_path, slo_s=SLO_S * 1.25, steps=100_000) as device:
        trainer_of(device).wants = True
        device.until(lambda: trainer_of(device).busy_s > 1.0, 100.0)
        scale(device.model, "_s", 2.0)
        device.until_phase(Phase.COOLING, 60.0)
        assert device.status.faults["objective"] >= 1
        assert device.status.faults["training"] == 1


def test_requests_that_come_too_thick_are_not_held_against_training(tmp_path: Path) -> None:
    """Training stands still while they do, and is not blamed: the same arrivals break the promise alone."""
    with held(tmp_path, steps=100_000) as device:
        trainer_of(device).wants = True
        device.until(lambda: device.status.training.limits.duty == 1.0, 150.0)
        device.model.offer(150.0)
        device.until(lambda: device.status.training.limits.duty == 0.0, 5.0)
        assert "without training" in device.status.training.limits.reason
        assert not device.status.faults["training"]


def test_a_trial_into_which_training_ran_is_none(tmp_path: Path) -> None:
    """Its joules are not those of requests."""
    world = simulation()
    world.trainer = SimulatedTrainer("resnet18")
    with rehearsed(world, config(tmp_path, trials=3)) as (device, _):
        device.until_phase(Phase.MEASURING)
        device.run(1.0)
        world.trainer.busy_s += 0.05
        device.until_phase(Phase.HOLDING)
        assert device.outcomes == ["training", "feasible", "feasible"]


def test_nothing_trains_while_the_board_throttles_or_is_blind(tmp_path: Path) -> None:
    """Training is what warms it most, and what can wait best."""
    with held(tmp_path, steps=100_000) as device:
        trainer_of(device).wants = True
        device.until(lambda: device.status.training.limits.duty > 0, 60.0)
        device.world.board.throttle_events += 1
        device.run(TICK_S)
        assert device.status.training.limits.reason == "the board has throttled"
        device.until(lambda: device.status.training.limits.duty > 0, THROTTLED_S + 1.0)
        device.world.board.blind = True
        device.until(lambda: device.status.training.limits.duty == 0, 3.0)
        assert device.status.training.limits.reason == "no temperature can be read"


def test_nothing_trains_while_a_served_model_is_silent(tmp_path: Path) -> None:
    """From half a second on; the fault is counted once. What comes back after a death is first kept safe."""
    with held(tmp_path, steps=100_000) as device:
        trainer_of(device).wants = True
        device.until(lambda: device.status.training.limits.duty > 0, 60.0)
        models, model = device.world.models, device.model
        model.silent_s = 0.6
        device.run(TICK_S)
        assert device.status.training.limits.reason == "a served model is silent"
        model.silent_s = 1.2
        device.run(TICK_S)
        device.world.models = []
        device.run(5.0)
        assert device.status.faults["silent"] == 1
        assert device.status.training.limits.reason == "what was served has gone"
        model.silent_s = 0.0
        device.world.models = models
        device.until_phase(Phase.COOLING, 30.0)
        assert device.status.detail == "until what had died is well again"
        assert device.world.board.point.gpu_hz == 1_300_500_000
        assert device.until(lambda: device.status.phase is not Phase.COOLING) >= 3 * 10.0 - 2 * TICK_S
        busy_s = trainer_of(device).busy_s
        device.until_phase(Phase.HOLDING)
        assert trainer_of(device).busy_s <= busy_s


def test_what_was_unloaded_in_peace_is_not_nursed(tmp_path: Path) -> None:
    """Only who fell silent before it went has died."""
    with held(tmp_path) as device:
        models = device.world.models
        device.world.models = []
        device.run(1.0)
        device.world.models = models
        device.until_phase(Phase.PROPOSING, 30.0)
        assert not device.status.faults["silent"]


def test_with_nothing_served_or_asked_training_has_all_the_time(tmp_path: Path) -> None:
    """After a while, as somebody may be starting up; once requests come it is held until there is a point."""
    world = simulation(0.0)
    world.trainer = SimulatedTrainer("resnet18", steps=100_000)
    models, world.models = world.models, []
    with rehearsed(world, config(tmp_path, trials=2)) as (device, _):
        device.run(1.0)
        assert device.status.training.limits.duty > 0
        world.models = models
        device.run(UNASKED_S + 1.0)
        assert device.status.training.limits.duty > 0
        models[0].offer(12.0)
        device.until(lambda: device.model.finished, 5.0)
        device.run(2 * TICK_S)
        assert device.status.training.limits.duty == 0
        device.until_phase(Phase.HOLDING)
        device.until(lambda: device.status.training.limits.duty > 0, 60.0)
        world.models = []
        device.run(1.0)
        assert device.status.training.limits.duty == 0
        device.run(UNSERVED_S)
        assert device.status.training.limits.duty > 0


def test_a_version_on_trial_is_left_in_peace(tmp_path: Path) -> None:
    """Neither training nor a trial begins while somebody watches it."""
    with held(tmp_path, steps=100_000) as device:
        trainer_of(device).wants = True
        world, read = device.world, device.world.read
        world.read = lambda: replace(read(), rollout="resnet18")  # type: ignore[method-assign]
        device.run(30.0)
        assert device.status.training.limits.reason == "a new version of resnet18 is on trial"
        world.board.celsius = 80.0
        device.until_phase(Phase.PROPOSING, 120.0)
        device.run(60.0)
        assert device.status.phase is Phase.PROPOSING
        world.read = read  # type: ignore[method-assign]
        device.until_phase(Phase.MEASURING, 30.0)


def test_a_governor_that_goes_leaves_no_limits(tmp_path: Path) -> None:
    """They expire with it: training is held, for nobody watches the objective any more."""
    with held(tmp_path, steps=100_000) as device:
        trainer_of(device).wants = True
        device.until(lambda: trainer_of(device).busy_s > 0.5, 60.0)
        device.world.step(3.0)
        busy_s = trainer_of(device).busy_s
        device.world.step(5.0)
        assert trainer_of(device).busy_s == busy_s


def test_where_training_stands_is_shown(tmp_path: Path) -> None:
    """In the governor's file and in words; nothing while there is no fine-tuning process."""
    with held(tmp_path, steps=1000) as device:
        trainer_of(device).wants = True
        device.until(lambda: device.status.training.limits.duty == 1.0, 300.0)
        device.run(30.0)
        shown = json.loads(json.dumps(training_of(device.status.training)))
        assert (shown["phase"], shown["job"], shown["model"], shown["duty"]) == ("admitted", "job-1", "resnet18", 1.0)
        assert shown["steps"] == trainer_of(device).steps_done
        standing = {"pid": 1, "phase": "holding", "detail": "", "trials": 3, "left_out": {}, "alarms": {}}
        status = {"board": None, "instances": [], "governor": standing | {"training": shown}}
        assert "training: job job-1 of resnet18, admitted, 100% of the idle time" in status_text(status)
        assert not math.isnan(device.status.training.error_ratio)
        device.world.trainer = None
        device.run(TICK_S)
        assert training_of(device.status.training) is None
