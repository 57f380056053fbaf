# SPDX-License-Identifier: Apache-2.0
"""Requests that are ignored or clamped in silence, by a virtual board or by a kernel that claims to have taken them."""

from __future__ import annotations

import contextlib
import logging
import random
from collections import Counter
from collections.abc import Sequence

from boards.clocks import Applied
from boards.discover import open_board
from boards.virtual_faults import Faults
from governor.errors import GovernorError
from governor.status import Phase

from .kills import QUIET
from .lies import REAL, Lie, in_processes
from .readings import A_WORLD, only_sound_ones, tunes_again
from .record import Tally
from .stage import EMC, Stage, due, points, stage
from .strace import Injection, attached, injected
from .world import STEP_S, World, world
from .writes import TTL_S, mended, places
from .zygote import Zygote

KNOBS = ("gpu_hz", "emc_hz", "cpu_hz")
SETTLED_WITHIN_S = 0.6
"""Half a second, and one look."""


def ignored(tally: Tally) -> None:
    """Row 6: every trial whose clocks were not what was asked for is flagged; six in a row, and the clocks are free."""
    lies = [Lie({"ignored": [knob]}, "clocks", knob) for knob in KNOBS]
    lies += [Lie({"clamped": [knob]}, "clocks", f"{knob} clamped") for knob in ("gpu_hz", "cpu_hz")]
    _ignored_at_random(tally, lies)
    _ignored_for_good(tally)
    in_processes(tally, [Lie({"ignored": list(KNOBS)}, "clocks", "all ignored")], tally.few(REAL))
    silent(tally)


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
    only_sound_ones(tally, made)


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
            tally.expect(tunes_again(made), "it never tuned again")


def silent(tally: Tally) -> None:
    """Row 6, its part on files: the kernel says that it took the whole write, and did nothing."""
    with Zygote() as zygote, stage(zygote, tally) as made:
        clockd = made.clockd(*QUIET)
        for place in places(made, clockd)[:: max(1, tally.every // 4)]:
            what = f"{place.path.relative_to(made.root)} write {place.number} ignored"
            injection = Injection("write", f"retval={place.length}", str(place.number))
            with attached(clockd.pid, [injection], [place.path], log=made.folder / "log"):
                _told_the_truth(tally, made, what)
            if injected(made.folder / "log"):
                tally.inject(real=True, kind="ignored write")
                # once it is unlocked, the rate of the memory controller is its firmware's affair, and not looked at
                mended(tally, made, clockd, what, free=f"{EMC}/rate")


def _told_the_truth(tally: Tally, made: Stage, what: str) -> None:
    """Walk; every answer says whether the clocks are as asked for, which another pair of eyes checks."""
    with made.client() as client:
        low, middle = points(client.table())
        for point in (low, middle, low):
            applied = client.lease(point, TTL_S)
            seen = Applied(point, open_board("auto", made.root).observe(), 0.0)
            tally.same(applied.honoured, seen.honoured, f"{what}: honoured")
            tally.expect(applied.settle_s <= due(SETTLED_WITHIN_S), f"{what}: said only after {applied.settle_s:.2f} s")
        with contextlib.suppress(GovernorError):
            client.release()
