# SPDX-License-Identifier: Apache-2.0
"""Durable files: whole or old, and a log that survives a torn tail."""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import durable
from telemetry.durable import AppendLog, decode, encode, quarantine, read_log, replace

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
RECORDS = [{"n": 0}, {"n": 1, "name": "é\n\u2028 crlf\r\n"}, {"n": 2, "clocks": [1, 2.5, None]}]


def test_replace_makes_and_replaces(tmp_path: Path) -> None:
    """The file holds the new content, with the mode asked for, and no other file is left."""
    path = tmp_path / "state.json"
    replace(path, b"one")
    replace(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_failed_replace_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """On a full or broken disk the old file stays, nothing is left beside it, and the error comes through."""
    path = tmp_path / "state.json"
    replace(path, b"old")

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"):
        replace(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_replace_never_shows_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every system call on the way a reader sees the old content or the new; a short write is continued."""
    path = tmp_path / "state.json"
    replace(path, b"old content")
    seen = []
    real_write, real_fsync = os.write, os.fsync

    def short_write(descriptor: int, data: bytes) -> int:
        seen.append(path.read_bytes())
        return real_write(descriptor, bytes(data[:3]))

    def fsync(descriptor: int) -> None:
        seen.append(path.read_bytes())
        real_fsync(descriptor)

    monkeypatch.setattr(os, "write", short_write)
    monkeypatch.setattr(os, "fsync", fsync)
    replace(path, b"new content")
    assert set(seen) == {b"old content", b"new content"}
    assert seen.count(b"old content") >= 5, "several short writes and the file's fsync precede the rename"
    assert path.read_bytes() == b"new content"


def test_a_link_in_place_of_the_temporary_file_is_refused(tmp_path: Path) -> None:
    """Nobody can make us write through a link they put where our temporary file goes."""
    (tmp_path / ".state.json.new").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        replace(tmp_path / "state.json", b"x")
    assert not (tmp_path / "victim").exists()


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_a_line_carries_any_record(record: dict[str, Any]) -> None:
    """Whatever JSON holds comes back, from one line."""
    line = encode(record)
    assert line.count(b"\n") == 1
    assert decode(line.rstrip(b"\n")) == record


@given(st.data())
def test_a_changed_bit_is_seen(data: st.DataObject) -> None:
    """A line with any one bit flipped is no record."""
    line = bytearray(encode({"gpu_hz": 1300500000, "why": "probe"}).rstrip(b"\n"))
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= 1 << data.draw(st.integers(0, 7))
    assert decode(bytes(line)) is None


@pytest.mark.parametrize("body", [b"[" * 100_000, b"{", b"[1]", b""], ids=["deep", "half", "no object", "empty"])
def test_a_sound_sum_over_nonsense_is_no_record(body: bytes) -> None:
    """A line that was never written by us is passed over, whatever its checksum says."""
    assert decode(b"%08x %s" % (zlib.crc32(body), body)) is None


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    """Nothing written yet reads as nothing."""
    assert list(read_log(tmp_path / "none.log")) == []


def test_a_log_torn_at_every_byte(tmp_path: Path) -> None:
    """Cut anywhere, a log yields its whole records, and takes new ones that are read back whole."""
    whole = b"".join(encode(record) for record in RECORDS)
    ends = [len(b"".join(encode(r) for r in RECORDS[: n + 1])) for n in range(len(RECORDS))]
    path = tmp_path / "history.log"
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        # a record is whole once its last byte is there, the newline after it or not
        survivors = RECORDS[: sum(end - 1 <= length for end in ends)]
        assert list(read_log(path)) == survivors
        log = AppendLog(path)
        log.append({"after": length})
        log.close()
        assert list(read_log(path)) == [*survivors, {"after": length}]


def test_append_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`append` returns after fdatasync; a disk error comes through and the log stays readable."""
    calls: list[str] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (calls.append("sync"), real(descriptor))[1])
    log = AppendLog(tmp_path / "a.log")
    log.append({"n": 1})
    assert calls == ["sync"]
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space"):
        log.append({"n": 2})
    monkeypatch.undo()
    assert list(read_log(tmp_path / "a.log")) == [{"n": 1}]
    log.close()


@pytest.mark.parametrize("reopen", [True, False], ids=["another process", "the same one"])
def test_a_half_written_append_does_not_swallow_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reopen: bool
) -> None:
    """After an append that stopped half-way (disk full), the next one ends the torn line first."""
    path = tmp_path / "a.log"
    log = AppendLog(path)
    real = os.write

    def stop_half_way(descriptor: int, data: bytes) -> int:
        if len(data) > 10:
            return real(descriptor, bytes(data[:10]))
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", stop_half_way)
    with pytest.raises(OSError, match="Input/output"):
        log.append({"n": 1})
    monkeypatch.undo()
    if reopen:
        log.close()
        log = AppendLog(path)
    log.append({"n": 2})
    log.close()
    assert list(read_log(path)) == [{"n": 2}]


def test_damage_is_set_aside_not_deleted(tmp_path: Path) -> None:
    """Each quarantined file keeps its content under a name of its own."""
    path = tmp_path / "state.json"
    for content in (b"bad", b"worse"):
        path.write_bytes(content)
        quarantine(path)
    assert not path.exists()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        "state.json.corrupt-0": b"bad",
        "state.json.corrupt-1": b"worse",
    }


def test_write_all_continues_after_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes only some bytes is followed by the rest."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:1])))
    descriptor = os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    durable.write_all(descriptor, b"abcdef")
    os.close(descriptor)
    assert (tmp_path / "f").read_bytes() == b"abcdef"
