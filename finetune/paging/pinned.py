# SPDX-License-Identifier: Apache-2.0
"""Pages of a discrete GPU's storages in pinned host memory, copied on a stream of their own.

Untested so far: no GPU was at hand. A transfer ends when its copy has, as the host sees it, so that whoever waited may
use or reuse the memory on any stream. Nothing is checked: the pages lie in RAM like everything else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor, UntypedStorage

from ..errors import PageFailed
from .channel import Between
from .page_file import PIECE_BYTES, layout

IN_FLIGHT = 2
"""Pieces that are being copied while the next is begun; what `hold` has to let end."""


class PinnedStore:
    """A `Store` in pinned host memory for what one stream of a GPU computes; the current one of the calling thread."""

    def __init__(self, device: torch.device, sizes_bytes: Mapping[int, int]) -> None:
        self._offsets, total_bytes = layout(sizes_bytes)
        self._sizes = dict(sizes_bytes)
        self._pages = torch.empty(total_bytes, dtype=torch.uint8, pin_memory=True)
        self._written: set[int] = set()
        self._computing, self._copying = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def write(self, number: int, memory: UntypedStorage, between: Between) -> None:
        """Copy a storage to the host, once all that was launched so far has computed it; raises `PageFailed`."""
        if self._sizes.get(number) != memory.nbytes():
            raise PageFailed(number, "write", f"{memory.nbytes()} bytes, not {self._sizes.get(number, 0)}")
        self._written.discard(number)
        self._copy(self._page(number), _bytes_of(memory), between)
        self._written.add(number)

    def read(self, number: int, memory: UntypedStorage, between: Between) -> None:
        """Copy one back; its memory comes from the computing stream's pool, so that freeing it gives room there."""
        if number not in self._written:
            raise PageFailed(number, "read", "it was never written")
        if memory.nbytes() != self._sizes[number]:
            with torch.cuda.stream(self._computing):
                memory.resize_(self._sizes[number])
        self._copy(_bytes_of(memory), self._page(number), between)

    def close(self) -> None:
        """Give the pinned memory back."""
        del self._pages

    def _page(self, number: int) -> Tensor:
        return self._pages[self._offsets[number] :][: self._sizes[number]]

    def _copy(self, target: Tensor, source: Tensor, between: Between) -> None:
        # kernels already launched may still compute what is written, or use memory that was freed and is read into
        self._copying.wait_stream(self._computing)
        flying: deque[torch.cuda.Event] = deque()
        try:
            with torch.cuda.stream(self._copying):
                for start in range(0, target.numel(), PIECE_BYTES):
                    between()
                    target[start : start + PIECE_BYTES].copy_(source[start : start + PIECE_BYTES], non_blocking=True)
                    flying.append(self._copying.record_event())
                    if len(flying) > IN_FLIGHT:
                        flying.popleft().synchronize()
        finally:
            self._copying.synchronize()  # nobody else holds the memory


def _bytes_of(memory: UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=memory.device).set_(memory)
