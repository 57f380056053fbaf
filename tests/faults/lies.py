# SPDX-License-Identifier: Apache-2.0
"""Lies that a virtual board is made to tell to real processes: a clockd with a faults file, and a governor on it."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boards.virtual_faults import Faults
from telemetry.durable import decode, replace

from .governors import MODULES, Governed
from .record import Tally
from .stage import due, stage, until
from .traffic import Traffic
from .world import outcomes_of
from .zygote import Zygote

REAL = 20
TOGETHER = 5
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


def in_processes(
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


@contextmanager
def _virtual_board(zygote: Zygote, traffic: Traffic, tally: Tally) -> Iterator[tuple[Governed, Path]]:
    """Real processes: clockd on a virtual board whose faults are in a file, and what a governor needs."""
    with stage(zygote, tally) as made, traffic.on(made.run_dir):
        faults = made.folder / "faults.json"
        faults.write_text("{}")
        clockd = made.clockd("--rate-hz", "50", "--board", "virtual:agx-orin", "--faults", str(faults))
        yield Governed(made, clockd, {}), faults


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
        named = until(
            lambda: f"{lie.reason}: " in governor.said[said:], f"{what}: a log line names it", due(SEEN_WITHIN_S)
        )
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


def _outcomes(scene: Governed) -> list[str]:
    return outcomes_of(row for line in scene.records() if (row := decode(line)))
