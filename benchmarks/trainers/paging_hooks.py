# SPDX-License-Identifier: Apache-2.0
"""Saved tensors in a file by `saved_tensors_hooks`, written and read as the step comes to them.

Parameters, and tensors too small to matter, stay. The file is an ordinary one: what was written lies in the page cache,
which no heap meter sees and which a board with unified memory pays for.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .setting import Setting

SMALL_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Paged:
    """Where a tensor lies in the file, and how to lay it out again."""

    offset: int
    size_bytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class PagingHooks:
    """One file, written from its start in every step."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._file = tempfile.TemporaryFile(dir=setting.folder, prefix="hooks-")  # noqa: SIM115, closed in close()
        self._end = 0
        self._stay = {parameter.untyped_storage()._cdata for parameter in setting.model.parameters()}
        self._stay |= {tensor.untyped_storage()._cdata for tensor in setting.batch}

    def step(self) -> Tensor:
        """Forward with every saved tensor written, backward with every one read."""
        self._end = 0
        with saved_tensors_hooks(self._pack, self._unpack):
            loss = self.setting.forward()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def figures(self) -> Mapping[str, Any]:
        """Bytes written in the last step."""
        return {"written_bytes": self._end}

    def close(self) -> None:
        """The file has no name and is gone."""
        self._file.close()

    def _pack(self, tensor: Tensor) -> Tensor | Paged:
        if tensor.untyped_storage()._cdata in self._stay or tensor.nbytes < SMALL_BYTES:
            return tensor
        found = tensor.detach()
        whole = found if dense(found) else found.contiguous()
        paged = Paged(self._end, whole.nbytes, whole.dtype, tuple(whole.shape), whole.stride())
        _transfer(self._file.fileno(), whole, paged, os.pwritev)
        self._end += whole.nbytes
        return paged

    def _unpack(self, packed: Tensor | Paged) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        found = torch.empty_strided(packed.shape, packed.stride, dtype=packed.dtype)
        _transfer(self._file.fileno(), found, packed, os.preadv)
        return found


def dense(tensor: Tensor) -> bool:
    """Whether a tensor's elements fill one piece of memory, in whatever order: eager's kernels see the same strides."""
    furthest = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.numel() > 0 and furthest + 1 == tensor.numel()


def _transfer(descriptor: int, tensor: Tensor, paged: Paged, call: Any) -> None:
    """Move all bytes of a dense tensor; raises `OSError`."""
    memory = memoryview((ctypes.c_char * paged.size_bytes).from_address(tensor.data_ptr())).cast("B")
    done = 0
    while done < paged.size_bytes:
        moved = call(descriptor, [memory[done:]], paged.offset + done)
        if moved <= 0:
            raise OSError("the file ended early")
        done += moved
