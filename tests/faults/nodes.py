# SPDX-License-Identifier: Apache-2.0
"""Kernel files that vanish while clockd runs, as when a driver reloads, and come back later."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from boards.clocks import ClockTable
from governor.errors import GovernorError
from telemetry.durable import replace

from .record import Tally
from .stage import CPU, EMC, GPU, Stage, due, points, stage, until
from .strace import Injection, attached, both_names
from .writes import counted_faults
from .zygote import Child, Zygote

ABSENT_WITHIN_S = 5.0
BACK_WITHIN_S = 40.0
"""What is missing is looked for every 30 s."""
TOGETHER = 25


def NOTHING(_: ClockTable) -> bool:  # noqa: N802 - a constant function
    """The table does not show whether this part is there."""
    return True


@dataclass(frozen=True, slots=True)
class Part:
    """A folder that may vanish, and how a table shows that it is there."""

    name: str
    folder: str
    shown: Callable[[ClockTable], object]


PARTS = (
    Part("gpu", GPU, lambda table: table.gpu_hz),
    Part("emc", EMC, lambda table: table.emc_hz),
    Part("cpufreq", f"{CPU}/cpufreq", lambda table: table.cpu_hz),
    Part("policy4", f"{CPU}/cpufreq/policy4", NOTHING),
    Part("hwmon", "sys/devices/platform/bus@0/c240000.i2c/i2c-1/1-0040/hwmon/hwmon4", NOTHING),
)
MISSING = ("gpu_hz", "emc_hz", "cpu_hz")


def vanished(tally: Tally) -> None:
    """Row 3: the domain is absent, the rest keeps working, and what comes back is found within half a minute."""
    files = [(part, leased) for part in PARTS for leased in (False, True) for _ in range(3)]
    virtual = [(knob, leased) for knob in MISSING for leased in (False, True) for _ in range(4)]
    with Zygote() as zygote, ThreadPoolExecutor(TOGETHER) as pool:
        cases = [pool.submit(_files, tally, zygote, *case) for case in tally.thin(files)]
        cases += [pool.submit(_virtual, tally, zygote, *case) for case in tally.thin(virtual)]
        for done in cases:
            done.result()


def _files(tally: Tally, zygote: Zygote, part: Part, leased: bool) -> None:
    """The folder is moved away, and what clockd holds open answers ENODEV, as sysfs does."""
    what = f"{part.name} vanishes {'under a lease' if leased else 'at rest'}"
    with stage(zygote, tally) as made:
        clockd = made.clockd("--rate-hz", "4")
        node, away = made.root / part.folder, made.folder / "away"
        inside = [path for path in node.rglob("*") if path.is_file()]
        gone = [away / path.relative_to(node) for path in inside]
        with made.client() as client:
            before = client.table()
            if leased:
                client.lease(points(before)[1], 5.0)
            calls = [Injection(call, "error=ENODEV", "1+") for call in ("pread64", "read", "write")]
            with attached(clockd.pid, calls, both_names([*inside, *gone])):
                node.rename(away)
                tally.inject(real=True, kind=part.name)
                _lives_on(tally, made, clockd, part.shown, what)
            away.rename(node)
            _comes_back(tally, made, before, what)


def _virtual(tally: Tally, zygote: Zygote, knob: str, leased: bool) -> None:
    """A virtual board whose part goes missing."""
    what = f"virtual {knob} vanishes {'under a lease' if leased else 'at rest'}"
    with stage(zygote, tally) as made:
        faults = made.folder / "faults.json"
        faults.write_text("{}")
        clockd = made.clockd("--rate-hz", "4", "--board", "virtual:agx-orin", "--faults", str(faults))
        with made.client() as client:
            before = client.table()
            if leased:
                client.lease(points(before)[1], 5.0)
            replace(faults, json.dumps({"missing": [knob]}).encode())
            tally.inject(real=True, kind=f"virtual {knob}")
            _lives_on(tally, made, clockd, lambda table: getattr(table, knob), what)
            replace(faults, b"{}")
            _comes_back(tally, made, before, what)


def _lives_on(tally: Tally, made: Stage, clockd: Child, shown: Callable[[ClockTable], object], what: str) -> None:
    with made.client() as client:
        try:
            until(lambda: counted_faults(client.status()) or not shown(client.table()), "it is seen", ABSENT_WITHIN_S)
        except TimeoutError:
            tally.kinds["seen only when it is asked for"] += 1
    _rest_works(tally, made, shown, what)
    tally.expect(clockd.running, f"{what}: clockd ended with {clockd.code}")


def _rest_works(tally: Tally, made: Stage, shown: Callable[[ClockTable], object], what: str) -> None:
    """The other domains can be leased and given back, once the first failure has told what is gone."""
    deadline_s = time.monotonic() + due(ABSENT_WITHIN_S)
    with made.client() as client:
        while True:
            try:
                table = client.table()
                client.lease(points(table)[0], 5.0)
                break
            except GovernorError as error:
                if time.monotonic() > deadline_s:
                    tally.expect(False, f"{what}: no lease on the rest: {error}")
                    return
                time.sleep(0.1)
        if shown is not NOTHING:
            tally.expect(not shown(table), f"{what}: still in the table")
        with contextlib.suppress(GovernorError):
            client.release()


def _comes_back(tally: Tally, made: Stage, before: ClockTable, what: str) -> None:
    def back() -> bool:
        if made.changed():
            return False
        with made.client() as client, contextlib.suppress(GovernorError):
            # the first lease after a rest looks again at what may be asked for
            client.lease(points(client.table())[0], 5.0)
            return client.table() == before and client.release() is None
        return False

    try:
        tally.worst("slowest_return_s", until(back, "it comes back", due(BACK_WITHIN_S)))
    except TimeoutError:
        with made.client() as client:
            table, status = client.table(), client.status()
        pending = status["restore_pending"]
        tally.expect(False, f"{what}: not back: {made.changed()}, table {table == before}, pending {pending}")
