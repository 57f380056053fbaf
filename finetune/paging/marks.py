# SPDX-License-Identifier: Apache-2.0
"""What is kept of every piece that leaves RAM, to tell whether the same bytes come back."""

from __future__ import annotations

import ctypes
from typing import Protocol

from xxhash import xxh3_64_digest

from ..errors import CryptographyMissing

PYBUF_WRITE = 0x200
_view = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)


class Marker(Protocol):
    """Carries pieces between memory and the buffer that is written; addresses, so that nothing is copied twice."""

    def seal(self, memory: int, buffer: int, size_bytes: int) -> bytes:
        """Bring a piece into the buffer as it shall lie on storage; its mark."""
        ...

    def unseal(self, buffer: int, memory: int, size_bytes: int, mark: bytes) -> bool:
        """Bring it back; whether it is the piece that the mark is of."""
        ...


class Checksum:
    """64 bits of XXH3 over the bytes where they are computed with, so that a slip on the way is seen too."""

    def seal(self, memory: int, buffer: int, size_bytes: int) -> bytes:
        """As they are."""
        mark = xxh3_64_digest(bytes_at(memory, size_bytes))
        ctypes.memmove(buffer, memory, size_bytes)
        return mark

    def unseal(self, buffer: int, memory: int, size_bytes: int, mark: bytes) -> bool:
        """As they are."""
        ctypes.memmove(memory, buffer, size_bytes)
        return xxh3_64_digest(bytes_at(memory, size_bytes)) == mark


def marker_of(sealed: bool) -> Marker:
    """The marker of pages that are sealed or not; raises `CryptographyMissing`."""
    if not sealed:
        return Checksum()
    try:
        from .sealed import Seal
    except ModuleNotFoundError as error:
        raise CryptographyMissing from error
    return Seal()


def bytes_at(address: int, size_bytes: int) -> memoryview:
    """The memory there, to read and write."""
    view: memoryview = _view(address, size_bytes, PYBUF_WRITE)
    return view
