# SPDX-License-Identifier: Apache-2.0
"""Durable files: a whole file replaced at once, and a log that survives a torn tail.

A log line is `crc32-of-the-rest JSON`. A crash may tear the last line; the next writer first ends it with a newline
(the newline guard), so that the new record never sticks to the torn one.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def replace(path: Path, content: bytes, mode: int = 0o640) -> None:
    """Put `content` at `path` so that a reader, or a crash, sees the old file or the new one and nothing between.

    One writer at a time: the temporary file has one name, so that what a crash leaves of it is overwritten.
    """
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    except OSError:
        temporary.unlink()
        raise
    finally:
        os.close(descriptor)
    temporary.replace(path)
    sync_folder(path.parent)


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write every byte, however many calls that takes."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Make names created, renamed or removed in `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AppendLog:
    """An append-only log of JSON objects, each on the disk before `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        fresh = not path.exists()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        size = os.fstat(self._descriptor).st_size
        self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
        if fresh:
            sync_folder(path.parent)

    def append(self, record: Json) -> None:
        """Write one record and wait until the disk has it; raises `OSError` (disk full) with the log still readable."""
        guard = b"\n" if self._torn else b""
        self._torn = True  # until all of it is written
        write_all(self._descriptor, guard + encode(record))
        self._torn = False
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def encode(record: Json) -> bytes:
    """One log line."""
    body = json.dumps(record, separators=(",", ":"), sort_keys=True).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> Json | None:
    """The record in a log line, None if the line is torn or damaged."""
    checksum, _, body = line.partition(b" ")
    if b"%08x" % zlib.crc32(body) != checksum:
        return None
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def read_log(path: Path) -> Iterator[Json]:
    """Every intact record, in order; torn lines are passed over, a missing log is empty."""
    if path.exists():
        for line in path.read_bytes().splitlines():
            if (record := decode(line)) is not None:
                yield record


def quarantine(path: Path) -> Path:
    """Move a damaged file aside as `<name>.corrupt-<n>` and say where to; nothing is ever deleted."""
    number = 0
    while os.path.lexists(aside := path.with_name(f"{path.name}.corrupt-{number}")):
        number += 1
    path.rename(aside)
    sync_folder(path.parent)
    return aside
