# SPDX-License-Identifier: Apache-2.0
"""How fast a folder's storage writes and reads past the page cache, measured there.

On a board with unified memory the page cache is the very memory that paging should free, so transfers bypass it
(O_DIRECT). Where that is refused the result says so: its figures are then those of a copy in memory.
"""

from __future__ import annotations

import errno
import mmap
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..paging.nameless import BLOCK_BYTES, open_nameless

PIECE_BYTES = 8 << 20
IN_MEMORY = {"tmpfs", "ramfs"}


@dataclass(frozen=True, slots=True)
class Speeds:
    """A folder's storage: seconds of a transfer without bytes, and bytes per second of a long one.

    `direct`: whether transfers bypass memory; not on a file system that lives there or that refuses O_DIRECT.
    """

    write_latency_s: float
    write_bytes_per_s: float
    read_latency_s: float
    read_bytes_per_s: float
    filesystem: str
    direct: bool

    def write_s(self, size_bytes: int) -> float:
        """Seconds to write so many bytes."""
        return self.write_latency_s + size_bytes / self.write_bytes_per_s

    def read_s(self, size_bytes: int) -> float:
        """Seconds to read them back."""
        return self.read_latency_s + size_bytes / self.read_bytes_per_s


class PagingFile:
    """A nameless file in a folder, and one page-aligned buffer to move to and fro."""

    def __init__(self, folder: Path) -> None:
        self._descriptor, self.direct = open_nameless(folder)
        self._buffer = mmap.mmap(-1, PIECE_BYTES)
        self._buffer.write(os.urandom(1 << 20) * (PIECE_BYTES >> 20))  # what compresses would flatter some devices

    def __enter__(self) -> PagingFile:
        return self

    def __exit__(self, *raised: object) -> None:
        os.close(self._descriptor)
        self._buffer.close()

    def write(self, size_bytes: int) -> None:
        """Write so many bytes from the start of the file, a multiple of a block, in pieces."""
        self._move(size_bytes, os.pwritev)

    def read(self, size_bytes: int) -> None:
        """Read them."""
        self._move(size_bytes, os.preadv)

    def _move(self, size_bytes: int, call: Callable[[int, list[memoryview], int], int]) -> None:
        done = 0
        with memoryview(self._buffer) as buffer:
            while done < size_bytes:
                with buffer[: min(PIECE_BYTES, size_bytes - done)] as piece:
                    moved = call(self._descriptor, [piece], done)
                if moved <= 0:
                    raise OSError(errno.EIO, "the paging file ended early")
                done += moved


def measure_speeds(
    folder: Path, size_bytes: int = 64 << 20, repeats: int = 5, clock: Callable[[], float] = time.perf_counter
) -> Speeds:
    """The speeds of a folder's storage; medians. Raises `OSError` (no such folder, no room)."""
    with PagingFile(folder) as file:
        file.write(size_bytes)  # blocks are allocated the first time, not when they are written again
        found = {}
        for name, call in (("write", file.write), ("read", file.read)):
            block_s = _median_s(partial(call, BLOCK_BYTES), 4 * repeats, clock)
            whole_s = _median_s(partial(call, size_bytes), repeats, clock)
            bytes_per_s = (size_bytes - BLOCK_BYTES) / max(whole_s - block_s, 1e-9)
            found[name] = (max(0.0, block_s - BLOCK_BYTES / bytes_per_s), bytes_per_s)
    filesystem = filesystem_of(folder)
    return Speeds(*found["write"], *found["read"], filesystem, file.direct and filesystem not in IN_MEMORY)


def filesystem_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that a folder is on; "unknown" if the kernel lists no such mount."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return "unknown"


def _median_s(call: Callable[[], None], repeats: int, clock: Callable[[], float]) -> float:
    spans = []
    for _ in range(repeats):
        start_s = clock()
        call()
        spans.append(clock() - start_s)
    return statistics.median(spans)
