# SPDX-License-Identifier: Apache-2.0
"""Somebody else at the same knobs: nvpmodel, jetson_clocks, tuned, or a second governor."""

from __future__ import annotations

import random
import time
from pathlib import Path

from governor.errors import GovernorError, LeaseLost, LeaseRefused

from .governors import MODULES, Governed, governed
from .kills import QUIET
from .record import Tally
from .stage import CPU, EMC, GPU, Stage, due, points, put, stage, until
from .traffic import Traffic
from .zygote import Zygote

RATE_HZ = 20
SEEN_WITHIN_S = 1 / RATE_HZ + 0.2
"""One tick, and what a busy machine may add to it."""
HANDS = (
    (f"{GPU}/max_freq", ("918000000", "1020000000")),
    (f"{GPU}/min_freq", ("408000000", "510000000")),
    (f"{CPU}/cpufreq/policy0/scaling_max_freq", ("960000", "1036800")),
    (f"{CPU}/cpufreq/policy4/scaling_max_freq", ("960000", "1036800")),
    (f"{EMC}/rate", ("2133000000", "204000000")),
    (f"{CPU}/cpu5/online", ("0",)),
)


def changed_by_others(tally: Tally) -> None:
    """Row 34: a foreign change ends the lease within a tick, stays, and everything else goes back; one holder only."""
    with Zygote() as zygote, stage(zygote, tally) as made:
        made.clockd("--rate-hz", str(RATE_HZ))
        draw = random.Random(34)
        for number in range(tally.few(36)):
            _foreign(tally, made, *HANDS[number % len(HANDS)], draw)
        for _ in range(tally.few(5)):
            _second_client(tally, made)
            _second_daemon(tally, made)
    with Zygote(MODULES) as zygote, Traffic() as traffic, governed(zygote, traffic, tally) as scene:
        for _ in range(tally.few(5)):
            _second_governor(tally, scene)


def _second_governor(tally: Tally, scene: Governed) -> None:
    """A second governor ends with 3; the first one keeps its lease and goes on."""
    first = scene.govern()
    until(lambda: scene.moved(first), "a lease")
    second = scene.govern()
    tally.inject(real=True, kind="second governor")
    tally.same(second.wait(20), 3, f"exit code of a second governor ({second.said[-300:]})")
    trials = len(scene.records())
    until(lambda: len(scene.records()) > trials + 1, "the first governor goes on")
    scene.ended(tally, second)
    scene.ended(tally, first)


def _foreign(tally: Tally, made: Stage, name: str, values: tuple[str, ...], draw: random.Random) -> None:
    path, value = made.root / name, draw.choice(values)
    what = f"{name} set to {value} by somebody else"
    with made.client() as client:
        client.lease(points(client.table())[1], 5.0)
        before, said = client.status()["foreign_changes"], len(made.children[0].said)
        put(path, value)
        written_s = time.monotonic()
        tally.inject(real=True, kind=Path(name).name)
        try:
            until(lambda: client.status()["lease"] is None, "the lease ends", due(2.0))
        except TimeoutError:
            tally.expect(False, f"{what}: the lease goes on")
        tally.worst("slowest_seen_s", took_s := time.monotonic() - written_s)
        tally.expect(took_s < due(SEEN_WITHIN_S), f"{what}: seen after {took_s:.3f} s")
        status = client.status()
        tally.same(status["foreign_changes"], before + 1, f"{what}: foreign_changes")
        tally.same(status["restore_pending"], False, f"{what}: restore_pending")
        tally.same(made.changed(), {name: value}, f"{what}: left changed")
        tally.expect("WARNING" in made.children[0].said[said:], f"{what}: no warning in the log")
        try:
            client.renew(5.0)
            tally.expect(False, f"{what}: the lease can still be renewed")
        except LeaseLost:
            tally.kinds["told at renewal"] += 1
        except GovernorError as error:
            tally.expect(False, f"{what}: {error}")
    put(path, made.originals[path].decode().strip())


def _second_client(tally: Tally, made: Stage) -> None:
    """Only one may hold the clocks."""
    with made.client() as first, made.client() as second:
        low, middle = points(first.table())
        first.lease(low, 5.0)
        held = made.changed()
        tally.inject(real=True, kind="second client")
        try:
            second.lease(middle, 5.0)
            tally.expect(False, "a second client was granted a lease")
        except LeaseRefused as error:
            tally.same(error.reason, "held", "a second client")
        tally.same(made.changed(), held, "the first client's clocks")
        first.release()


def _second_daemon(tally: Tally, made: Stage) -> None:
    """A second clockd, and `teg restore` beside a live one, are refused and change nothing."""
    with made.client() as client:
        client.lease(points(client.table())[0], 5.0)
        held = made.changed()
        for verb in ("clockd", "restore"):
            second = made.start(verb, *(QUIET if verb == "clockd" else ()))
            tally.inject(real=True, kind=f"second {verb}")
            tally.same(second.wait(20), 3, f"exit code of teg {verb} beside a live clockd ({second.said[-200:]})")
        tally.same(made.changed(), held, "the holder's clocks")
        client.renew(5.0)
        client.release()
