# SPDX-License-Identifier: Apache-2.0
"""Storages that are out of RAM: begun, waited for, held still while inference computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import UntypedStorage

from .paging.channel import Channel
from .paging.disk import MemoryDisk
from .paging.marks import Checksum
from .paging.page_file import PageFile, layout


class Pages(Protocol):
    """Storages that are out of RAM. One transfer at a time, in the order in which they were begun."""

    def write(self, number: int, memory: UntypedStorage) -> None:
        """Begin to write a storage; holds `memory` until it is written."""
        ...

    def read(self, number: int, memory: UntypedStorage) -> None:
        """Begin to read one; `memory` is resized to the stored size when the transfer starts."""
        ...

    def wait(self, number: int, timeout_s: float | None = None) -> bool:
        """Whether the last transfer of a storage ended in time.

        Raises what it met: `PageStoreFull`, `PageCorrupted`, `PageFailed`.
        """
        ...

    def done(self, number: int) -> bool:
        """Whether it has ended; `wait` then says how."""
        ...

    def empty(self, number: int, memory: UntypedStorage) -> None:
        """Give `memory` back, but not the storage object, once the transfers of it begun so far have ended.

        At once if none is under way. It stays as it is when the last write failed: nothing else holds those bytes.
        """
        ...

    def hold(self) -> None:
        """No more transfers until `go`: they stop between pieces, so one piece may still end."""
        ...

    def go(self) -> None:
        """On with them."""
        ...

    def close(self) -> None:
        """End the thread, and leave nothing behind; what is only on storage is lost."""
        ...


class MemoryPages(Channel):
    """Pages in anonymous memory: everything but a real disk, whose faults `disk` switches on."""

    def __init__(self, sizes_bytes: Mapping[int, int]) -> None:
        offsets, size_bytes = layout(sizes_bytes)
        self.disk, self.offsets = MemoryDisk(size_bytes), offsets
        super().__init__(PageFile(self.disk, "memory", sizes_bytes, Checksum()))
