# SPDX-License-Identifier: Apache-2.0
"""What pages lie on: the calls that move bytes, and a disk in memory whose faults can be switched on."""

from __future__ import annotations

import errno
import mmap
import time
from collections.abc import Callable
from typing import Protocol


class Disk(Protocol):
    """Bytes at offsets. Both calls say how many bytes they moved, perhaps fewer than asked, and raise `OSError`."""

    def write(self, piece: memoryview, offset: int) -> int: ...

    def read(self, piece: memoryview, offset: int) -> int: ...

    def close(self) -> None: ...


class MemoryDisk:
    """A disk in anonymous memory, for tests and for want of a better one; its faults are attributes.

    `full_at_write`: the n-th write from now on finds no room (0: the next). `slow_s`: what every call takes longer.
    """

    def __init__(self, size_bytes: int, sleep: Callable[[float], None] = time.sleep) -> None:
        self._bytes = mmap.mmap(-1, max(1, size_bytes))
        self._sleep = sleep
        self.full_at_write: int | None = None
        self.slow_s = 0.0

    def write(self, piece: memoryview, offset: int) -> int:
        """All of it, unless it is full."""
        self._sleep(self.slow_s)
        if self.full_at_write is not None:
            self.full_at_write -= 1
            if self.full_at_write < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        self._bytes[offset : offset + len(piece)] = piece
        return len(piece)

    def read(self, piece: memoryview, offset: int) -> int:
        """All of it."""
        self._sleep(self.slow_s)
        piece[:] = self._bytes[offset : offset + len(piece)]
        return len(piece)

    def flip_bit(self, offset: int, bit: int = 0) -> None:
        """Corrupt one byte."""
        self._bytes[offset] ^= 1 << bit

    def close(self) -> None:
        """Forget all of it."""
        self._bytes.close()
