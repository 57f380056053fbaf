# SPDX-License-Identifier: Apache-2.0
"""Storages that are out of RAM: begun, waited for, held still while inference computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import UntypedStorage

from .errors import PageStoreFull
from .paging.channel import Channel
from .paging.disk import MemoryDisk, open_disk
from .paging.marks import Checksum, marker_of
from .paging.page_file import PageFile, layout
from .paging.pinned import PinnedStore


class Pages(Protocol):
    """Storages that are out of RAM. One transfer at a time, in the order in which they were begun."""

    def write(self, number: int, memory: UntypedStorage) -> None:
        """Begin to write a storage; holds `memory` until it is written."""
        ...

    def read(self, number: int, memory: UntypedStorage) -> None:
        """Begin to read one; `memory` is resized to the stored size when the transfer starts.

        It is empty again when that fails, unless the storage is lost (see `empty`): then `memory` is left alone.
        """
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


def open_pages(
    folder: Path, sizes_bytes: Mapping[int, int], *, sealed: bool = False, quota_bytes: int | None = None
) -> Pages:
    """Pages in a nameless file in a folder, with room for all of `sizes_bytes` from the start.

    `sealed`: encrypted with a key that dies with the process (extra `sealed`); otherwise protected by checksums alone.
    Raises `PageStoreFull` (also when their bytes exceed the quota), `PageStoreFailed`, `CryptographyMissing`, and
    `OSError` when the folder is none or not writable.
    """
    wanted_bytes = sum(sizes_bytes.values())
    if quota_bytes is not None and wanted_bytes > quota_bytes:
        raise PageStoreFull(str(folder), wanted_bytes, f"the quota is {quota_bytes} bytes")
    marker = marker_of(sealed)
    disk = open_disk(folder, layout(sizes_bytes)[1])
    return Channel(PageFile(disk, str(folder), sizes_bytes, marker))


class MemoryPages(Channel):
    """Pages in anonymous memory: everything but a real disk, whose faults `disk` switches on."""

    def __init__(self, sizes_bytes: Mapping[int, int]) -> None:
        offsets, size_bytes = layout(sizes_bytes)
        self.disk, self.offsets = MemoryDisk(size_bytes), offsets
        super().__init__(PageFile(self.disk, "memory", sizes_bytes, Checksum()))


class PinnedPages(Channel):
    """Pages of a discrete GPU's storages in pinned host memory; for what the calling thread's current stream computes.

    On a board whose memory is the GPU's too they would free nothing: pages belong on storage there.
    """

    def __init__(self, device: torch.device, sizes_bytes: Mapping[int, int]) -> None:
        super().__init__(PinnedStore(device, sizes_bytes))
