# SPDX-License-Identifier: Apache-2.0
"""What pages lie on: a nameless file past the page cache, or memory with faults that can be switched on."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ..errors import PageStoreFailed, PageStoreFull
from .nameless import BLOCK_BYTES, open_nameless

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
CANNOT_RESERVE = {errno.EOPNOTSUPP, errno.EINVAL}
"""File systems without `fallocate`; the C library's own way around that makes writes that direct files refuse."""
FILL_BYTES = 1 << 20


class Disk(Protocol):
    """Bytes at offsets. Both calls say how many bytes they moved, perhaps fewer than asked, and raise `OSError`."""

    def write(self, piece: memoryview, offset: int) -> int: ...

    def read(self, piece: memoryview, offset: int) -> int: ...

    def close(self) -> None: ...


class FileDisk:
    """A file; calls that signals interrupt are made again by Python (PEP 475)."""

    def __init__(self, descriptor: int, direct: bool) -> None:
        self.descriptor, self.direct = descriptor, direct

    def write(self, piece: memoryview, offset: int) -> int:
        """Written, and out of the page cache, which is the very memory that pages should free."""
        moved = os.pwrite(self.descriptor, piece, offset)
        if not self.direct:
            os.fdatasync(self.descriptor)
            os.posix_fadvise(self.descriptor, offset, moved, os.POSIX_FADV_DONTNEED)
        return moved

    def read(self, piece: memoryview, offset: int) -> int:
        """Read, and out of the page cache again."""
        moved = os.preadv(self.descriptor, [piece], offset)
        if not self.direct:
            os.posix_fadvise(self.descriptor, offset, moved, os.POSIX_FADV_DONTNEED)
        return moved

    def reserve(self, size_bytes: int) -> None:
        """Take all the room at once; raises `OSError`."""
        try:
            os.posix_fallocate(self.descriptor, 0, size_bytes)
        except OSError as error:
            if error.errno not in CANNOT_RESERVE:
                raise
            with mmap.mmap(-1, FILL_BYTES) as zeros, memoryview(zeros) as fill:
                for offset in range(0, size_bytes, FILL_BYTES):
                    with fill[: min(FILL_BYTES, size_bytes - offset)] as piece:
                        move_all(self.write, piece, offset)

    def close(self) -> None:
        """The file is gone."""
        os.close(self.descriptor)


def open_disk(folder: Path, size_bytes: int) -> FileDisk:
    """A file of so many bytes in a folder.

    Raises `PageStoreFull`, `PageStoreFailed`, and `OSError` (no such folder, not writable).
    """
    state = os.statvfs(folder)
    free_bytes = state.f_bavail * state.f_frsize
    if size_bytes > free_bytes:  # reserving would find out too, but only with the last free block taken
        raise PageStoreFull(str(folder), size_bytes, f"{free_bytes} bytes are free")
    try:
        with full_said(str(folder), size_bytes):
            return _reserved(folder, size_bytes)
    except OSError as error:
        if error.errno == errno.EIO:
            raise PageStoreFailed(str(folder), size_bytes, str(error.strerror)) from error
        raise


def _reserved(folder: Path, size_bytes: int) -> FileDisk:
    disk = FileDisk(*open_nameless(folder))
    try:
        disk.reserve(size_bytes)
    except OSError:
        disk.close()
        raise
    return disk


def move_all(call: Callable[[memoryview, int], int], piece: memoryview, offset: int) -> None:
    """Move a piece of whole blocks in as many calls as it takes; raises `OSError`."""
    done = 0
    while done < len(piece):
        with piece[done:] as rest:
            # direct transfers go on from a block's edge only
            moved = call(rest, offset + done) // BLOCK_BYTES * BLOCK_BYTES
        if moved <= 0:
            raise OSError(errno.EIO, f"{done} of {len(piece)} bytes were moved, and then no more")
        done += moved


@contextmanager
def full_said(where: str, wanted_bytes: int) -> Iterator[None]:
    """Turn what the system says when there is no room into `PageStoreFull`."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise PageStoreFull(where, wanted_bytes, str(error.strerror)) from error
        raise


class MemoryDisk:
    """A disk in anonymous memory for tests; its faults are attributes, and none is set.

    `full_at_write`: the n-th write from now on, and all after it, find no room (0: the next). `short_bytes`: no call
    moves more. `broken`: the error number of every read. `forgets`: writes seem to succeed and change nothing.
    `slow_s`: what every call takes longer. `calls`: the offsets of all calls so far.
    """

    def __init__(self, size_bytes: int, sleep: Callable[[float], None] = time.sleep) -> None:
        self._bytes = mmap.mmap(-1, max(1, size_bytes))
        self._sleep = sleep
        self.full_at_write: int | None = None
        self.short_bytes: int | None = None
        self.broken: int | None = None
        self.forgets = False
        self.slow_s = 0.0
        self.calls: list[int] = []

    def write(self, piece: memoryview, offset: int) -> int:
        """All of it, but for faults."""
        self._called(offset)
        if self.full_at_write is not None:
            self.full_at_write -= 1
            if self.full_at_write < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        moved = min(len(piece), self.short_bytes or len(piece))
        if not self.forgets:
            self._bytes[offset : offset + moved] = piece[:moved]
        return moved

    def read(self, piece: memoryview, offset: int) -> int:
        """All of it, but for faults."""
        self._called(offset)
        if self.broken is not None:
            raise OSError(self.broken, os.strerror(self.broken))
        moved = min(len(piece), self.short_bytes or len(piece))
        piece[:moved] = self._bytes[offset : offset + moved]
        return moved

    def flip_bit(self, offset: int, bit: int = 0) -> None:
        """Corrupt one byte."""
        self._bytes[offset] ^= 1 << bit

    def close(self) -> None:
        """Forget all of it."""
        self._bytes.close()

    def _called(self, offset: int) -> None:
        self.calls.append(offset)
        self._sleep(self.slow_s)
