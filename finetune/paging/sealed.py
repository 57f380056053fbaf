# SPDX-License-Identifier: Apache-2.0
"""Pages that nobody can read or change on storage: AES-256-GCM, with a key that is never anywhere but in this process.

Training data shows in activations. A piece's nonce is a count, so that none is used twice with the key, and stays in
RAM with its tag: an older piece put back, or one from another place, is refused like a changed one.
"""

from __future__ import annotations

import ctypes

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .marks import bytes_at

NONCE_BYTES = 12
TAG_BYTES = 16


class Seal:
    """A `Marker` that encrypts; its buffer needs `TAG_BYTES` behind each piece."""

    def __init__(self) -> None:
        self._cipher = AESGCM(AESGCM.generate_key(256))
        self._count = 0

    def seal(self, memory: int, buffer: int, size_bytes: int) -> bytes:
        """Encrypted; nonce and tag."""
        nonce = self._count.to_bytes(NONCE_BYTES, "big")
        self._count += 1
        sealed = bytes_at(buffer, size_bytes + TAG_BYTES)
        self._cipher.encrypt_into(nonce, bytes_at(memory, size_bytes), None, sealed)
        return nonce + ctypes.string_at(buffer + size_bytes, TAG_BYTES)

    def unseal(self, buffer: int, memory: int, size_bytes: int, mark: bytes) -> bool:
        """Decrypted, if nonce and tag fit."""
        nonce, tag = mark[:NONCE_BYTES], mark[NONCE_BYTES:]
        ctypes.memmove(buffer + size_bytes, tag, TAG_BYTES)
        sealed = bytes_at(buffer, size_bytes + TAG_BYTES)
        try:
            self._cipher.decrypt_into(nonce, sealed, None, bytes_at(memory, size_bytes))
        except InvalidTag:
            return False
        return True
