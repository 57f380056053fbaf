# SPDX-License-Identifier: Apache-2.0
"""Power loss: every prefix of what clockd writes, every byte of a log's last record, unsynced bytes dropped."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from boards.discover import open_board
from governor.clockd.recovery import ledger_of
from governor.guard import Slo
from governor.history import History, Subject
from governor.trial import Feasible, TrialRecord
from telemetry.durable import AppendLog, encode, read_log

from .crash import CALLS, Disk, calls_in, out_of_order
from .kills import QUIET, watched
from .record import Tally
from .stage import CPU, DEADLINE_S, GPU, Stage, stage, walk
from .strace import attached
from .zygote import Zygote, until_stopped

RECORDS = 4
Found = dict[str, bytes]


def power_lost(tally: Tally) -> None:
    """Row 17: logs open, earlier records are there, the next one can be read, and the clocks are safe."""
    torn_log(tally)
    torn_history(tally)
    with Zygote() as zygote, stage(zygote, tally) as made:
        synced(tally, zygote, made)
        _unusual(made)
        replayed(tally, made)


def torn_log(tally: Tally) -> None:
    """Cut a log at every byte of its last record and append two more: only what was cut is lost."""
    with tempfile.TemporaryDirectory(prefix="teg-faults-") as folder:
        path = Path(folder) / "log"
        lines = [encode({"record": number, "text": "x" * number}) for number in range(3)]
        for cut in tally.thin(range(len(lines[2]) + 1)):
            path.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
            tally.inject(real=False, kind="log tail")
            log = AppendLog(path)
            log.append({"record": 10})
            log.append({"record": 11})
            log.close()
            whole = [0, 1, 2] if cut >= len(lines[2]) - 1 else [0, 1]
            found = [record["record"] for record in read_log(path)]
            tally.same(found, [*whole, 10, 11], f"log cut at byte {cut}")


def torn_history(tally: Tally) -> None:
    """Cut a history at every byte of its last record, then go on writing."""
    with tempfile.TemporaryDirectory(prefix="teg-faults-") as folder:
        whole = _history(Path(folder) / "whole")
        content = whole.read_bytes()
        lines = content.splitlines(keepends=True)
        start = len(content) - len(lines[-1])
        for cut in tally.thin(range(start, len(content) + 1)):
            case = Path(folder) / str(cut)
            case.mkdir()
            (case / whole.name).write_bytes(content[:cut])
            tally.inject(real=False, kind="history tail")
            _goes_on(tally, case, RECORDS - (cut < len(content) - 1), f"history cut at byte {cut - start}")


def synced(tally: Tally, zygote: Zygote, made: Stage) -> None:
    """A process that appends to a log has synced every record before it goes on."""
    child = zygote.fork([str(made.folder / "synced.log")], made.folder / "appends", stopped=True, main=APPENDS)
    until_stopped(child.pid)
    log = made.folder / "calls"
    with attached(child.pid, (), (), CALLS, log, whole=True):
        tally.same(child.go_on(DEADLINE_S), 0, f"appending: {child.said[-300:]}")
    disk = Disk(made.folder)
    for call in calls_in(log):
        if call.name == "write" and call.path == made.folder / "synced.log":
            file = disk.names[call.path]
            tally.same(file.safe, file.content, "a record was appended before the one before it was safe")
            tally.inject(real=True, kind="append")
        disk.do(call)
    tally.expect(disk.safe_names[made.folder / "synced.log"].safe.count(b"\n") == APPENDED, "records that are safe")


APPENDED = 25
APPENDS = "tests.faults.tails:append"


def append(arguments: list[str]) -> int:
    """In a fresh process: append records to a log."""
    log = AppendLog(Path(arguments[0]))
    for number in range(APPENDED):
        log.append({"record": number})
    log.close()
    return 0


def replayed(tally: Tally, made: Stage) -> None:
    """Record a clockd's calls on its ledger and the knobs, stop the machine after each of them, and recover."""
    clockd = made.clockd(*QUIET)
    log = made.folder / "calls"
    with attached(clockd.pid, (), watched(made), CALLS, log, whole=True):
        with made.client() as client:
            walk(client)
        clockd.send(signal.SIGTERM)
        clockd.wait(DEADLINE_S)
    calls = calls_in(log)
    knobs = frozenset(made.originals)
    for early in set(out_of_order(calls, knobs, made.ledger)):
        tally.expect(False, early)
    tally.note("calls_replayed", len(calls))
    made.close(tally)
    states = list(_states(made, log))
    tally.expect(sum(bool(knobs) for knobs, _ in states) > 20, "the log shows no knob being written")
    for number, (knobs_then, found) in enumerate(tally.thin(states)):
        real = number % 4 == 0
        made.reset()
        _put(made, knobs_then, found)
        tally.inject(real=real, kind="prefix")
        _recovers(tally, made, changed=bool(knobs_then), real=real, what=f"crash state {number}")


def _states(made: Stage, log: Path) -> Iterator[tuple[dict[Path, bytes], Found]]:
    """Every distinct state a power loss may leave: the knobs that were written, and the ledger's folder."""
    disk, knobs, seen = Disk(made.ledger.parent), dict[Path, bytes](), set()
    for call in calls_in(log):
        before = disk.names[call.path].content if call.path in disk.names else b""
        disk.do(call)
        crashes = list(disk.crashes())
        if call.name in ("write", "pwrite64"):
            if disk.owns(call.path) and call.path in disk.names:
                crashes += disk.torn(before, call.path)
            elif call.path in made.originals:
                knobs = {**knobs, call.path: call.content}
        for found in crashes:
            key = (tuple(sorted(knobs.items())), tuple(sorted(found.items())))
            if key not in seen:
                seen.add(key)
                yield knobs, found


def _put(made: Stage, knobs: dict[Path, bytes], found: Found) -> None:
    made.run_dir.make()
    for path, content in knobs.items():
        path.write_bytes(content)
    for name, content in found.items():
        (made.run_dir.root / name).write_bytes(content)


def _recovers(tally: Tally, made: Stage, *, changed: bool, real: bool, what: str) -> None:
    """Once a knob was written, its original is known; before, a torn ledger may mean the board's own range."""
    if real:
        helper = made.restore()
        tally.same(helper.code, 0, f"{what}: exit code ({helper.said[-200:]})")
        made.close(tally)
    else:
        board = open_board("auto", made.root, sleep=lambda _: None)
        ledger_of("auto", made.root, made.run_dir.root).restore(board)
    left = made.changed()
    if changed:
        tally.same(left, {}, f"{what}: left changed")
    else:
        strange = {path: value for path, value in left.items() if value not in OWN_RANGE.get(Path(path).name, ())}
        tally.same(strange, {}, f"{what}: values that are neither original nor the board's own")
    again = made.ledger.exists() and made.ledger.stat().st_size > 0
    tally.expect(not again, f"{what}: the ledger still asks to be restored")


UNUSUAL = {
    f"{GPU}/max_freq": "1122000000",
    f"{GPU}/min_freq": "408000000",
    f"{CPU}/cpufreq/policy0/scaling_max_freq": "1728000",
    f"{CPU}/cpufreq/policy4/scaling_max_freq": "1651200",
}
"""Originals that differ from the board's own range, so that the second line cannot pass for the first."""
OWN_RANGE = {
    "min_freq": ("306000000",),
    "max_freq": ("1300500000", "1122000000"),
    "scaling_max_freq": ("2201600", "1728000", "1651200"),
    "scaling_min_freq": ("115200",),
    "rate": ("3199000000",),
}


def _unusual(made: Stage) -> None:
    for path, value in UNUSUAL.items():
        (made.root / path).write_text(f"{value}\n")
    made.originals = made.files()


def _subject() -> Subject:
    return Subject("Jetson AGX Orin", False, ("resnet18",), (Slo(0.95, 0.05, 10.0),), {"gpu_hz": (306_000_000,)})


def _record(number: int) -> TrialRecord:
    return TrialRecord({"gpu_hz": 306_000_000.0, "batch": number + 1.0}, Feasible(), 0.5, 0.02, 6.0, 100, 0.03)


def _history(folder: Path) -> Path:
    history = History(folder, _subject())
    for number in range(RECORDS):
        history.add(_record(number), float(number))
    history.close()
    return history.path


def _goes_on(tally: Tally, folder: Path, sound: int, what: str) -> None:
    """Open a damaged history: `sound` trials are there, and one more can be added, twice over."""
    for late in (RECORDS, RECORDS + 1):
        history = History(folder, _subject())
        try:
            wanted = [_record(number) for number in range(sound)]
            tally.same(history.trials(), wanted + [_record(n) for n in range(RECORDS, late)], what)
            history.add(_record(late), 0.0)
        finally:
            history.close()
    history = History(folder, _subject())
    tally.same(len(history.trials()), sound + 2, f"{what}: records after two more")
    history.close()
