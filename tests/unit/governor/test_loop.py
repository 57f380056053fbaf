# SPDX-License-Identifier: Apache-2.0
"""The loop in virtual time: what it does when all is well, and when clockd, clocks, load or models are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from device import SLO_S, TICK_S, config, governed, info, rehearsed, scale, simulation

from boards.clocks import ClockPoint
from governor.demand import load_changed
from governor.hand import KNOBS_TTL_S
from governor.history import FILE
from governor.simulation import SimulatedModel, Simulation
from governor.status import Phase
from governor.trial import Invalid, Violated
from telemetry.durable import read_log

FASTEST = ClockPoint(1_300_500_000, 1_300_500_000, 3_199_000_000, 2_201_600_000, 12)
FIRST = {"gpu_hz": 1_300_500_000.0, "batch": 1.0}


def test_it_tunes_and_holds(tmp_path: Path) -> None:
    """Every point of the budget is tried once; the point held costs less than the fastest and keeps the objective."""
    with governed(simulation(), config(tmp_path)) as device:
        device.until_phase(Phase.HOLDING)
        best = device.status.best
        assert best is not None
        assert device.outcomes.count("feasible") >= 4
        assert len(device.points) == 8 == len({tuple(point.items()) for point in device.points})
        first = device.status.trials[0]
        assert first.point == FIRST
        assert first.energy_j is not None
        assert best.energy_j < 0.95 * first.energy_j
        held = device.world.board.point
        assert held.gpu_hz == held.gpu_min_hz == best.point["gpu_hz"]
        device.run(120)
        assert device.status.phase is Phase.HOLDING
        assert set(device.status.windows) == {("resnet18", "kept")}
        late = [sample.latency_s > SLO_S for sample in device.model.finished[-1000:]]
        assert sum(late) / len(late) < 0.05
        assert set(device.status.faults) <= {"objective"}


def test_closing_gives_everything_back(tmp_path: Path) -> None:
    """After `close` no lease is in force and the model's own batch limit holds at once."""
    world = simulation()
    with governed(world, config(tmp_path)) as device:
        device.until_phase(Phase.MEASURING)
        device.until(lambda: device.model.batch_limit(world.now_s) == 1)
        assert world.board.leased
    assert not world.board.leased
    assert device.model.batch_limit(world.now_s) == device.model.info.max_batch
    assert not device.status.leased


def test_a_governor_that_hangs_holds_nothing(tmp_path: Path) -> None:
    """When the ticks stop, clocks and batch limit are back within their time to live."""
    with rehearsed(simulation(), config(tmp_path, lease_ttl_s=3.0)) as (device, _):
        world = device.world
        device.until(lambda: world.board.point != FASTEST)
        device.until_phase(Phase.MEASURING)
        assert world.board.point != FASTEST
        assert device.model.batch_limit(world.now_s) == 1
        world.step(3.0 + TICK_S)
        assert world.board.point == FASTEST
        assert device.model.batch_limit(world.now_s) == 8
        assert KNOBS_TTL_S < 3.0


def test_a_lost_lease_costs_one_trial(tmp_path: Path) -> None:
    """A lease that clockd takes back in a trial makes it invalid; the governor starts over, its budget untouched."""
    with governed(simulation(), config(tmp_path, trials=4)) as device:
        device.until_phase(Phase.MEASURING)
        device.run(1.0)
        device.world.board.take_back()
        device.until_phase(Phase.WAITING, 2.0)
        assert device.outcomes == ["clockd"]
        assert device.status.faults == {"clockd": 1}
        device.until_phase(Phase.HOLDING)
        assert len(device.outcomes) == 5
        assert set(device.outcomes[1:]) <= {"feasible", "violated"}
        assert device.points[1] == device.points[0]


def test_without_clockd_it_waits(tmp_path: Path) -> None:
    """While nobody answers, nothing is leased, the trial it fell into is invalid, and it goes on once it is back."""
    with governed(simulation(), config(tmp_path, trials=4)) as device:
        device.until_phase(Phase.MEASURING)
        device.world.board.stop()
        device.run(30)
        assert (device.status.phase, device.status.detail) == (Phase.WAITING, "for clockd")
        assert device.outcomes == ["clockd"]
        assert not device.status.leased
        device.world.board.start()
        device.until_phase(Phase.HOLDING)
        assert "feasible" in device.outcomes


def test_clocks_that_are_not_honoured_teach_nothing(tmp_path: Path) -> None:
    """A point whose clocks do not read back is invalid, is tried once more, and never becomes the best."""
    with rehearsed(simulation(), config(tmp_path, knobs=("gpu_hz",), trials=6)) as (device, _):
        device.until(lambda: len(device.outcomes) == 1)
        device.world.board.honours = False
        device.until_phase(Phase.HOLDING)
        invalid = [trial for trial in device.status.trials if trial.outcome == Invalid("clocks")]
        assert len(invalid) >= 4
        assert all(trial.energy_j is None for trial in invalid)
        first, second, third = device.points[1:4]
        assert first == second != third or device.outcomes[2] != "clocks"
        assert device.status.best is None or device.status.best.point["gpu_hz"] == 1_300_500_000.0


def test_a_throttle_event_spoils_only_its_own_trial(tmp_path: Path) -> None:
    """An event inside a trial makes it invalid; one between two trials does not."""
    with governed(simulation(), config(tmp_path, trials=4)) as device:
        device.until_phase(Phase.SETTLING)
        device.world.board.throttle_events += 1
        device.until(lambda: len(device.outcomes) == 1)
        device.until_phase(Phase.MEASURING)
        device.world.board.throttle_events += 1
        device.until(lambda: len(device.outcomes) == 2)
        assert device.outcomes == ["feasible", "throttled"]
        device.until_phase(Phase.HOLDING)
        assert device.points[2] == device.points[1]


@pytest.mark.parametrize("after_s", [0.0, 0.5, 1.0, 2.0])
def test_a_step_of_the_load_is_never_the_points_fault(tmp_path: Path, after_s: float) -> None:
    """A load that triples inside a trial, beyond what the point can serve: the trial is good or `load`."""
    settings = config(tmp_path, knobs=("gpu_hz",), trials=3, trial_s=6.0)
    with governed(simulation(20.0, slo_s=0.2), settings) as device:
        device.model.info = replace(device.model.info, max_batch=1)
        device.until(lambda: len(device.outcomes) == 1)
        device.until_phase(Phase.MEASURING)
        device.run(after_s)
        device.model.offer(60.0)
        device.until(lambda: len(device.outcomes) == 2)
        assert device.outcomes[1] in ("load", "feasible")
        assert after_s > 0.5 or device.outcomes[1] == "load"


def test_what_cannot_keep_up_is_violated_and_drained(tmp_path: Path) -> None:
    """A hopeless point is left before its window ends, is learnt as violated, and the next trial starts drained."""
    with governed(simulation(70.0, slo_s=0.06), config(tmp_path, trials=6, trial_s=30.0)) as device:
        device.until_phase(Phase.HOLDING)
        hopeless = [trial for trial in device.status.trials if trial.outcome == Violated() and trial.window_s < 25.0]
        assert hopeless
        assert all(trial.latency_s is not None and trial.latency_s > 0.06 for trial in hopeless)
        assert device.status.best is not None
        assert device.status.best.latency_s <= 0.06


def test_a_broken_objective_brings_the_fastest_point_within_a_window(tmp_path: Path) -> None:
    """Holding, it judges every window: broken, it holds the fastest point for the cool-down, then another one.

    The point that broke is neither tried nor held for an hour, however good the search thinks it is.
    """
    with rehearsed(simulation(12.0, slo_s=0.052), config(tmp_path, knobs=("gpu_hz",), trials=4)) as (device, _):
        device.until_phase(Phase.HOLDING)
        held = dict(device.status.point)
        assert held == {"gpu_hz": 306_000_000.0}
        scale(device.model, "_s", 2.0)
        took_s = device.until_phase(Phase.COOLING, 60.0)
        assert took_s <= 2 * device.settings.slo_window_s
        assert device.world.board.point == FASTEST
        assert device.status.windows["resnet18", "broken"] >= 1
        assert device.status.faults["objective"] == 1
        scale(device.model, "_s", 0.5)
        assert device.until_phase(Phase.HOLDING, 60.0) >= device.settings.cooldown_s - 2 * TICK_S
        assert device.outcomes[-1] == "violated"
        assert device.points[-1] == held
        assert device.status.point != held
        device.run(300.0)
        assert device.status.phase is Phase.HOLDING
        assert device.status.point != held


def test_failures_alone_break_the_objective(tmp_path: Path) -> None:
    """Requests that fail in no time are late all the same, and the lesson names a latency beyond the limit."""
    with governed(simulation(), config(tmp_path, trials=4)) as device:
        device.until_phase(Phase.HOLDING)
        device.model.failing = True
        device.until_phase(Phase.COOLING, 30.0)
        lesson = device.status.trials[-1]
        assert lesson.outcome == Violated()
        assert lesson.latency_s is not None
        assert lesson.latency_s > SLO_S


def test_an_objective_out_of_reach_gets_the_fastest_point(tmp_path: Path) -> None:
    """No point keeps it: the fastest is held, there is no best, and trying ends early."""
    with governed(simulation(slo_s=0.010), config(tmp_path, trials=30)) as device:
        device.until_phase(Phase.HOLDING)
        assert device.status.best is None
        assert device.world.board.point == FASTEST
        assert {"violated"} <= set(device.outcomes) <= {"violated", "load"}
        assert len(device.outcomes) < 15
        device.run(60)
        assert device.status.phase is Phase.HOLDING
        assert device.status.windows["resnet18", "broken"] > 0


def test_a_restart_resumes(tmp_path: Path) -> None:
    """The next run of the same subject learns from the trials on disk, and goes on with a point of its own."""
    world = simulation()
    with governed(world, config(tmp_path, trials=6)) as device:
        device.until(lambda: len(device.outcomes) == 3)
        before = list(device.points)
    with governed(world, config(tmp_path, trials=6)) as again:
        again.until_phase(Phase.HOLDING)
        assert len(again.outcomes) == 6
        assert again.points[:3] == before
        assert again.points[3] not in before
        assert len(again.status.trials) == 6
    rows = list(read_log(tmp_path / "state" / FILE))
    assert sum(row["kind"] == "subject" for row in rows) == 1


def test_a_fresh_run_forgets_earlier_runs_and_not_its_own_trials(tmp_path: Path) -> None:
    """`fresh` ignores what other runs wrote, also later; trials of the run itself survive its starting over."""
    world = simulation()
    with governed(world, config(tmp_path, trials=3)) as device:
        device.until_phase(Phase.HOLDING)
    with governed(world, config(tmp_path, trials=3, fresh=True)) as fresh:
        fresh.until(lambda: len(fresh.outcomes) == 4)
        assert fresh.points[3] == FIRST
        world.board.take_back()
        fresh.until_phase(Phase.HOLDING)
        assert len(fresh.outcomes) == 6
        assert len(fresh.status.trials) == 3


def test_another_set_of_instances_is_another_subject(tmp_path: Path) -> None:
    """An instance that comes or goes ends what was tuned; with several models, each has its own batch limit."""
    with rehearsed(simulation(), config(tmp_path, trials=3)) as (device, _):
        device.until_phase(Phase.HOLDING)
        device.world.models.append(SimulatedModel(info("bert_mini", slo_s=0.2), 2.0))
        device.until_phase(Phase.WAITING, 1.0)
        assert device.status.detail == "after instances"
        device.until_phase(Phase.HOLDING)
        assert set(device.points[3]) == {"gpu_hz", "batch.resnet18", "batch.bert_mini"}
        assert set(device.status.slos) == {"resnet18", "bert_mini"}
        device.world.models.pop()
        device.until_phase(Phase.WAITING, 1.0)
        device.until_phase(Phase.HOLDING)
        assert len(device.outcomes) == 6
        assert device.status.slos.keys() == {"resnet18"}


def test_models_share_the_clocks_and_have_batch_limits_of_their_own(tmp_path: Path) -> None:
    """Two instances of one model obey its limit; the joules are those of all their requests, idle time included."""
    twins = [SimulatedModel(replace(info("bert_mini", slo_s=0.2), instance=f"bert_mini_0_{n}"), 3.0) for n in (0, 1)]
    world = Simulation([SimulatedModel(info(), 8.0), *twins])
    with rehearsed(world, config(tmp_path, trials=3, trial_s=20.0)) as (device, searches):
        device.until(lambda: len(device.outcomes) == 2)
        device.until_phase(Phase.MEASURING)
        point = device.status.point
        limits = [model.batch_limit(world.now_s) for model in world.models]
        assert limits == [point["batch.resnet18"], point["batch.bert_mini"], point["batch.bert_mini"]]
        joules, requests = world.energy_j, sum(len(model.finished) for model in world.models)
        device.until(lambda: len(device.outcomes) == 3)
        served = sum(len(model.finished) for model in world.models) - requests
        told = device.status.trials[-1].energy_j
        assert told == pytest.approx((world.energy_j - joules) / served, rel=0.1)
        assert set(searches[-1].knobs) == {"gpu_hz", "batch.resnet18", "batch.bert_mini"}


def test_an_instance_that_leaves_while_it_waits_is_forgotten(tmp_path: Path) -> None:
    """A model that served and went before tuning began is no part of the subject, and no fault."""
    world = Simulation([SimulatedModel(info(), 12.0), SimulatedModel(info("bert_mini"), 12.0)])
    world.board.stop()
    with governed(world, config(tmp_path, trials=2)) as device:
        device.run(5.0)
        world.models.pop()
        world.board.start()
        device.until_phase(Phase.MEASURING, 5.0)
        assert not device.status.faults


def test_a_refused_lease_is_counted_and_asked_for_again(tmp_path: Path) -> None:
    """A refusal is counted by its reason, the history does not grow with every try, and it goes on once granted."""
    with governed(simulation(), config(tmp_path, trials=2)) as device:
        device.world.board.refusal = "busy"
        device.run(60)
        assert device.status.refusals["busy"] > 10
        assert not device.status.leased
        assert len(list(read_log(tmp_path / "state" / FILE))) == 1
        device.world.board.refusal = ""
        device.until_phase(Phase.HOLDING)


@pytest.mark.parametrize("what", ["an idle model", "a model without an objective", "no model"])
def test_with_nothing_to_learn_from_it_takes_no_lease(tmp_path: Path, what: str) -> None:
    """It says what it waits for, and leaves the clocks alone."""
    models = {
        "an idle model": [SimulatedModel(info(), 0.0)],
        "a model without an objective": [SimulatedModel(info(slo_s=0.0), 12.0)],
        "no model": [],
    }
    with governed(Simulation(models[what]), config(tmp_path)) as device:
        device.run(10)
        assert device.status.phase is Phase.WAITING
        assert device.status.detail == (
            "for 30 requests" if "idle" in what else "for a model with an objective (slo_ms)"
        )
        assert not device.world.board.leased


def test_traffic_that_stops_makes_the_trial_idle(tmp_path: Path) -> None:
    """A window without requests is invalid, not free of charge."""
    with governed(simulation(), config(tmp_path, trials=3)) as device:
        device.until(lambda: len(device.outcomes) == 1)
        device.model.offer(0.0)
        device.until_phase(Phase.HOLDING)
        assert set(device.outcomes[2:]) <= {"idle", "load"}


def test_a_history_that_cannot_be_written_does_not_end_it(tmp_path: Path) -> None:
    """A state directory that is none is a counted fault; nothing is leased, and it goes on once it is mended."""
    (tmp_path / "state").write_text("in the way")
    with governed(simulation(), config(tmp_path, trials=2)) as device:
        device.run(20)
        assert device.status.faults["tick"] > 2
        assert not device.world.board.leased
        (tmp_path / "state").unlink()
        device.until_phase(Phase.HOLDING)


@pytest.mark.parametrize(
    ("usual_hz", "seen", "span_s", "changed"),
    [(10.0, 100, 10.0, False), (10.0, 300, 10.0, True), (10.0, 30, 10.0, True), (10.0, 138, 10.0, False),
     (1.0, 12, 5.0, False), (1000.0, 7000, 6.0, False), (1000.0, 7300, 6.0, True)],
)  # fmt: skip
def test_only_more_than_luck_and_a_fifth_is_a_change(usual_hz: float, seen: int, span_s: float, changed: bool) -> None:
    """Four deviations of a Poisson count and a fifth of the load must both be exceeded."""
    assert load_changed(usual_hz, seen, span_s) is changed
