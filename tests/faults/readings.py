# SPDX-License-Identifier: Apache-2.0
"""Boards that lie or fall silent inside a trial: clocks that are ignored, sensors, thermometers, throttling."""

from __future__ import annotations

import json
import logging
import queue
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boards.virtual_faults import Faults
from governor.status import Phase
from telemetry.durable import decode, replace

from .governors import MODULES, Governed
from .record import Tally
from .stage import stage, until
from .traffic import Traffic
from .world import STEP_S, World, outcomes_of, world
from .writes import silent
from .zygote import Zygote

TOGETHER = 5
KNOBS = ("gpu_hz", "emc_hz", "cpu_hz")
SENSORS = ("negative", "zero", "nan", "empty")
REAL = 20
A_WORLD = 12
"""Trials in one world: a governor judges all its trials again after each, which grows with their square."""
SEEN_WITHIN_S = 12.0


@dataclass(frozen=True, slots=True)
class Lie:
    """What a board is made to do, as the faults file says it, and the reason that a trial is then invalid for."""

    faults: dict[str, Any]
    reason: str
    name: str = ""

    @property
    def record(self) -> Faults:
        """The same for a board in this process."""
        return Faults(**{key: frozenset(value) if type(value) is list else value for key, value in self.faults.items()})


def ignored(tally: Tally) -> None:
    """Row 6: every trial whose clocks were not what was asked for is flagged; six in a row, and the clocks are free."""
    lies = [Lie({"ignored": [knob]}, "clocks", knob) for knob in KNOBS]
    lies += [Lie({"clamped": [knob]}, "clocks", f"{knob} clamped") for knob in ("gpu_hz", "cpu_hz")]
    _ignored_at_random(tally, lies)
    _ignored_for_good(tally)
    _in_processes(tally, [Lie({"ignored": list(KNOBS)}, "clocks", "all ignored")], tally.few(REAL))
    silent(tally)


def implausible(tally: Tally) -> None:
    """Row 7: no reading that cannot be true is counted; a trial that lacks a fifth of its readings is invalid."""
    lies = [Lie({"sensor": sensor}, "sensor", sensor) for sensor in SENSORS]
    _spikes(tally)
    _in_trials(tally, lies, tally.few(160), _no_lie_was_believed)
    _in_processes(tally, lies, tally.few(REAL))


def frozen(tally: Tally) -> None:
    """Row 8: the same reading for two seconds under load is no reading."""
    lies = [Lie({"sensor": "frozen"}, "frozen", "frozen")]
    _in_trials(tally, lies, tally.few(50), _nothing_more)
    _in_processes(tally, lies, tally.few(REAL))


def blind(tally: Tally) -> None:
    """Row 9: without temperatures nothing new is tried, and after five seconds the clocks are free."""
    logging.disable()
    with world() as made:
        for number in range(tally.few(REAL)):
            _blinded(tally, made, f"virtual blindness {number}")
    _in_processes(tally, [Lie({"thermal": "unreadable"}, "blind", "unreadable")], tally.few(REAL), _gives_back)


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
    _in_processes(tally, lies, tally.few(REAL), trial_s=3.0)


def _ignored_at_random(tally: Tally, lies: Sequence[Lie]) -> None:
    """Three trials in ten are lied to; what the silicon really did decides who must be flagged."""
    logging.disable()
    draw, wanted = random.Random(6), tally.few(200)
    for first in range(0, wanted, A_WORLD):
        with world(trial_s=1.5) as made:
            _ignored_in(tally, made, lies, min(A_WORLD, wanted - first), draw)
    tally.expect(tally.kinds["flagged"] > 0.1 * wanted, "hardly any trial was flagged")


def _ignored_in(tally: Tally, made: World, lies: Sequence[Lie], wanted: int, draw: random.Random) -> None:
    made.until(lambda: made.outcomes())
    seen, flagged = len(made.outcomes()), 0
    begun, honest = seen, True
    while seen < begun + wanted and tally.failed < 5:
        made.live(STEP_S)
        if made.status.phase is Phase.MEASURING:
            honest = honest and made.honest()
        outcomes = made.outcomes()
        if len(outcomes) == seen:
            continue
        lied = made.faults != Faults()
        for outcome in outcomes[seen:]:
            tally.inject(real=False, kind="lied to" if lied else "left alone")
            if not honest:
                tally.expect(outcome not in ("feasible", "violated"), f"an ignored request was measured: {outcome}")
            if outcome == "clocks":
                flagged += 1
                tally.expect(lied, "an honest trial was flagged")
        seen, honest = len(outcomes), True
        made.faults = draw.choice(lies).record if draw.random() < 0.3 else Faults()
    tally.kinds["flagged"] += flagged
    tally.expect(made.status.faults["clocks"] >= flagged, "the governor's counter of ignored clocks")
    _only_sound_ones(tally, made)


def _only_sound_ones(tally: Tally, made: World) -> None:
    """The search has learnt from no more trials than could be measured."""
    sound = sum(outcome in ("feasible", "violated") for outcome in made.outcomes())
    tally.expect(len(made.told) <= sound, f"{len(made.told)} trials reached the fit, {sound} were sound")


def _ignored_for_good(tally: Tally) -> None:
    """Six trials in a row: the alarm is up and the clocks are the board's own."""
    for _ in range(tally.few(10)):
        with world(trial_s=1.0) as made:
            made.until(lambda: made.outcomes())
            before = len(made.outcomes())
            made.faults = Faults(ignored=frozenset(KNOBS))
            tally.inject(real=False, kind="for good")
            tally.expect(made.until(lambda: "clocks" in made.status.alarms, 60), "no alarm after ignored requests")
            flagged = Counter(made.outcomes()[before:])["clocks"]
            tally.expect(6 <= flagged <= 8, f"{flagged} trials before the alarm")
            tally.expect(not made.leased, "clocks are still held after the alarm")
            made.faults = Faults()
            tally.expect(_tunes_again(made), "it never tuned again")


def _tunes_again(made: World) -> bool:
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
            _only_sound_ones(tally, made)


def _in_trial(tally: Tally, made: World, lie: Lie, check: Callable[[Tally, World, Lie, int], None]) -> bool:
    """One trial; whether a sound one followed."""
    what = f"virtual {lie.name}"
    made.until(lambda: made.status.phase is Phase.MEASURING)
    seen, looks, faults = len(made.outcomes()), len(made.readings), made.status.faults[lie.reason]
    made.live(0.5)
    made.faults = lie.record
    tally.inject(real=False, kind=lie.name)
    if tally.expect(made.until(lambda: len(made.outcomes()) > seen, 30), f"{what}: the trial never ends"):
        tally.same(made.outcomes()[seen], lie.reason, what)
        tally.expect(made.status.faults[lie.reason] > faults, f"{what}: no fault was counted")
    check(tally, made, lie, looks)
    made.faults = Faults()
    back = _tunes_again(made)
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
    tally.expect(made.status.phase is Phase.COOLING, f"{lie.name}: {made.status.phase} in place of a cool-down")


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
    tally.expect(_tunes_again(made), f"{what}: it never tuned again")


@contextmanager
def _virtual_board(zygote: Zygote, traffic: Traffic, tally: Tally) -> Iterator[tuple[Governed, Path]]:
    """Real processes: clockd on a virtual board whose faults are in a file, and what a governor needs."""
    with stage(zygote, tally) as made, traffic.on(made.run_dir):
        faults = made.folder / "faults.json"
        faults.write_text("{}")
        clockd = made.clockd("--rate-hz", "50", "--board", "virtual:agx-orin", "--faults", str(faults))
        yield Governed(made, clockd, {}), faults


def _in_processes(
    tally: Tally,
    lies: Sequence[Lie],
    times: int,
    check: Callable[[Tally, Governed, str], None] = lambda tally, scene, what: None,
    trial_s: float = 0.1,
) -> None:
    """Real processes: a lie is told until a trial on disk bears its reason; after it trials are sound again."""
    work: queue.SimpleQueue[Lie] = queue.SimpleQueue()
    for number in range(times):
        work.put(lies[number % len(lies)])

    def take() -> None:
        with _virtual_board(zygote, traffic, tally) as (scene, faults):
            governor = scene.govern("--trial-s", str(trial_s))
            while not work.empty():
                try:
                    lie = work.get_nowait()
                except queue.Empty:
                    break
                _told(tally, scene, faults, lie, check, trial_s / 6)
            tally.expect(governor.running, f"the governor ended with {governor.code}: {governor.said[-300:]}")
            tally.expect(scene.clockd.running, f"clockd ended with {scene.clockd.code}")

    with Zygote(MODULES) as zygote, Traffic() as traffic, ThreadPoolExecutor(TOGETHER) as pool:
        for done in [pool.submit(take) for _ in range(min(TOGETHER, times))]:
            done.result()


def _told(
    tally: Tally,
    scene: Governed,
    faults: Path,
    lie: Lie,
    check: Callable[[Tally, Governed, str], None],
    after_s: float,
) -> None:
    """One lie, `after_s` after a trial's end: inside the next one, where that lasts long enough."""
    what, governor = f"{lie.name} in real processes", scene.made.children[-1]
    try:
        until(lambda: _outcomes(scene)[-1:] == ["feasible"], f"{what}: a sound trial before", 30)
        begun_s = time.monotonic()
        until(lambda: time.monotonic() > begun_s + after_s, "the next trial is under way")
        seen, said = len(_outcomes(scene)), len(governor.said)
        replace(faults, json.dumps(lie.faults).encode())
        tally.inject(real=True, kind=f"{lie.name}, real")
        # between two trials there is none to be invalid: then the fault itself is logged and counted
        named = until(lambda: f"{lie.reason}: " in governor.said[said:], f"{what}: a log line names it", SEEN_WITHIN_S)
        tally.worst(f"slowest_seen_s_{lie.reason}", named)
        # heat may show only after a trial's end, and then takes it back
        invalid = lie.reason in _outcomes(scene)[max(0, seen - 1) :]
        tally.kinds["trials invalid"] += invalid
        tally.expect(invalid or lie.reason == "blind", f"{what}: no trial was invalid for it")
        check(tally, scene, what)
    except TimeoutError as error:
        tally.expect(False, f"{error}; last {_outcomes(scene)[-3:]}")
    finally:
        replace(faults, b"{}")
    seen = len(_outcomes(scene))
    try:
        until(lambda: "feasible" in _outcomes(scene)[seen:], f"{what}: a sound trial after it", 30)
    except TimeoutError as error:
        tally.expect(False, f"{error}; last {_outcomes(scene)[-3:]}; {governor.said[-300:]}")


def _gives_back(tally: Tally, scene: Governed, what: str) -> None:
    """No trial is made meanwhile, and the clocks are free."""
    with scene.made.client() as client:
        until(lambda: client.status()["lease"] is None, f"{what}: the clocks are free", 8)
        trials = len(scene.records())
        until(lambda: client.status()["lease"] is None, f"{what}: the clocks stay free", 1)
        tally.same(len(scene.records()), trials, f"{what}: trials while blind")


def _outcomes(scene: Governed) -> list[str]:
    return outcomes_of(row for line in scene.records() if (row := decode(line)))
