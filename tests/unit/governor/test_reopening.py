# SPDX-License-Identifier: Apache-2.0
"""A hold ends when the world has changed: the search is opened again with what was learnt as its prior."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from device import TICK_S, Device, config, info, rehearsed, scale, simulation

from governor.drift import ENERGY_REQUESTS, Drift, Look
from governor.history import FILE
from governor.in_turn import InTurn
from governor.simulation import SimulatedModel
from governor.status import Phase
from governor.subjects import read_subjects
from governor.surface_store import SurfaceStore

LOAD_HZ = {"m": 12.0}


def look(offered: int = 120, celsius: float | None = 45.0, energy_j: float = 120.0, requests: int = 120) -> Look:
    return Look(10.0, {"m": offered}, celsius, energy_j, requests)


def reopenings(device: Device) -> list[str]:
    return [entry.why for log in read_subjects(device.settings.state_dir / FILE) for entry in log.reopenings]


@pytest.mark.parametrize(
    ("changed", "why"),
    [(look(240), "load"), (look(30), "load"), (look(celsius=61.0), "temperature"), (look(celsius=29.0), "temperature"),
     (look(150), ""), (look(celsius=59.0), ""), (look(celsius=None), "")],
)  # fmt: skip
def test_two_windows_in_a_row_make_a_change(changed: Look, why: str) -> None:
    """One alone is luck; what passes again begins the count anew."""
    drift = Drift(LOAD_HZ, 45.0)
    assert [drift.changed(each) for each in (changed, look(), changed, changed)] == ["", "", "", why]


def test_more_than_a_fifth_more_is_a_crowd_be_it_by_luck() -> None:
    """So that no point is blamed for what the load may have done."""
    drift = Drift(LOAD_HZ, 45.0)
    assert [drift.crowded(look(offered)) for offered in (100, 143, 145, 300)] == [False, False, True, True]
    assert not drift.load_differs(look(145))
    assert drift.crowded(Look(0.5, {"m": 8}))
    assert not drift.crowded(Look(0.5, {"m": 8}).after(look(110)))


def test_nobody_asking_is_no_change() -> None:
    """There is nothing to measure then; a model whose load nobody knew is not compared."""
    drift = Drift(LOAD_HZ, 45.0)
    assert [drift.changed(look(0, 80.0)) for _ in range(5)] == [""] * 5
    assert not drift.load_differs(Look(10.0, {"new": 500}))


def test_the_price_of_a_request_is_that_of_the_holds_own_beginning() -> None:
    """Looked at over so many requests that luck in their number explains no change; lasting means twice."""
    drift, said = Drift(LOAD_HZ, 45.0), []
    per_look = ENERGY_REQUESTS // 120 + 1
    for price_j in (1.0, 1.1, 0.9, 1.2, 1.0, 1.2, 1.2):
        said += [drift.changed(look(energy_j=120 * price_j)) for _ in range(per_look)]
    assert [why for why in said if why] == ["energy"]
    assert said[-1] == "energy"


def test_without_the_trials_temperature_the_holds_first_counts() -> None:
    """A run that resumes and holds at once has measured none."""
    drift = Drift(LOAD_HZ, None)
    assert [drift.changed(look(celsius=celsius)) for celsius in (50.0, 64.0, 66.0, 66.0)] == ["", "", "", "temperature"]


def test_a_lasting_change_of_load_opens_the_search_again(tmp_path: Path) -> None:
    """The trials are a prior now, judged at the new load; a third of the budget is granted, and the reason is kept."""
    settings = config(tmp_path, knobs=("gpu_hz", "emc_hz"), trials=30)
    with rehearsed(simulation(6.0, slo_s=0.08), settings) as (device, searches):
        device.until_phase(Phase.HOLDING)
        tried, held = len(device.outcomes), dict(device.status.point)
        assert tried == 12
        device.model.offer(14.0)
        took_s = device.until(lambda: len(searches) == 2, 120.0)
        assert took_s <= 4 * settings.slo_window_s
        assert device.status.point == held
        assert reopenings(device) == ["load"]
        prior = searches[1].prior
        (before,) = [table for table in prior if table["name"] == "before a change of load"]
        assert len(before["gpu_hz"]) == tried
        kept = [trial for trial in device.status.trials[:tried] if trial.energy_j is not None]
        assert before["energy_j"] == [trial.energy_j for trial in kept]
        assert min(before["energy_j"]) < 0.8 * min(entry[2] for entry in searches[0].told)
        device.until_phase(Phase.HOLDING)
        assert len(device.outcomes) == tried + 10
        assert len(searches[1].told) == len(
            [word for word in device.outcomes[tried:] if word in ("feasible", "violated")]
        )
        assert not device.status.faults["tick"]


def test_a_burst_is_none(tmp_path: Path) -> None:
    """A load that is back within a window opens nothing."""
    with rehearsed(simulation(6.0, slo_s=0.08), config(tmp_path, trials=3)) as (device, searches):
        device.until_phase(Phase.HOLDING)
        device.model.offer(14.0)
        device.run(8.0)
        device.model.offer(6.0)
        device.run(60.0)
        assert (device.status.phase, len(searches)) == (Phase.HOLDING, 1)


def test_heat_and_price_open_the_search_again_and_not_too_often(tmp_path: Path) -> None:
    """Each for its own reason; after one, the next waits for `reopen_s`."""
    settings = config(tmp_path, trials=3, reopen_s=300.0)
    with rehearsed(simulation(), settings) as (device, _):
        device.until_phase(Phase.HOLDING)
        device.world.board.celsius = 62.0
        began_s = device.world.now_s
        device.until(lambda: reopenings(device) == ["temperature"], 40.0)
        device.until_phase(Phase.HOLDING)
        device.run(70.0)
        scale(device.model, "_w", 4.0)
        device.until(lambda: len(reopenings(device)) == 2, 600.0)
        assert reopenings(device)[1] == "energy"
        assert device.world.now_s - began_s >= settings.reopen_s
        assert device.until_phase(Phase.HOLDING) > 0


def test_a_load_that_breaks_the_promise_is_to_blame_itself(tmp_path: Path) -> None:
    """The point is left for the fastest one and is not avoided; then the search is opened again at the new load."""
    with rehearsed(simulation(12.0, slo_s=0.052), config(tmp_path, knobs=("gpu_hz",), trials=4)) as (device, searches):
        device.until_phase(Phase.HOLDING)
        held = dict(device.status.point)
        device.model.offer(45.0)
        device.until_phase(Phase.COOLING, 30.0)
        assert device.world.board.point.gpu_hz == 1_300_500_000
        assert device.outcomes[-1] == "load"
        assert device.status.faults["load"] == 1
        assert not device.status.faults["objective"]
        device.until(lambda: len(searches) == 2, 60.0)
        assert reopenings(device) == ["load"]
        course = device.governor._course
        assert course is not None
        assert not course.tuning.lessons.avoided(held, device.world.now_s)


def test_a_restart_under_another_load_learns_from_the_trials_as_a_prior(tmp_path: Path) -> None:
    """They cost the new run nothing of its budget, and are not told as if the load were the same."""
    settings = config(tmp_path, trials=3)
    with rehearsed(simulation(6.0, slo_s=0.08), settings) as (device, _):
        device.until_phase(Phase.HOLDING)
    with rehearsed(simulation(30.0, slo_s=0.08), settings) as (device, searches):
        device.until_phase(Phase.HOLDING)
        assert len(device.outcomes) == 6
        names = [table["name"] for table in searches[-1].prior]
        assert names[0] == "before a change of load"
        assert len(searches[-1].told) == len([word for word in device.outcomes[3:] if word != "load"])


def test_a_restart_after_a_reopening_keeps_the_eras_apart(tmp_path: Path) -> None:
    """Trials before it stay a prior, and the budget stays the small one."""
    settings = config(tmp_path, trials=21)
    world = simulation()
    with rehearsed(world, settings) as (device, searches):
        device.until_phase(Phase.HOLDING)
        before, tried = len(searches[0].told), len(device.outcomes)
        device.world.board.celsius = 70.0
        device.until(lambda: len(searches) == 2)
        device.until(lambda: len(searches[1].told) == 2)
    with rehearsed(world, settings) as (device, searches):
        device.until_phase(Phase.HOLDING)
        (table,) = [table for table in searches[-1].prior if table["name"] == "before a change of temperature"]
        assert len(table["energy_j"]) == before
        measured = [word for word in device.outcomes[tried:] if word in ("feasible", "violated")]
        assert len(measured) == len(searches[-1].told) <= 7 <= len(device.outcomes) - tried


def test_a_new_version_keeps_the_point_and_what_was_learnt(tmp_path: Path) -> None:
    """Other weights, the same network: the hold goes on, also after a restart; the history has both as subjects."""
    settings = config(tmp_path, trials=3)
    world = simulation()
    with rehearsed(world, settings) as (device, searches):
        device.until_phase(Phase.HOLDING)
        held = dict(device.status.point)
        device.model.info = replace(device.model.info, version="2")
        device.run(60.0)
        assert device.status.phase is Phase.HOLDING
        assert device.status.point == held
        assert not device.status.faults
        assert (len(device.outcomes), len(searches)) == (3, 1)
    with rehearsed(world, settings) as (device, searches):
        device.until_phase(Phase.HOLDING)
        assert len(device.outcomes) == 3
        assert {log.subject.versions for log in read_subjects(tmp_path / "state" / FILE)} == {("1",), ("2",)}


def test_a_new_version_within_a_trial_costs_that_trial(tmp_path: Path) -> None:
    """Its counters are another process's."""
    with rehearsed(simulation(), config(tmp_path, trials=3)) as (device, searches):
        device.until_phase(Phase.MEASURING)
        device.run(1.0)
        device.model.info = replace(device.model.info, version="2")
        device.until_phase(Phase.HOLDING)
        assert device.outcomes == ["version", *["feasible"] * 2]
        assert len(searches) == 1


def test_a_version_that_costs_another_price_is_noticed(tmp_path: Path) -> None:
    """Drift watches over a point that was kept."""
    with rehearsed(simulation(), config(tmp_path, trials=3)) as (device, searches):
        device.until_phase(Phase.HOLDING)
        device.run(120.0)
        device.model.info = replace(device.model.info, version="2")
        scale(device.model, "_w", 4.0)
        device.until(lambda: len(searches) == 2, 1800.0)


def test_a_model_that_is_served_otherwise_is_tuned_anew(tmp_path: Path) -> None:
    """With another batch size, say: nothing is told, the old surface is the prior."""
    with rehearsed(simulation(), config(tmp_path, trials=3)) as (device, searches):
        device.until_phase(Phase.HOLDING)
        device.model.info = replace(device.model.info, version="2", max_batch=4)
        device.until_phase(Phase.WAITING, 1.0)
        assert device.status.detail == "after version"
        device.until_phase(Phase.HOLDING)
        assert len(device.outcomes) == 6
        assert len(searches) == 2
        assert len(searches[1].prior[0]["energy_j"]) == 3


def test_what_one_model_measured_is_the_prior_of_the_next(tmp_path: Path) -> None:
    """Kept when a point is held, on disk, by board; `fresh` does without."""
    settings = config(tmp_path, trials=3)
    with rehearsed(simulation(), settings) as (device, searches):
        device.until_phase(Phase.HOLDING)
        assert not searches[0].prior
        (kept,) = SurfaceStore(settings.state_dir).surfaces()
        assert list(kept.columns["energy_j"]) == [trial.energy_j for trial in device.status.trials]
        assert (kept.board, kept.models, kept.slo_s) == ("virtual:simulated", ("resnet18",), 0.038)
        assert kept.rate_hz == pytest.approx(12.0, rel=0.3)
    world = simulation()
    world.models[0].info = replace(world.models[0].info, model="other", instance="other_0_0")
    for fresh in (False, True):
        with rehearsed(world, replace(settings, fresh=fresh)) as (device, searches):
            device.until(lambda searches=searches: searches)  # type: ignore[misc]
            assert [len(table["energy_j"]) for table in searches[0].prior] == ([] if fresh else [3])


def test_a_search_to_which_the_load_matters_is_told_it(tmp_path: Path) -> None:
    """Of all models together, and again as it is known better."""
    told: list[float] = []

    class Loaded(InTurn):
        @property
        def rate_hz(self) -> float | None:
            return told[-1] if told else None

        @rate_hz.setter
        def rate_hz(self, rate_hz: float | None) -> None:
            told.append(rate_hz or 0.0)

    world = simulation(8.0)
    world.models.append(SimulatedModel(info("bert_mini", slo_s=0.2), 4.0))
    device = Device(world, config(tmp_path, trials=6), Loaded)
    device.until_phase(Phase.HOLDING)
    assert len(set(told)) >= 2
    assert told[-1] == pytest.approx(12.0, rel=0.25)
    device.governor.close()


def test_a_store_that_cannot_be_used_stops_nothing(tmp_path: Path) -> None:
    """It is a counted fault."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "surfaces").write_text("in the way")
    with rehearsed(simulation(), config(tmp_path, trials=2)) as (device, _):
        device.until_phase(Phase.HOLDING)
        assert device.status.faults["surface"] == 1
        assert not device.status.faults["tick"]


def test_a_prior_that_the_search_cannot_take_is_left_out(tmp_path: Path) -> None:
    """Somebody else may have written it: the search begins without."""
    settings = config(tmp_path, trials=2)
    with rehearsed(simulation(), settings) as (device, _):
        device.until_phase(Phase.HOLDING)

    class Picky(InTurn):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            if self.prior:
                raise ValueError("not this one")

    world = simulation()
    world.models[0].info = replace(world.models[0].info, model="other", instance="other_0_0")
    device = Device(world, settings, Picky)
    device.until_phase(Phase.HOLDING)
    assert not device.status.faults["fit"]
    device.run(TICK_S)
    device.governor.close()
