# SPDX-License-Identifier: Apache-2.0
"""Ledger and history damaged at random: flipped, cut, emptied, of another version, or somebody else's altogether."""

from __future__ import annotations

import json
import random
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from boards.discover import open_board
from boards.errors import NoBoard
from governor.clockd.ledger import ClockLedger, boot_id
from governor.history import History
from governor.trial import TrialRecord
from telemetry.durable import decode

from .governors import MODULES, Governed, governed
from .kills import QUIET, dirty
from .record import Tally
from .stage import Stage, due, stage, until
from .tails import OWN_RANGE, RECORDS, _history, _record, _subject, _unusual
from .traffic import Traffic
from .zygote import Zygote

READY_WITHIN_S = 5.0
EACH = 5_000


def flipped(content: bytes, draw: random.Random) -> bytes:
    """Some bits are others."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(content: bytes, draw: random.Random) -> bytes:
    """The end is missing, or the beginning, or something between."""
    first, last = sorted((draw.randrange(len(content)), draw.randrange(len(content))))
    return draw.choice((content[:first], content[last:], content[:first] + content[last:]))


def emptied(content: bytes, draw: random.Random) -> bytes:
    """No bytes, or as many zeros."""
    return draw.choice((b"", b"\0" * len(content), b"\0" * draw.randrange(1, 70_000)))


def foreign(content: bytes, draw: random.Random) -> bytes:
    """Bytes that were never ours."""
    return draw.choice((draw.randbytes(draw.randrange(1, 5000)), b"\xff\xfe{}\n", b"[" * 3000, b"null\n", b"\n\n\n"))


def other_version(content: bytes, draw: random.Random) -> bytes:
    """Lines whose checksum is right and whose record is not ours: fields gone, renamed, or of another kind."""
    lines = []
    for line in content.splitlines():
        record = json.loads(line.partition(b" ")[2])
        lines.append(_sealed(_mutated(record, draw)))
    return b"".join(lines)


KINDS: tuple[Callable[[bytes, random.Random], bytes], ...] = (flipped, cut, emptied, foreign, other_version)


def corrupted(tally: Tally) -> None:
    """Row 18: nothing crashes, no unknown value is written, what is damaged is kept aside."""
    with Zygote() as zygote, stage(zygote, tally) as made:
        _unusual(made)
        dirty(made)
        sound = made.ledger.read_bytes()
        made.close(tally)
        left = {path: path.read_bytes() for path in made.originals}
        _ledgers(tally, made, sound)
        _restarts(tally, made, sound, left)
    _histories(tally)
    with Zygote(MODULES) as zygote, Traffic() as traffic, governed(zygote, traffic, tally) as scene:
        _governors(tally, scene)


def _governors(tally: Tally, scene: Governed) -> None:
    """Real governors over damaged histories: each has its lease in time, and keeps what it could not read."""
    draw = random.Random(8)
    first = scene.govern()
    until(lambda: len(scene.records()) > 2, "a history to damage")
    scene.ended(tally, first)
    sound = scene.history.read_bytes()
    for number in range(tally.few(20)):
        kind = KINDS[number % len(KINDS)]
        damaged = kind(sound, draw)
        scene.history.write_bytes(damaged)
        before = set(scene.state.glob("*.corrupt-*"))
        tally.inject(real=True, kind="governor over a damaged history")
        what = f"governor over a history {kind.__name__} ({damaged[:60]!r})"
        began_s = time.monotonic()
        child = scene.govern()
        try:
            until(lambda child=child: scene.moved(child), "a lease", due(READY_WITHIN_S))
            tally.worst("slowest_governor_s", time.monotonic() - began_s)
        except (TimeoutError, RuntimeError) as error:
            tally.expect(False, f"{what}: {error}")
        kept = set(scene.state.glob("*.corrupt-*")) - before
        if kept:
            tally.same([path.read_bytes() for path in kept], [damaged], f"{what}: kept aside")
            tally.expect("history" in child.said, f"{what}: no log line names it: {child.said[-200:]}")
        scene.ended(tally, child)


def _ledgers(tally: Tally, made: Stage, sound: bytes) -> None:
    """The same function that all three restorers call, on a board of files, in virtual time."""
    draw = random.Random(18)
    board = open_board("auto", made.root, clock=time.monotonic, sleep=lambda _: None)
    for number in range(tally.few(EACH)):
        kind = KINDS[number % len(KINDS)]
        damaged = kind(sound, draw)
        made.reset()
        made.run_dir.make()
        made.ledger.write_bytes(damaged)
        tally.inject(real=False, kind=f"ledger {kind.__name__}")
        what = f"ledger {kind.__name__} {number}"
        try:
            ClockLedger(made.ledger, boot_id(made.root)).restore(board)
        except Exception as error:  # noqa: BLE001 - any error at all is what this row looks for
            # A sound record of another board is not this one's to undo; it stays, and nothing is written.
            if tally.expect(isinstance(error, NoBoard) and _of_another_board(damaged), f"{what}: {error!r}"):
                tally.same(made.changed(), {}, f"{what}: written for another board")
            continue
        _judge(tally, made, damaged, what)


def _restarts(tally: Tally, made: Stage, sound: bytes, left: dict[Path, bytes]) -> None:
    """Real processes: clockd is up in time whatever it finds, and `teg restore` ends with 0."""
    draw = random.Random(180)
    for number in range(tally.few(40)):
        kind = KINDS[number % len(KINDS)]
        while _of_another_board(damaged := kind(sound, draw)):
            continue
        made.reset()
        made.run_dir.make()
        for path, content in left.items():
            path.write_bytes(content)
        made.ledger.write_bytes(damaged)
        tally.inject(real=True, kind="restart")
        what = f"restart over a ledger {kind.__name__} ({damaged[:80]!r})"
        if number % 2:
            helper = made.restore()
            tally.same(helper.code, 0, f"{what}: exit code")
            said = helper.said
        else:
            began_s = time.monotonic()
            clockd = made.clockd(*QUIET)
            tally.worst("slowest_ready_s", time.monotonic() - began_s)
            tally.expect(time.monotonic() - began_s < due(READY_WITHIN_S), f"{what}: ready late")
            with made.client() as client:
                tally.same(client.status()["restore_pending"], False, f"{what}: restore_pending")
            said = clockd.said
            clockd.end()
        _judge(tally, made, damaged, what)
        if list(made.run_dir.root.glob("*.corrupt-*")):
            tally.expect("damaged" in said, f"{what}: no log line names the fault: {said[-300:]}")
        made.close(tally)


def _judge(tally: Tally, made: Stage, damaged: bytes, what: str) -> None:
    """Values are originals or the board's own; the ledger is done with; damaged bytes are kept."""
    now = made.changed()
    strange = {path: value for path, value in now.items() if value not in OWN_RANGE.get(Path(path).name, ())}
    tally.same(strange, {}, f"{what}: unknown values")
    tally.expect(not made.ledger.exists(), f"{what}: the ledger still asks to be restored")
    kept = [path.read_bytes() for path in made.run_dir.root.glob(f"{made.ledger.name}.corrupt-*")]
    tally.kinds["quarantined"] += bool(kept)
    if kept:
        tally.same(kept, [damaged], f"{what}: kept aside")
    else:
        # a record of another boot is void, and one that only lost its newline is whole
        tally.expect(b"boot" in damaged, f"{what}: neither restored from nor kept")


def _histories(tally: Tally) -> None:
    draw = random.Random(81)
    with tempfile.TemporaryDirectory(prefix="teg-faults-") as folder:
        sound = _history(Path(folder) / "whole").read_bytes()
        whole = [_record(number) for number in range(RECORDS)]
        for number in range(tally.few(EACH)):
            kind = KINDS[number % len(KINDS)]
            case = Path(folder) / f"{number}"
            case.mkdir()
            (case / "history.log").write_bytes(kind(sound, draw))
            tally.inject(real=False, kind=f"history {kind.__name__}")
            what = f"history {kind.__name__} {number}"
            try:
                _reads_on(tally, case, whole if kind is not other_version else None, what)
            except Exception as error:  # noqa: BLE001 - any error at all is what this row looks for
                tally.expect(False, f"{what}: {type(error).__name__}: {error}")


def _reads_on(tally: Tally, folder: Path, whole: list[TrialRecord] | None, what: str) -> None:
    """The history opens, offers no trial that was never made, and takes one more."""
    history = History(folder, _subject())
    try:
        earlier = history.trials()
        if whole is not None:
            tally.expect(all(trial in whole for trial in earlier), f"{what}: a trial that was never made")
        history.add(_record(9), 9.0)
        tally.same(history.trials()[-1:], [_record(9)], f"{what}: the next record")
    finally:
        history.close()


def _of_another_board(content: bytes) -> bool:
    record = decode(content.rstrip(b"\n")) or {}
    return isinstance(record.get("board"), str) and record["board"] != "auto"


def _mutated(record: dict[str, object], draw: random.Random) -> object:
    strange: list[object] = [None, -1, 1.5, "", "x" * 99, [], {}, {"a": []}, True, 10**30, "0x10", [1]]
    choice = draw.randrange(5)
    if choice == 0:
        return draw.choice(strange)
    name = draw.choice(list(record))
    if choice == 1:
        record.pop(name)
    elif choice == 2:
        record[name] = draw.choice(strange)
    elif choice == 3:
        record[f"{name}_2"] = record.pop(name)
    else:
        inner = record.get(draw.choice(("originals", "point")))
        if isinstance(inner, dict) and inner:
            inner[draw.choice(list(inner))] = draw.choice(strange)
        else:
            record["format"] = 99
    return record


def _sealed(record: object) -> bytes:
    body = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)
