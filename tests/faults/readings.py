# SPDX-License-Identifier: Apache-2.0
"""Sensors that lie or fall silent inside a trial, and boards that throttle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from boards.virtual_faults import Faults
from governor.afterheat import LATE_S
from governor.status import Phase

from .governors import Governed
from .lies import REAL, Lie, in_processes
from .record import Tally
from .stage import until
from .world import STEP_S, World, world

SENSORS = ("negative", "zero", "nan", "empty")
A_WORLD = 12
"""Trials in one world: a governor judges all its trials again after each, which grows with their square."""


def implausible(tally: Tally) -> None:
    """Row 7: no reading that cannot be true is counted; a trial that lacks a fifth of its readings is invalid."""
    lies = [Lie({"sensor": sensor}, "sensor", sensor) for sensor in SENSORS]
    _spikes(tally)
    _in_trials(tally, lies, tally.few(160), _no_lie_was_believed)
    in_processes(tally, lies, tally.few(REAL))


def frozen(tally: Tally) -> None:
    """Row 8: the same reading for two seconds under load is no reading."""
    lies = [Lie({"sensor": "frozen"}, "frozen", "frozen")]
    _in_trials(tally, lies, tally.few(50), _nothing_more)
    in_processes(tally, lies, tally.few(REAL))


def blind(tally: Tally) -> None:
    """Row 9: without temperatures nothing new is tried, and after five seconds the clocks are free."""
    logging.disable()
    with world() as made:
        for number in range(tally.few(REAL)):
            _blinded(tally, made, f"virtual blindness {number}")
    in_processes(tally, [Lie({"thermal": "unreadable"}, "blind", "unreadable")], tally.few(REAL), _gives_back)


def throttled(tally: Tally) -> None:
    """Row 10: any event of heat or current inside a trial makes it invalid, and the board cools down."""
    lies = [
        Lie({"throttled": True}, "throttled", "alert"),
        Lie({"over_current": {"oc1": 5}}, "throttled", "under-voltage"),
        Lie({"over_current": {"oc2": 5}}, "throttled", "over-current"),
        Lie({"over_current": {"oc3": 500}}, "throttled", "many brief events"),
    ]
    _in_trials(tally, lies, tally.few(100), _cools_down, trial_s=6.0)
    # alerts and counters are looked at once a second
    in_processes(tally, lies, tally.few(REAL), trial_s=3.0)


def only_sound_ones(tally: Tally, made: World) -> None:
    """The search has learnt from no more trials than could be measured."""
    sound = sum(outcome in ("feasible", "violated") for outcome in made.outcomes())
    tally.expect(len(made.told) <= sound, f"{len(made.told)} trials reached the fit, {sound} were sound")


def tunes_again(made: World) -> bool:
    """Whether a sound trial follows within a minute and a half."""
    good = made.outcomes().count("feasible")
    return made.until(lambda: made.outcomes().count("feasible") > good, 90)


def _in_trials(
    tally: Tally,
    lies: Sequence[Lie],
    times: int,
    check: Callable[[Tally, World, Lie, int], None],
    trial_s: float = 3.0,
) -> None:
    """In virtual time: a lie begins inside a trial; that trial is invalid for its reason and reaches no fit."""
    logging.disable()
    for first in range(0, times, A_WORLD):
        with world(trial_s=trial_s) as made:
            for number in range(first, min(times, first + A_WORLD)):
                if not _in_trial(tally, made, lies[number % len(lies)], check):
                    break
            only_sound_ones(tally, made)


def _in_trial(tally: Tally, made: World, lie: Lie, check: Callable[[Tally, World, Lie, int], None]) -> bool:
    """One trial; whether a sound one followed."""
    what = f"virtual {lie.name}"
    made.until(lambda: made.status.phase is Phase.MEASURING)
    seen, looks, faults = len(made.outcomes()), len(made.readings), made.status.faults[lie.reason]
    made.live(0.5)
    made.faults = lie.record
    tally.inject(real=False, kind=lie.name)
    if tally.expect(made.until(lambda: len(made.outcomes()) > seen, 30), f"{what}: the trial never ends"):
        # a counter read once a second may show only after a short trial's end that the lie was in it
        made.until(lambda: made.outcomes()[seen] == lie.reason, LATE_S + 1.0)
        tally.same(made.outcomes()[seen], lie.reason, what)
        tally.expect(made.status.faults[lie.reason] > faults, f"{what}: no fault was counted")
    check(tally, made, lie, looks)
    made.faults = Faults()
    back = tunes_again(made)
    return tally.expect(back, f"{what}: no sound trial after it ({made.status.phase}, {made.outcomes()[-3:]})")


def _spikes(tally: Tally) -> None:
    """One reading in three is ten times too high: none is believed, the trial is invalid; a single one is harmless."""
    logging.disable()
    lie = Lie({"sensor": "spike"}, "sensor", "spike")
    times = tally.few(40)
    for first in range(0, times, A_WORLD):
        with world() as made:
            for number in range(first, min(times, first + A_WORLD)):
                _spiked(tally, made, lie, alone=bool(number % 2))


def _spiked(tally: Tally, made: World, lie: Lie, *, alone: bool) -> None:
    what = "one spike" if alone else "spikes"
    made.until(lambda: made.status.phase is Phase.MEASURING)
    seen, looks = len(made.outcomes()), len(made.readings)
    tally.inject(real=False, kind=what)
    while len(made.outcomes()) == seen and len(made.readings) < looks + 300:
        made.live(0.2)
        if not alone or len(made.readings) < looks + 5:
            made.faults = lie.record
        made.live(STEP_S)
        made.faults = Faults()
    outcome = made.outcomes()[seen]
    tally.expect(outcome in (("feasible", "violated") if alone else ("sensor",)), f"{what}: {outcome}")
    _no_lie_was_believed(tally, made, lie, looks)


def _no_lie_was_believed(tally: Tally, made: World, lie: Lie, looks: int) -> None:
    """Neither the power shown nor the joules counted hold anything of the lie."""
    powers = [reading.power_w for reading in made.readings[:looks][-300:]]
    highest, lowest = max(powers), min(power for power in powers if power > 0)
    for reading in made.readings[looks:]:
        tally.expect(0.2 * lowest < reading.power_w < 3 * highest, f"{lie.name}: {reading.power_w} W was believed")
    gained_j = made.readings[-1].energy_j - made.readings[looks].energy_j
    span_s = (made.readings[-1].sampled_ns - made.readings[looks].sampled_ns) / 1e9
    tally.expect(0 <= gained_j <= 3 * highest * span_s, f"{lie.name}: {gained_j:.1f} J in {span_s:.1f} s")


def _nothing_more(tally: Tally, made: World, lie: Lie, looks: int) -> None:
    """The reason says it all."""


def _cools_down(tally: Tally, made: World, lie: Lie, looks: int) -> None:
    cooled = made.until(lambda: made.status.phase is Phase.COOLING, 30.0)
    tally.expect(cooled, f"{lie.name}: {made.status.phase} in place of a cool-down")


def _blinded(tally: Tally, made: World, what: str) -> None:
    made.until(lambda: made.status.phase is Phase.MEASURING)
    made.live(0.3)
    made.faults = Faults(thermal="unreadable")
    tally.inject(real=False, kind="virtual blindness")
    made.live(2.6)
    point, trials = dict(made.status.point), len(made.outcomes())
    tally.expect("blind" in made.status.alarms, f"{what}: no alarm after 2.6 s")
    made.live(1.0)
    tally.same((made.status.point, len(made.outcomes())), (point, trials), f"{what}: something new was tried")
    freed = made.until(lambda: not made.leased, 3.0)
    tally.expect(freed, f"{what}: clocks are held after 7 s without a temperature")
    made.live(5.0)
    tally.same(len(made.outcomes()), trials, f"{what}: trials while blind")
    made.faults = Faults()
    tally.expect(tunes_again(made), f"{what}: it never tuned again")


def _gives_back(tally: Tally, scene: Governed, what: str) -> None:
    """No trial is made meanwhile, and the clocks are free."""
    with scene.made.client() as client:
        until(lambda: client.status()["lease"] is None, f"{what}: the clocks are free", 8)
        trials = len(scene.records())
        until(lambda: client.status()["lease"] is None, f"{what}: the clocks stay free", 1)
        tally.same(len(scene.records()), trials, f"{what}: trials while blind")
