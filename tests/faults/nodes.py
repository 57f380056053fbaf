# SPDX-License-Identifier: Apache-2.0
"""Kernel files that vanish while clockd runs, as when a driver reloads, and come back later."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from boards.clocks import ClockTable
from governor.errors import GovernorError

from .record import Tally
from .stage import CPU, EMC, GPU, Stage, points, stage, until
from .writes import counted_faults
from .zygote import Zygote

ABSENT_WITHIN_S = 5.0
BACK_WITHIN_S = 40.0
"""What is missing is looked for every 30 s."""
TOGETHER = 25


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
    Part("policy4", f"{CPU}/cpufreq/policy4", lambda table: True),
    Part("hwmon", "sys/class/hwmon", lambda table: True),
)


def vanished(tally: Tally) -> None:
    """Row 3: the domain is absent, the rest keeps working, and what comes back is found within half a minute."""
    cases = [(part, leased) for part in PARTS for leased in (False, True) for _ in range(5)]
    with Zygote() as zygote, ThreadPoolExecutor(TOGETHER) as pool:
        for done in [pool.submit(_case, tally, zygote, *case) for case in tally.thin(cases)]:
            done.result()


def _case(tally: Tally, zygote: Zygote, part: Part, leased: bool) -> None:
    what = f"{part.name} vanishes {'under a lease' if leased else 'at rest'}"
    with stage(zygote, tally) as made:
        clockd = made.clockd("--rate-hz", "4")
        with made.client() as client:
            before = client.table()
            if leased:
                client.lease(points(before)[1], 5.0)
            node = made.root / part.folder
            node.rename(made.folder / "away")
            tally.inject(real=True, kind=part.name)
            try:
                until(lambda: _counted(made) or not part.shown(client.table()), "it is noticed", ABSENT_WITHIN_S)
                _rest_works(tally, made, part, what)
            except (TimeoutError, GovernorError) as error:
                tally.expect(False, f"{what}: {error}")
            tally.expect(clockd.running, f"{what}: clockd ended with {clockd.code}")
            _comes_back(tally, made, part, node, before, what)


def _rest_works(tally: Tally, made: Stage, part: Part, what: str) -> None:
    """The other domains can be leased and given back."""
    with made.client() as client:
        deadline_s = time.monotonic() + ABSENT_WITHIN_S
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
        if part.name in ("gpu", "emc", "cpufreq"):
            tally.expect(not part.shown(table), f"{what}: still in the table")
        try:
            client.release()
        except GovernorError as error:
            tally.note(f"release with {part.name} away", str(error)[:200])


def _comes_back(tally: Tally, made: Stage, part: Part, node: Path, before: ClockTable, what: str) -> None:
    (made.folder / "away").rename(node)

    def back() -> bool:
        with made.client() as client:
            return client.table() == before and not made.changed() and not client.status()["restore_pending"]

    try:
        tally.worst("slowest_return_s", until(back, "it comes back", BACK_WITHIN_S))
    except TimeoutError:
        with made.client() as client:
            table = client.table()
        tally.expect(False, f"{what}: not back: changed {made.changed()}, table {table == before}")


def _counted(made: Stage) -> bool:
    with made.client() as client:
        status = client.status()
    return counted_faults(status) > 0
