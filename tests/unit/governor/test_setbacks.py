# SPDX-License-Identifier: Apache-2.0
"""What the governor does when the board refuses, ignores, hides or loses what it needs; time is virtual throughout."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from device import TICK_S, config, rehearsed, simulation

from boards.clocks import KNOBS, ClockPoint
from governor.errors import LeaseRefused
from governor.in_turn import InTurn
from governor.loop import Governor
from governor.setbacks import LONGEST_S, Backoff
from governor.simulated_board import TABLE
from governor.status import Phase
from governor.trial import Invalid

FASTEST = TABLE.maximum()
CAUSES = ["denied", "busy", "missing", "refused"]


@pytest.mark.parametrize("cause", CAUSES)
def test_a_knob_that_fails_three_times_leaves_the_search(tmp_path: Path, cause: str) -> None:
    """Three invalid trials that say why, all told trials kept where they fit, and the rest is tuned to the end."""
    with rehearsed(simulation(), config(tmp_path, knobs=("gpu_hz", "emc_hz"), trials=14)) as (device, searches):
        device.until(lambda: len(device.outcomes) == 2)
        device.world.board.failing = {"emc_hz": cause}
        device.until(lambda: len(searches) == 2)
        assert device.outcomes[2:] == [cause] * 3
        assert device.status.left_out == {"emc_hz": cause}
        assert device.status.failures[cause, "emc_hz"] >= 3
        told, kept = searches
        assert set(kept.knobs) == {"gpu_hz"}
        assert [point["emc_hz"] for point, _, _ in told.told] == [3_199_000_000.0, 2_133_000_000.0]
        assert [(point, energy_j) for point, _, energy_j in kept.told] == [
            ({"gpu_hz": 1_300_500_000.0}, pytest.approx(told.told[0][2], rel=0.02))
        ]
        device.until_phase(Phase.HOLDING)
        assert device.world.board.leased
        assert set(device.status.point) == {"gpu_hz"}
        assert not device.status.faults["tick"] + device.status.faults["clockd"]


def test_until_it_leaves_the_clocks_are_free_or_fastest(tmp_path: Path) -> None:
    """A request that failed leaves nothing half-way: clockd has put all back, and only what is granted is leased."""
    with rehearsed(simulation(), config(tmp_path, knobs=("gpu_hz", "emc_hz"))) as (device, searches):
        device.until(lambda: len(device.outcomes) == 1)
        device.world.board.failing = {"emc_hz": "denied"}
        device.until(lambda: len(device.outcomes) == 2)
        assert not device.world.board.leased
        assert device.world.board.point == FASTEST
        assert not device.status.leased
        assert len(searches) == 1


def test_the_lower_limit_alone_is_no_loss(tmp_path: Path) -> None:
    """Where only the GPU's lower limit cannot be set, the search goes on over the same points without pinning it."""
    with rehearsed(simulation(), config(tmp_path, trials=6)) as (device, searches):
        device.world.board.failing = {"gpu_min_hz": "denied"}
        device.until_phase(Phase.HOLDING)
        assert device.status.left_out == {"gpu_min_hz": "denied"}
        assert [set(search.knobs) for search in searches] == [{"gpu_hz", "batch"}] * 2
        assert device.outcomes.count("feasible") >= 2


def test_failures_that_are_not_in_a_row_keep_the_knob(tmp_path: Path) -> None:
    """A request that goes through in between begins the count anew."""
    with rehearsed(simulation(), config(tmp_path, trials=9)) as (device, _):
        for _ in range(3):
            device.world.board.failing = {"gpu_hz": "busy"}
            count = len(device.outcomes)
            device.until(lambda count=count: len(device.outcomes) == count + 2)  # type: ignore[misc]
            device.world.board.failing = {}
            device.until(lambda: device.outcomes[-1] == "feasible")
        assert not device.status.left_out


def test_without_any_clock_knob_the_batch_limit_is_tuned(tmp_path: Path) -> None:
    """No lease is taken for it."""
    with rehearsed(simulation(), config(tmp_path, trials=12)) as (device, searches):
        device.world.board.failing = dict.fromkeys(KNOBS, "denied")
        device.until_phase(Phase.HOLDING)
        assert set(searches[-1].knobs) == {"batch"}
        assert not device.world.board.leased
        assert device.outcomes.count("feasible") >= 2
        assert device.model.batch_limit(device.world.now_s) == device.status.point["batch"]


def test_without_any_knob_it_guards(tmp_path: Path) -> None:
    """Windows are judged, nothing is leased, and it neither ends nor spins."""
    with rehearsed(simulation(), config(tmp_path, knobs=("gpu_hz",), trials=12)) as (device, _):
        device.world.board.failing = dict.fromkeys(KNOBS, "denied")
        device.until_phase(Phase.HOLDING)
        asked = device.world.board.writes
        device.run(60)
        assert device.status.windows["resnet18", "kept"] >= 4
        assert device.world.board.writes == asked
        assert device.status.point == {}


def test_a_knob_that_vanished_leaves_and_comes_back(tmp_path: Path) -> None:
    """Its values are not offered any more: out at once; when they are again, tuning begins anew with them."""
    with rehearsed(simulation(), config(tmp_path, knobs=("gpu_hz", "emc_hz"), trials=7)) as (device, searches):
        device.until(lambda: len(device.outcomes) == 2)
        device.world.board.vanished = {"emc_hz"}
        device.until_phase(Phase.HOLDING)
        assert device.outcomes.count("missing") == 1
        assert device.status.left_out == {"emc_hz": "missing"}
        assert set(searches[-1].knobs) == {"gpu_hz"}
        device.world.board.vanished = set()
        device.until(lambda: set(searches[-1].knobs) == {"gpu_hz", "emc_hz"}, 30.0)
        assert not device.status.left_out


def test_a_best_point_that_cannot_be_had_is_asked_for_again(tmp_path: Path) -> None:
    """Each time after the cool-down; the third failure takes the knob out, and another best point is held."""
    settings = config(tmp_path, knobs=("gpu_hz", "emc_hz"), trials=12, cooldown_s=20.0)
    with rehearsed(simulation(), settings) as (device, _):
        device.until(lambda: len(device.outcomes) == 12)
        device.world.board.failing = {"emc_hz": "busy"}
        device.until(lambda: device.status.faults["busy"])
        took_s = device.until_phase(Phase.HOLDING)
        assert took_s >= 2 * settings.cooldown_s
        assert device.status.left_out == {"emc_hz": "busy"}
        assert device.world.board.leased


def test_clocks_still_being_put_back_cost_no_trial(tmp_path: Path) -> None:
    """Clockd that cannot grant yet is asked again within seconds; the tuning is kept."""
    with rehearsed(simulation(), config(tmp_path, trials=4)) as (device, searches):
        device.until(lambda: len(device.outcomes) == 1)
        device.world.board.refusal = "not_restored"
        device.run(20.0)
        assert "not_restored" in device.status.alarms
        assert device.status.refusals["not_restored"] >= 5
        device.world.board.refusal = ""
        device.until_phase(Phase.HOLDING)
        assert len(searches) == 1
        assert device.outcomes == ["feasible"] * 4
        assert not device.status.alarms


def test_ignored_requests_are_flagged_at_once_and_never_learnt(tmp_path: Path) -> None:
    """The lease's answer says that the clocks did not follow: no settling, no window, nothing told."""
    with rehearsed(simulation(), config(tmp_path, trials=20)) as (device, searches):
        device.until(lambda: len(device.outcomes) == 4)
        device.world.board.honours = False
        assert device.until(lambda: len(device.outcomes) == 6) < 1.0
        device.run(60)
        ignored = [trial for trial in device.status.trials if trial.outcome == Invalid("clocks")]
        assert len(ignored) >= 6
        assert all(trial.energy_j is None and trial.window_s == 0.0 for trial in ignored)
        assert len(searches[0].told) == 4


def test_more_than_five_ignored_in_a_row_raise_the_alarm(tmp_path: Path) -> None:
    """The sixth gives the clocks back; after the cool-down it is tried again, and the alarm ends once they follow."""
    with rehearsed(simulation(), config(tmp_path, trials=30, cooldown_s=20.0)) as (device, _):
        device.until(lambda: len(device.outcomes) == 8)
        assert device.outcomes == ["feasible"] * 4 + device.outcomes[4:]
        device.world.board.honours = False
        began = len(device.outcomes)
        device.until(lambda: "clocks" in device.status.alarms)
        assert device.outcomes[began:].count("clocks") == 6
        assert device.status.faults["clocks"] == 6
        assert not device.world.board.leased
        assert not device.status.leased
        assert device.status.phase is Phase.COOLING
        assert device.until(lambda: len(device.outcomes) == began + 7) >= 20.0 - TICK_S
        assert "clocks" in device.status.alarms
        device.world.board.honours = True
        device.until(lambda: "clocks" not in device.status.alarms)
        assert device.outcomes[-1] in ("feasible", "violated")


@pytest.mark.parametrize(("fault", "reason"), [("power_missing", "sensor"), ("power_frozen", "frozen")])
def test_a_power_sensor_that_fails_spoils_the_trial(tmp_path: Path, fault: str, reason: str) -> None:
    """It is repeated once, and what follows once the sensor is back is measured as ever."""
    with rehearsed(simulation(), config(tmp_path, trials=8)) as (device, searches):
        device.until(lambda: len(device.outcomes) == 1)
        device.until_phase(Phase.MEASURING)
        setattr(device.world.board, fault, True)
        device.until(lambda: len(device.outcomes) == 3)
        assert device.outcomes[1:] == [reason] * 2
        assert device.status.faults[reason] == 2
        assert len(searches[0].told) == 1
        setattr(device.world.board, fault, False)
        device.until_phase(Phase.HOLDING)
        assert device.outcomes[-1] == "feasible"


@pytest.mark.parametrize(("averaging_s", "longest_s"), [(0.43, 3.5), (2.0, 12.0)])
def test_a_window_in_doubt_is_measured_on(tmp_path: Path, averaging_s: float, longest_s: float) -> None:
    """A sensor that averages over two seconds knows little of three: a trial goes on until it does."""
    world = simulation()
    world.board.averaging_s = averaging_s
    with rehearsed(world, config(tmp_path, trials=4, trial_s=3.0)) as (device, _):
        device.until_phase(Phase.HOLDING)
        assert device.outcomes == ["feasible"] * 4
        spans_s = [trial.window_s for trial in device.status.trials]
        assert max(spans_s) <= longest_s + 2 * TICK_S
        assert (max(spans_s) > 4.0) is (longest_s > 4.0)
        assert all(trial.energy_error_j > 0 for trial in device.status.trials)


def test_a_window_that_stays_in_doubt_is_invalid(tmp_path: Path) -> None:
    """After four times its length it is given up."""
    world = simulation()
    world.board.averaging_s = 30.0
    with rehearsed(world, config(tmp_path, trials=3, trial_s=1.0)) as (device, searches):
        device.until_phase(Phase.HOLDING)
        assert set(device.outcomes) == {"window"}
        assert all(4.0 - TICK_S <= trial.window_s <= 4.0 + 2 * TICK_S for trial in device.status.trials)
        assert not searches[0].told


def test_heat_is_cooled_down_before_the_trial_is_repeated(tmp_path: Path) -> None:
    """For the cool-down the clocks stay at or below those of the trial; then the same point is tried once more."""
    with rehearsed(simulation(), config(tmp_path, knobs=("gpu_hz",), trials=6, cooldown_s=20.0)) as (device, _):
        device.until(lambda: len(device.outcomes) == 1)
        device.until_phase(Phase.MEASURING)
        tried = dict(device.status.point)
        assert tried["gpu_hz"] < 1_300_500_000
        device.world.board.throttle_events += 1
        device.until_phase(Phase.COOLING, 2.0)
        assert device.outcomes[-1] == "throttled"
        assert (device.world.board.point.gpu_hz or 0) <= tried["gpu_hz"]
        assert device.until_phase(Phase.SETTLING) >= 20.0 - 2 * TICK_S
        device.until(lambda: len(device.outcomes) == 3)
        assert device.points[2] == tried
        assert device.outcomes[2] == "feasible"


@pytest.mark.parametrize("late_s", [0.1, 1.0, 2.5])
def test_heat_that_shows_just_after_a_trial_was_in_it(tmp_path: Path, late_s: float) -> None:
    """Counters move in batches: the trial is unlearnt, for later runs too, and its point cooled down and repeated."""
    settings = config(tmp_path, knobs=("gpu_hz",), trials=1, cooldown_s=20.0)
    with rehearsed(simulation(), settings) as (device, searches):
        device.until(lambda: len(device.outcomes) == 1)
        tried = dict(device.points[0])
        device.run(late_s)
        device.world.board.throttle_events += 1
        device.until_phase(Phase.COOLING, 2.0)
        assert device.status.trials[0].outcome == Invalid("throttled")
        assert not searches[-1].told
        course = device.governor._course
        assert course is not None
        assert course.tuning.history.trials()[0].outcome == Invalid("throttled")
        device.until(lambda: len(device.outcomes) == 2)
        assert device.points[1] == tried
        assert len(searches[-1].told) == 1


def test_heat_long_after_a_trial_was_not_in_it(tmp_path: Path) -> None:
    """Four seconds later the board has said what there was to say."""
    with rehearsed(simulation(), config(tmp_path, knobs=("gpu_hz",), trials=1)) as (device, searches):
        device.until(lambda: len(device.outcomes) == 1)
        device.run(4.0)
        device.world.board.throttle_events += 1
        device.run(4.0)
        assert len(searches[-1].told) == 1


def test_it_cools_down_at_a_feasible_point_below_if_one_is_known(tmp_path: Path) -> None:
    """Rather than where heat struck."""
    with rehearsed(simulation(), config(tmp_path, knobs=("gpu_hz",), trials=4, cooldown_s=20.0)) as (device, searches):
        device.until_phase(Phase.HOLDING)
        tuning = device.governor._course
        assert tuning is not None
        lowest = min(point["gpu_hz"] for point, latency_s, _ in searches[0].told if latency_s <= 0.038)
        assert tuning.tuning.cooler({"gpu_hz": 1_300_500_000.0}) == {"gpu_hz": lowest}
        assert tuning.tuning.cooler({"gpu_hz": 1.0}) == {"gpu_hz": 1.0}


def test_brief_events_are_counted_and_forgiven(tmp_path: Path) -> None:
    """Twenty a second stand in the record of a trial that is as good as any; sixty spoil it."""
    with rehearsed(simulation(), config(tmp_path, trials=3)) as (device, _):
        device.until_phase(Phase.MEASURING)
        while not device.outcomes:
            device.world.board.brief_throttles += 2
            device.run(TICK_S)
        assert device.outcomes == ["feasible"]
        trial = device.status.trials[0]
        assert trial.brief_throttles == pytest.approx(20 * trial.window_s, rel=0.1)
        device.until_phase(Phase.MEASURING)
        while len(device.outcomes) == 1:
            device.world.board.brief_throttles += 6
            device.run(TICK_S)
        assert device.outcomes[-1] == "throttled"


def test_blind_it_keeps_its_point_then_gives_the_clocks_back(tmp_path: Path) -> None:
    """No temperature for 1.5 s: the trial is lost and nothing new is tried; for 5 s: no lease, until one is read."""
    with rehearsed(simulation(), config(tmp_path, trials=5)) as (device, _):
        device.until(lambda: len(device.outcomes) == 1)
        device.until_phase(Phase.MEASURING)
        board, point = device.world.board, device.world.board.point
        board.blind = True
        device.run(1.8)
        assert device.outcomes[-1] == "blind"
        assert "blind" in device.status.alarms
        device.run(2.9)
        assert board.point == point
        assert board.leased
        device.run(0.6)
        assert not board.leased
        device.run(60.0)
        assert (len(device.outcomes), board.leased, device.status.faults["blind"]) == (2, False, 1)
        board.blind = False
        device.until_phase(Phase.HOLDING)
        assert device.points[2] == device.points[1]
        assert not device.status.alarms


def test_blind_while_holding_it_holds_again_afterwards(tmp_path: Path) -> None:
    """The same point, without another trial."""
    with rehearsed(simulation(), config(tmp_path, trials=3)) as (device, _):
        device.until_phase(Phase.HOLDING)
        held = dict(device.status.point)
        device.world.board.blind = True
        device.run(10.0)
        assert not device.world.board.leased
        device.world.board.blind = False
        device.until_phase(Phase.HOLDING, 5.0)
        assert device.status.point == held
        assert len(device.outcomes) == 3


def test_a_stranger_is_made_way_for_longer_each_time(tmp_path: Path) -> None:
    """Noticed within a tick; the waits double, and then the clocks that are offered by now are tuned."""
    with rehearsed(simulation(), config(tmp_path, trials=30, cooldown_s=20.0)) as (device, searches):
        for expected_s in (20.0, 40.0, 80.0):
            device.until_phase(Phase.MEASURING)
            device.world.board.change_clock()
            device.run(TICK_S)
            assert device.status.phase is Phase.WAITING
            assert device.outcomes[-1] == "foreign"
            assert "foreign" in device.status.alarms
            assert device.until(lambda: device.world.board.leased) == pytest.approx(expected_s, abs=2.0)
            assert not device.status.alarms
        assert device.status.faults["foreign"] == 3
        device.until_phase(Phase.MEASURING)
        device.world.board.change_clock(replace(TABLE, gpu_hz=TABLE.gpu_hz[:2], gpu_min_hz=TABLE.gpu_min_hz[:2]))
        device.until(lambda: device.world.board.leased, 200.0)
        assert searches[-1].knobs["gpu_hz"] == TABLE.gpu_hz[:2]


def test_waits_grow_to_five_minutes_and_begin_anew_after_peace() -> None:
    """Doubling from the first; five minutes without trouble are peace."""
    backoff, now_s, waits_s = Backoff(30.0), 0.0, []
    for _ in range(6):
        waits_s.append(backoff.next_s(now_s))
        now_s += waits_s[-1] + 10
    assert waits_s == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]
    assert backoff.next_s(now_s + LONGEST_S) == 30.0


def test_an_observe_only_board_is_watched(tmp_path: Path) -> None:
    """No lease is asked for, windows are judged, nothing is tried; it says what it does without."""
    world = simulation()
    world.board.observe_only = True
    with rehearsed(world, config(tmp_path)) as (device, _):
        device.until_phase(Phase.HOLDING)
        device.run(30.0)
        assert device.status.windows["resnet18", "kept"] + device.status.windows["resnet18", "broken"] >= 2
        assert world.board.writes == 0
        assert not device.outcomes
        assert not device.status.faults
        assert device.status.left_out == {"batch": "no_power"}
        assert device.status.nothing_to_tune


def test_the_simulated_board_refuses_as_clockd_does() -> None:
    """Of a knob that cannot be written the answer says which and why, and the lease has ended."""
    world = simulation()
    world.board.lease(FASTEST, 3.0)
    world.board.failing = {"cpu_hz": "busy"}
    with pytest.raises(LeaseRefused) as caught:
        world.board.lease(FASTEST, 3.0)
    assert (caught.value.reason, caught.value.cause, caught.value.knob) == ("board", "busy", "cpu_hz")
    assert not world.board.leased
    assert world.board.lease(ClockPoint(gpu_hz=306_000_000), 3.0).honoured


def test_ticks_go_on_while_the_search_thinks(tmp_path: Path) -> None:
    """However long it takes, the lease is renewed; its proposal is tried once it is there."""
    thought = threading.Event()

    class Slow(InTurn):
        def ask(self) -> dict[str, float] | None:
            if self.told:
                thought.wait(240)
            return super().ask()

    world, settings = simulation(), config(tmp_path, trials=2)
    with ThreadPoolExecutor(1) as executor:
        governor = Governor(settings, world.board, world, world.clock, executor, Slow)
        ticks = 0
        while not (governor.status.trials and world.now_s > 1100.0):
            world.step(TICK_S)
            governor.tick()
            # the first thoughts take no time, but they are another thread's
            ticks += governor.status.phase is Phase.PROPOSING
        assert governor.status.phase is Phase.PROPOSING
        assert ticks > 300
        assert world.board.leased
        thought.set()
        executor.submit(lambda: None).result()
        governor.tick()
        assert governor.status.phase is Phase.SETTLING
        governor.close()
