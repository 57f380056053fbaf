# SPDX-License-Identifier: Apache-2.0
"""Named tensors and a few texts as one safetensors file, which any reader of that format opens.

Written here and not by the library for three reasons: one tensor is in hand at a time and the page cache is left as it
was (a second copy of a model is what a board has no room for), a full disk is an `OSError` with its number, and one
checksum covers every byte, header included. The checksum is the first of the texts, so that its place is known; it is
written last, and an unfinished file is never a valid one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

from telemetry.durable import write_all

from ..errors import CheckpointInvalid
from ..paging.marks import bytes_at

PIECE_BYTES = 8 << 20
MOST_HEADER_BYTES = 100_000_000
"""As the safetensors library has it."""
MOST_DIMENSIONS = 64
_OPENING = b'{"__metadata__":{"checksum":"'
_CHECKSUM_LENGTH = 32
_CHECKSUM_AT = 8 + len(_OPENING)
_CHECKSUM_END = _CHECKSUM_AT + _CHECKSUM_LENGTH
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor's place in a file, in bytes from the header's end."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def write_tensors(
    descriptor: int,
    tensors: Mapping[str, Tensor],
    texts: Mapping[str, str],
    pause: Callable[[], None],
    borrow: Callable[[Tensor], AbstractContextManager[Tensor]],
) -> None:
    """Write an empty file; `pause` is called between pieces, each tensor is in RAM within `borrow`.

    Raises `CheckpointInvalid` (a tensor) and `OSError`.
    """
    # larger elements first, which keeps every tensor aligned
    order = sorted(tensors, key=lambda name: -_known(name, tensors[name]).itemsize)
    header = _header({name: tensors[name] for name in order}, texts)
    total = xxhash.xxh3_128(header)
    write_all(descriptor, bytes(len(header)))
    unsynced = 0
    for name in order:
        with borrow(tensors[name]) as tensor:
            for piece in _pieces(_in_ram(name, tensor).detach().cpu().contiguous()):
                total.update(piece)
                write_all(descriptor, piece)
                unsynced += len(piece)
                if unsynced >= PIECE_BYTES:
                    os.fdatasync(descriptor)
                    _let_go(descriptor, 0)
                    unsynced = 0
                pause()
    os.lseek(descriptor, 0, os.SEEK_SET)
    write_all(descriptor, header[:_CHECKSUM_AT] + total.hexdigest().encode() + header[_CHECKSUM_END:])


def read_tensors(descriptor: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, each in memory of its own, and the texts of a file; raises `CheckpointInvalid` and `OSError`."""
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if not _CHECKSUM_END - 8 < length <= min(MOST_HEADER_BYTES, size - 8):
        raise CheckpointInvalid("header", f"is said to have {length} bytes in a file of {size}")
    header = bytearray(8 + length)
    _fill(descriptor, memoryview(header), 0)
    if header[8:_CHECKSUM_AT] != _OPENING:
        raise CheckpointInvalid("header", "does not begin as that of a checkpoint")
    told = bytes(header[_CHECKSUM_AT:_CHECKSUM_END])
    header[_CHECKSUM_AT:_CHECKSUM_END] = b"0" * _CHECKSUM_LENGTH
    total = xxhash.xxh3_128(header)
    entries, texts = _parsed(bytes(header[8:]), size - len(header))
    tensors = {}
    for entry in entries:
        flat = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
        position = len(header) + entry.begin
        for piece in _pieces(flat):
            position = _fill(descriptor, piece, position)
            total.update(piece)
        _let_go(descriptor, position)
        if entry.dtype is torch.bool and flat.numel() and int(flat.max()) > 1:
            raise CheckpointInvalid(entry.name, "holds what is neither true nor false")
        tensors[entry.name] = _shaped(flat, entry)
    if total.hexdigest().encode() != told:
        raise CheckpointInvalid("checksum", "is not that of the file: it was damaged")
    return tensors, texts


def _known(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype not in _NAMES:
        raise CheckpointInvalid(name, f"is of {tensor.dtype}, which no checkpoint can hold")
    return tensor


def _in_ram(name: str, tensor: Tensor) -> Tensor:
    """The tensor, if its memory may be read: one that is paged out has none."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + last + 1) * tensor.itemsize if tensor.numel() else 0
    if tensor.untyped_storage().nbytes() < needed:
        raise CheckpointInvalid(name, "is not in RAM: give `save` the step's `borrowed`")
    return tensor


def _header(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> bytes:
    """The file up to its first tensor, with zeros for the checksum."""
    content: dict[str, object] = {"__metadata__": {"checksum": "0" * _CHECKSUM_LENGTH, **texts}}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.numel() * tensor.itemsize
        content[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MOST_HEADER_BYTES:
        raise CheckpointInvalid("header", f"would have {len(text)} bytes")
    return len(text).to_bytes(8, "little") + text


def _parsed(header: bytes, data_bytes: int) -> tuple[list[_Entry], dict[str, str]]:
    """Where each tensor lies, in the order of the file, which they fill without a gap; and the texts."""
    try:
        content = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise CheckpointInvalid("header", f"is not JSON: {error}") from error
    texts = content.pop("__metadata__")
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise CheckpointInvalid("header", "has texts that are none")
    entries = sorted(
        (_entry(name, found) for name, found in content.items()), key=lambda entry: (entry.begin, entry.end)
    )
    reached = 0
    for entry in entries:
        if entry.begin != reached:
            raise CheckpointInvalid(entry.name, f"begins at byte {entry.begin}, not at {reached}")
        reached = entry.end
    if reached != data_bytes:
        raise CheckpointInvalid("header", f"speaks of {reached} bytes of tensors, there are {data_bytes}")
    return entries, texts


def _entry(name: str, found: object) -> _Entry:
    match found:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)], **rest} if not rest:
            whole = len(shape) <= MOST_DIMENSIONS and all(type(size) is int and 0 <= size < 1 << 63 for size in shape)
            if dtype in _DTYPES and whole and end - begin == math.prod(shape) * _DTYPES[dtype].itemsize and begin >= 0:
                return _Entry(name, _DTYPES[dtype], tuple(shape), begin, end)
    raise CheckpointInvalid(name, "has no type, shape and place that agree")


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor without gaps, valid as long as it lives; by `numpy()` it could never be resized again."""
    for begin in range(0, tensor.nbytes, PIECE_BYTES):
        yield bytes_at(tensor.data_ptr() + begin, min(PIECE_BYTES, tensor.nbytes - begin))


def _fill(descriptor: int, buffer: memoryview, position: int) -> int:
    """Read until the buffer is full; the position behind it."""
    while buffer:
        count = os.preadv(descriptor, [buffer], position)
        if not count:
            raise CheckpointInvalid("header", "speaks of more bytes than the file has")
        buffer, position = buffer[count:], position + count
    return position


def _shaped(flat: Tensor, entry: _Entry) -> Tensor:
    try:
        return flat.view(entry.dtype).view(entry.shape)
    except RuntimeError as error:  # sizes beside a zero may be beyond measure
        raise CheckpointInvalid(entry.name, f"has a shape that no tensor has: {entry.shape}") from error


def _let_go(descriptor: int, end: int) -> None:
    """Leave the page cache up to `end` (0: all of it): with unified memory it is the memory that training needs."""
    os.posix_fadvise(descriptor, 0, end, os.POSIX_FADV_DONTNEED)
