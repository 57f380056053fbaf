# SPDX-License-Identifier: Apache-2.0
"""Pages: fixed-layout mmap files by which processes tell each other things without a system call.

Every page begins with the same four words: magic, layout version, pid of the owner, heartbeat (CLOCK_MONOTONIC, ns).
Each field has one writer. A single word is stored and loaded whole by the hardware. Anything longer is a *record*:
packed together with a CRC-32, so that a reader who meets a half-written one sees that and reads again; this holds on
weakly ordered processors (Arm) too, where a sequence counter written from Python would not.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import PageLayoutMismatch, PageUnreadable

if TYPE_CHECKING:
    from typing_extensions import Self

WORD = 8
HEADER_WORDS = 4
MAGIC, VERSION, PID, HEARTBEAT = range(HEADER_WORDS)
STALE_NS = 1_000_000_000
"""A page whose heartbeat is older than this belongs to a dead or hung process."""

_READ_TRIES = 8


class Record:
    """Where a record lies in a page, and how it is packed; `fmt` is a `struct` format without byte order."""

    __slots__ = ("_check", "_layout", "offset", "size")

    def __init__(self, offset_bytes: int, fmt: str) -> None:
        self._layout = struct.Struct("<" + fmt)
        self._check = self._layout.size
        self.offset = offset_bytes
        self.size = -(-(self._layout.size + 4) // WORD) * WORD

    def write(self, memory: mmap.mmap, values: tuple[Any, ...], at: int = 0) -> None:
        """Store `values` as the `at`-th record of a run that begins at this record's offset."""
        payload = self._layout.pack(*values)
        start = self.offset + at * self.size
        memory[start : start + self._check + 4] = payload + _crc(payload)

    def read(self, memory: mmap.mmap, at: int = 0) -> tuple[Any, ...] | None:
        """The values, or None if the record was never written or stayed torn through eight reads."""
        start = self.offset + at * self.size
        for _ in range(_READ_TRIES):
            raw = memory[start : start + self._check + 4]
            payload = raw[: self._check]
            if raw[self._check :] == _crc(payload):
                return self._layout.unpack(payload)
            if not any(raw):
                return None
        return None


def _crc(payload: bytes) -> bytes:
    # Seeded, so that a page of zeros holds no valid record.
    return zlib.crc32(payload, 0x7E6).to_bytes(4, "little")


class Page:
    """One mapped page. `words` gives its 64-bit words; loads and stores of one word are atomic."""

    magic: bytes
    version: int
    size: int

    def __init__(self, path: Path, memory: mmap.mmap, inode: int) -> None:
        self.path = path
        self.memory = memory
        self._inode = inode
        self.words = memoryview(memory).cast("Q")

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new, zeroed page at `path`, mode 0660, owned by this process; replaces what was there by rename."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o660)
        try:
            os.truncate(descriptor, cls.size)
            page = cls(path, mmap.mmap(descriptor, cls.size), os.fstat(descriptor).st_ino)
        finally:
            os.close(descriptor)
        page.words[MAGIC] = int.from_bytes(cls.magic, "little")
        page.words[VERSION] = cls.version
        page.words[PID] = os.getpid()
        page.beat()
        temporary.replace(path)
        return page

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> Self:
        """Map an existing page.

        Raises `PageUnreadable` if it cannot be opened, `PageLayoutMismatch` if it is no page of this kind and version.
        """
        try:
            flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags)
        except OSError as error:
            raise PageUnreadable(path, error.strerror or str(error)) from error
        try:
            status = os.fstat(descriptor)
            if status.st_size != cls.size:
                raise PageLayoutMismatch(path, f"{cls.size} bytes", f"{status.st_size} bytes")
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            page = cls(path, mmap.mmap(descriptor, cls.size, access=access), status.st_ino)
        finally:
            os.close(descriptor)
        expected = (int.from_bytes(cls.magic, "little"), cls.version)
        found = (page.words[MAGIC], page.words[VERSION])
        if found != expected:
            page.close()
            raise PageLayoutMismatch(path, f"{cls.magic!r} version {cls.version}", f"{found}")
        return page

    def beat(self) -> None:
        """Say that the owner is alive; due at least every 100 ms, also when idle."""
        self.words[HEARTBEAT] = time.monotonic_ns()

    @property
    def pid(self) -> int:
        """Process id of the owner."""
        return int(self.words[PID])

    def age_ns(self, now_ns: int) -> int:
        """Nanoseconds since the owner's last beat."""
        return now_ns - int(self.words[HEARTBEAT])

    def alive(self, now_ns: int | None = None) -> bool:
        """Whether the owner beat within the last second."""
        return self.age_ns(time.monotonic_ns() if now_ns is None else now_ns) <= STALE_NS

    def close(self) -> None:
        """Unmap; the file stays."""
        self.words.release()
        self.memory.close()

    def remove(self) -> None:
        """Unmap, and delete the file unless another process has put its own page there."""
        if self.path.exists() and self.path.stat().st_ino == self._inode:
            self.path.unlink()
        self.close()


def text(raw: bytes) -> str:
    """A fixed-width name field as text."""
    return raw.rstrip(b"\0").decode("utf-8", "replace")


def fixed(name: str, width: int) -> bytes:
    """`name` as a fixed-width field; one that is too long is cut at `width` bytes."""
    return name.encode()[:width].ljust(width, b"\0")
