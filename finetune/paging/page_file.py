# SPDX-License-Identifier: Apache-2.0
"""Where each storage lies on a disk, and how it gets there and back through one page-aligned buffer, piece by piece.

Offsets and lengths are whole blocks and the buffer begins on a page, as direct transfers ask for. Every piece has a
mark in RAM, so that a piece which comes back damaged, stale or from elsewhere is refused.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Mapping

from torch import UntypedStorage

from ..errors import PageCorrupted, PageFailed
from .channel import Between
from .disk import Disk, full_said, move_all
from .marks import Marker
from .nameless import BLOCK_BYTES

PIECE_BYTES = 4 << 20
"""Moved by one call; how long it takes is how late transfers hold still when inference arrives."""


class PageFile:
    """A `Store` on a disk; `where` names that for whoever must make room."""

    def __init__(self, disk: Disk, where: str, sizes_bytes: Mapping[int, int], marker: Marker) -> None:
        self._disk, self._where, self._marker = disk, where, marker
        self._sizes = dict(sizes_bytes)
        self.offsets, _ = layout(sizes_bytes)
        self._marks: dict[int, list[bytes]] = {}
        self._buffer = mmap.mmap(-1, PIECE_BYTES + BLOCK_BYTES)  # a seal needs a few bytes behind the piece
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))

    def write(self, number: int, memory: UntypedStorage, between: Between) -> None:
        """Write a storage; raises `PageStoreFull`, `PageFailed`."""
        if memory.nbytes() != self._size(number, "write", memory):
            raise PageFailed(number, "write", f"{memory.nbytes()} bytes, not {self._sizes[number]}")
        marks = []
        for start, size in _pieces(memory.nbytes()):
            between()
            marks.append(self._marker.seal(memory.data_ptr() + start, self._address, size))
            self._move(self._disk.write, number, "write", start, size)
        self._marks[number] = marks

    def read(self, number: int, memory: UntypedStorage, between: Between) -> None:
        """Read a storage; raises `PageCorrupted`, `PageFailed`."""
        size_bytes = self._size(number, "read", memory)
        if number not in self._marks:
            raise PageFailed(number, "read", "it was never written")
        if memory.nbytes() != size_bytes:
            memory.resize_(size_bytes)
        for (start, size), mark in zip(_pieces(size_bytes), self._marks[number], strict=True):
            between()
            self._move(self._disk.read, number, "read", start, size)
            if not self._marker.unseal(self._address, memory.data_ptr() + start, size, mark):
                raise PageCorrupted(number, start)

    def close(self) -> None:
        """Give the disk and the buffer back."""
        self._disk.close()
        self._buffer.close()

    def _size(self, number: int, act: str, memory: UntypedStorage) -> int:
        if memory.device.type != "cpu":
            raise PageFailed(number, act, f"its memory is on {memory.device.type}, and only the CPU's goes to a file")
        if number not in self._sizes:
            raise PageFailed(number, act, "no room was kept for it when the pages were opened")
        return self._sizes[number]

    def _move(self, call: Callable[[memoryview, int], int], number: int, act: str, start: int, size: int) -> None:
        """One piece between buffer and disk, in as many calls as it takes."""
        size = whole_blocks(size)
        with memoryview(self._buffer) as buffer, buffer[:size] as piece:
            try:
                with full_said(self._where, size):
                    move_all(call, piece, self.offsets[number] + start)
            except OSError as error:
                raise PageFailed(number, act, str(error.strerror)) from error


def whole_blocks(size_bytes: int) -> int:
    """The bytes of the blocks that hold so many."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def layout(sizes_bytes: Mapping[int, int]) -> tuple[dict[int, int], int]:
    """Where each storage begins, on a block's edge, and the bytes of all."""
    offsets, end = {}, 0
    for number, size in sizes_bytes.items():
        offsets[number] = end
        end += whole_blocks(size)
    return offsets, end


def _pieces(size_bytes: int) -> list[tuple[int, int]]:
    """First byte and size of each."""
    return [(start, min(PIECE_BYTES, size_bytes - start)) for start in range(0, size_bytes, PIECE_BYTES)]
