# SPDX-License-Identifier: Apache-2.0
"""How fast a folder's storage writes and reads past the page cache, measured there.

On a board with unified memory the page cache is the very memory that paging should free, so transfers bypass it
(O_DIRECT). Where that is refused, or the folder lies in memory, the result says so.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ..paging.channel import Channel
from ..paging.disk import open_disk
from ..paging.marks import marker_of
from ..paging.nameless import BLOCK_BYTES
from ..paging.page_file import PageFile, layout

PIECE_BYTES = 8 << 20
RANDOM_BYTES = 1 << 20
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
    """Pages of two storages, a block and `size_bytes`, moved as those of a step are: copied, checked, by a thread."""

    def __init__(self, folder: Path, size_bytes: int = PIECE_BYTES, sealed: bool = False) -> None:
        sizes = {size: size for size in (BLOCK_BYTES, size_bytes)}
        disk = open_disk(folder, layout(sizes)[1])
        self.direct = disk.direct
        self._pages = Channel(PageFile(disk, str(folder), sizes, marker_of(sealed)))
        # what compresses would flatter some devices
        random = torch.frombuffer(bytearray(os.urandom(RANDOM_BYTES)), dtype=torch.uint8)
        self._memory = {
            size: random.repeat(-(-size // RANDOM_BYTES))[:size].clone().untyped_storage() for size in sizes
        }

    def __enter__(self) -> PagingFile:
        return self

    def __exit__(self, *raised: object) -> None:
        self._pages.close()

    def write(self, size_bytes: int) -> None:
        """Write the storage of that size."""
        self._pages.write(size_bytes, self._memory[size_bytes])
        self._pages.wait(size_bytes)

    def read(self, size_bytes: int) -> None:
        """Read it back into memory that is taken anew, as in a step: that takes longer than to fill what is at hand."""
        self._memory[size_bytes].resize_(0)
        self._pages.read(size_bytes, self._memory[size_bytes])
        self._pages.wait(size_bytes)


def measure_speeds(
    folder: Path,
    size_bytes: int = 64 << 20,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
    *,
    sealed: bool = False,
    pause: Callable[[], object] = lambda: None,
) -> Speeds:
    """The speeds of a folder's storage; medians. `pause` is called between transfers.

    Raises `PageStoreFull`, and `OSError` (no such folder).
    """
    with PagingFile(folder, size_bytes, sealed) as file:
        file.write(BLOCK_BYTES)  # the first time is slower: blocks that were only reserved become written ones
        file.write(size_bytes)
        found = {}
        for name, call in (("write", file.write), ("read", file.read)):
            block_s = _median_s(partial(call, BLOCK_BYTES), 4 * repeats, clock, pause)
            whole_s = _median_s(partial(call, size_bytes), repeats, clock, pause)
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


def _median_s(call: Callable[[], None], repeats: int, clock: Callable[[], float], pause: Callable[[], object]) -> float:
    spans = []
    for _ in range(repeats):
        pause()
        start_s = clock()
        call()
        spans.append(clock() - start_s)
    return statistics.median(spans)
