# SPDX-License-Identifier: Apache-2.0
"""Points that break the objective, searches that fail or insist, objectives out of reach; time is virtual."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from device import TICK_S, Device, config, governed, info, scale, simulation

from governor.allowance import Allowance
from governor.errors import Infeasible
from governor.guard import Slo
from governor.in_turn import InTurn
from governor.lessons import AVOIDED_S, Lesson, Lessons, load_of, table_of
from governor.loop import Governor
from governor.points import Best, Point
from governor.reader import InstanceView
from governor.status import Phase
from governor.trial import Feasible, Invalid, TrialRecord, Violated
from telemetry.instance_page import Sample, Status

FASTEST, SLOWEST = {"gpu_hz": 1_300_500_000.0, "batch": 1.0}, {"gpu_hz": 306_000_000.0, "batch": 8.0}


class Scripted(InTurn):
    """Proposes what it is told to, then points in turn."""

    script: list[Point | Callable[[], Point | None]]

    def ask(self) -> Point | None:
        if not self.script:
            return super().ask()
        step = self.script.pop(0)
        return step() if callable(step) else dict(step)


def scripted(*steps: Point | Callable[[], Point | None]) -> type[Scripted]:
    return type("Script", (Scripted,), {"script": list(steps)})


def failing() -> Point:
    raise ArithmeticError("not positive definite")


def hopeless() -> Point:
    raise Infeasible(0.05, 0.010)


def tight(folder: Path, make: type[InTurn], **settings: object) -> Device:
    """A device whose slowest clocks cannot keep the objective."""
    return Device(simulation(), config(folder, **settings), make)


def test_a_point_that_broke_the_objective_is_not_tried_again(tmp_path: Path) -> None:
    """Within the hour, however often the search proposes it: it is asked again; nor after a restart."""
    device = tight(tmp_path, scripted(SLOWEST, FASTEST, SLOWEST, SLOWEST), trials=4)
    device.until_phase(Phase.HOLDING)
    assert device.outcomes[0] == "violated"
    assert device.points.count(SLOWEST) == 1
    assert device.status.faults["objective"] == device.outcomes.count("violated")
    device.governor.close()
    again = Device(device.world, replace(device.settings, trials=6), scripted(SLOWEST))
    again.until_phase(Phase.HOLDING)
    assert again.points.count(SLOWEST) == 1
    again.governor.close()


def test_after_a_breach_the_fastest_point_is_held_until_a_whole_window_was_kept(tmp_path: Path) -> None:
    """At once, and for two windows: one lies within them whoever counts, so that breaches do not run together."""
    device = tight(tmp_path, scripted(SLOWEST, {"gpu_hz": 918e6, "batch": 4.0}), trials=2)
    device.until(lambda: device.outcomes == ["violated"])
    assert device.world.board.point.gpu_hz == 1_300_500_000
    assert device.status.phase is Phase.COOLING
    assert device.until_phase(Phase.SETTLING) >= 2 * device.settings.slo_window_s - 2 * TICK_S
    device.governor.close()


@pytest.mark.parametrize("rate_hz", [3.0, 12.0], ids=["fell", "steady"])
def test_blame_is_taken_back_once_the_load_turns_out_to_have_changed(tmp_path: Path, rate_hz: float) -> None:
    """A trial that breaks the objective is over too soon to tell; under the same load the blame stands."""
    device = tight(tmp_path, scripted(FASTEST, SLOWEST, SLOWEST, FASTEST, SLOWEST), trials=3)
    device.until(lambda: device.outcomes[1:] == ["violated"])
    device.model.offer(rate_hz)
    device.until(lambda: len(device.outcomes) > 2)
    fell = rate_hz < 12.0
    assert device.status.trials[1].outcome == (Invalid("load") if fell else Violated())
    assert device.status.faults["load"] == (1 if fell else 0)
    assert device.points[2] == (SLOWEST if fell else FASTEST)
    device.governor.close()


def test_a_search_that_insists_is_asked_again_later(tmp_path: Path) -> None:
    """Meanwhile the best point is held, and that is no end of the tuning."""
    device = tight(tmp_path, scripted(FASTEST, SLOWEST, *[SLOWEST] * 5, {"gpu_hz": 918e6, "batch": 4.0}), trials=3)
    device.until_phase(Phase.HOLDING)
    assert (device.status.paused, len(device.outcomes)) == (True, 2)
    assert device.status.point == FASTEST
    assert device.until(lambda: len(device.outcomes) == 3) >= 280.0
    device.until_phase(Phase.HOLDING)
    assert not device.status.paused
    device.governor.close()


class Sure(Scripted):
    """Thinks the slowest point the best whatever it is told."""

    def best(self) -> Best | None:
        return Best(SLOWEST, 0.1, 0.01, 1.0)


def test_a_point_that_broke_the_objective_is_not_held(tmp_path: Path) -> None:
    """The cheapest trial that kept it is, even if the search is sure of another."""
    device = tight(tmp_path, type("Script", (Sure,), {"script": [FASTEST, SLOWEST]}), trials=2)
    device.until_phase(Phase.HOLDING)
    assert device.status.point == FASTEST
    assert device.status.best is not None
    assert device.status.best.energy_j == device.status.trials[0].energy_j
    device.governor.close()


@pytest.mark.parametrize("strange", [{"gpu_hz": 5.0, "batch": 1.0}, {"gpu_hz": 306e6}, {"volts": 1.0}, {}], ids=str)
def test_points_off_the_table_are_not_asked_for(tmp_path: Path, strange: Point) -> None:
    """That is counted, the search is asked again, and the course goes on."""
    device = tight(tmp_path, scripted(strange, FASTEST, strange), trials=3)
    device.until_phase(Phase.HOLDING)
    assert strange not in device.points
    assert len(device.outcomes) == 3
    assert device.status.faults["search"] == 2
    assert not device.status.faults["tick"]
    device.governor.close()


def test_the_same_point_over_and_over_is_a_repetition(tmp_path: Path) -> None:
    """It costs its trials and nothing else."""
    device = tight(tmp_path, scripted(*[FASTEST] * 4), trials=4)
    device.until_phase(Phase.HOLDING)
    assert device.points == [FASTEST] * 4
    device.governor.close()


@pytest.mark.parametrize("error", [failing, lambda: [][1]], ids=["fit", "bug"])
def test_a_search_that_fails_keeps_what_is_held(tmp_path: Path, error: Callable[[], Point]) -> None:
    """Counted, no clock is changed, and after the cool-down it thinks again: the tuning goes on where it was."""
    device = tight(tmp_path, scripted(FASTEST, error, error), trials=3)
    device.until(lambda: device.outcomes)
    writes = device.world.board.writes
    for count in (1, 2):
        device.until(lambda count=count: device.status.faults["fit"] == count, 40.0)  # type: ignore[misc]
        assert (device.status.phase, device.status.point) == (Phase.COOLING, FASTEST)
        device.run(device.settings.cooldown_s - 1.0)
        assert device.world.board.writes == writes
    device.until_phase(Phase.HOLDING)
    assert len(device.outcomes) == 3
    assert set(device.status.faults) <= {"fit", "objective"}
    device.governor.close()


def test_a_search_that_cannot_be_made_leaves_the_clocks_alone(tmp_path: Path) -> None:
    """It is tried again after each cool-down."""

    class Never(InTurn):
        def __init__(self, *_: object) -> None:
            raise RuntimeError("no")

    device = Device(simulation(), config(tmp_path), Never)
    device.run(50.0)
    assert device.status.faults["fit"] == 3
    assert device.world.board.writes == 0
    assert not device.status.faults["tick"]
    device.governor.close()


def test_a_late_thought_is_counted_and_what_is_kept_is_judged(tmp_path: Path) -> None:
    """Ticks go on, the clocks stay, and a point that breaks its promise meanwhile is left for the fastest one."""
    thought = threading.Event()

    class Slow(InTurn):
        def ask(self) -> dict[str, float] | None:
            if len(self.told) == 1:
                thought.wait(240)
            return {"gpu_hz": 612e6, "batch": 8.0} if not self.told else super().ask()

    world, settings = simulation(), config(tmp_path, trials=2)
    with ThreadPoolExecutor(1) as executor:
        governor = Governor(settings, world.board, world, world.clock, executor, Slow)

        def live(seconds: float) -> None:
            until_s = world.now_s + seconds
            while world.now_s < until_s:
                world.step(TICK_S)
                governor.tick()

        deadline_s = world.now_s + 300.0
        while not governor.status.trials and world.now_s < deadline_s:
            live(TICK_S)
        writes, late = world.board.writes, governor.status.faults["fit"]
        live(3.0)
        assert governor.status.faults["fit"] == late + 1
        assert (governor.status.phase, world.board.writes) == (Phase.PROPOSING, writes)
        scale(world.models[0], "_s", 2.0)
        live(2 * settings.slo_window_s)
        assert world.board.point.gpu_hz == 1_300_500_000
        assert governor.status.faults == {"fit": late + 1, "objective": 1}
        assert governor.status.phase is Phase.COOLING
        thought.set()
        executor.submit(lambda: None).result()
        governor.tick()
        governor.close()


@pytest.mark.parametrize("settings", [{"trials": 30}, {"trials": 3}], ids=["search says", "trials spent"])
def test_an_objective_that_nothing_meets_gets_a_verdict(tmp_path: Path, settings: dict[str, int]) -> None:
    """It names the objective and the best latency seen; the fastest point is held."""
    make = scripted(FASTEST, SLOWEST, hopeless) if settings["trials"] == 30 else InTurn
    device = Device(simulation(slo_s=0.010), config(tmp_path, **settings), make)
    device.until_phase(Phase.HOLDING)
    assert device.status.best is None
    assert "0.0100 s is out of reach" in device.status.verdict
    assert not device.status.paused
    assert device.world.board.point.gpu_hz == 1_300_500_000
    device.governor.close()


def test_knobs_of_one_value_are_tuned_too(tmp_path: Path) -> None:
    """With the product's search: one point, tried and held."""
    world = simulation()
    world.models[0].info = info(max_batch=1)
    with governed(world, config(tmp_path, knobs=("batch",), trials=2, regret=0.01)) as device:
        device.until_phase(Phase.HOLDING)
        assert device.status.best is not None
        assert device.status.best.point == {"batch": 1.0}
        assert not device.status.faults


def test_figures_that_are_none_make_a_trial_invalid(tmp_path: Path) -> None:
    """NaN, infinity and zero reach neither the search nor the log's figures."""
    with governed(simulation(), config(tmp_path, trials=2), InTurn) as device:
        device.until_phase(Phase.MEASURING)
        course = device.governor._course
        assert course is not None
        for figure in (math.nan, math.inf, 0.0, -1.0):
            for energy_j, latency_s in ((figure, 0.02), (1.0, figure)):
                written = course.tuning.finish(TrialRecord(FASTEST, Feasible(), energy_j, latency_s), 5.0)
                assert written.outcome == Invalid("figures")
        assert course.tuning.history.trials()[-8:] == [TrialRecord(FASTEST, Invalid("figures"))] * 8


def view(instance: str, late: int, total: int) -> InstanceView:
    samples = tuple(Sample(0, 0, round(1e9 * (0.1 if n < late else 0.01)), 1, Status.OK) for n in range(total))
    one = replace(info(), instance=instance)
    return InstanceView(one, samples, 0, 0, 0, 0, total, None)


def test_exploring_waits_once_its_share_of_broken_windows_is_used_up() -> None:
    """One window may always be broken; what breaks at the fastest point is not exploring's doing."""
    allowance = Allowance({"a": Slo(0.95, 0.05), "b": Slo(0.95, 0.05)}, 0.1, 0.0)
    now_s = 0.0

    def window(late: int, *, exploring: bool) -> float:
        nonlocal now_s
        allowance.add([view("a", 0, 100), view("b", late, 100)], now_s + 1.0, exploring=exploring)
        now_s += 10.0
        allowance.add([], now_s, exploring=False)
        return allowance.wait_s

    assert window(50, exploring=False) == 0.0
    assert window(5, exploring=True) == 0.0
    assert window(50, exploring=True) == 0.0
    assert (allowance.windows, allowance.broken) == (3, 1)
    assert window(50, exploring=True) == pytest.approx(160.0)
    waits_s = [window(0, exploring=False) for _ in range(16)]
    assert waits_s == sorted(waits_s, reverse=True)
    assert waits_s[-1] == 0.0


def test_beyond_its_share_the_best_point_is_held_for_a_while(tmp_path: Path) -> None:
    """Not the end of the tuning: it says so, and goes on with the very point that it had in mind."""
    wanted = {"gpu_hz": 918e6, "batch": 4.0}
    device = tight(tmp_path, scripted(FASTEST, {"gpu_hz": 612e6, "batch": 4.0}, wanted), trials=3, breach_share=0.1)
    device.until(lambda: len(device.outcomes) == 1)
    course = device.governor._course
    assert course is not None
    course._allowance.broken = 2
    device.until_phase(Phase.HOLDING)
    assert (device.status.paused, device.status.point, len(device.outcomes)) == (True, FASTEST, 1)
    assert device.status.detail
    assert device.until(lambda: len(device.outcomes) > 1, 300.0) > 100.0
    assert device.points[1] == {"gpu_hz": 612e6, "batch": 4.0}
    device.until_phase(Phase.HOLDING)
    assert not device.status.paused
    assert device.points[2] == wanted
    device.governor.close()


def test_an_avoided_point_may_be_tried_again_after_an_hour() -> None:
    """A retraction takes the blame back; what another boot wrote down says nothing about now."""
    lessons = Lessons()
    lessons.add(Lesson(TrialRecord(SLOWEST, Violated(), 1.0, 0.1), 100.0, {}))
    assert lessons.avoided(SLOWEST, 200.0)
    assert not lessons.avoided(FASTEST, 200.0)
    assert not lessons.avoided(SLOWEST, 100.0 + AVOIDED_S)
    assert not lessons.avoided(SLOWEST, 50.0)
    lessons.retract("throttled")
    assert not lessons.avoided(SLOWEST, 200.0)
    assert lessons.cheapest(200.0) is None


def test_tables_hold_what_was_measured() -> None:
    """Invalid trials and knobs that some trials lack are left out; a load needs two arrivals."""
    rows = [
        TrialRecord({"gpu_hz": 1.0, "emc_hz": 2.0}, Feasible(), 1.0, 0.1),
        TrialRecord({"gpu_hz": 3.0}, Violated(), 2.0, 0.2),
        TrialRecord({"gpu_hz": 5.0}, Invalid("load")),
    ]
    table = {"gpu_hz": [1.0, 3.0], "latency_s": [0.1, 0.2], "energy_j": [1.0, 2.0], "name": "x"}
    assert table_of(rows, "x") == table
    assert table_of(rows[2:]) == {}
    assert load_of({"a": (1.0, 2.0, 3.0), "b": (1.0,), "c": ()}) == {"a": 1.0}
