# SPDX-License-Identifier: Apache-2.0
"""Durable files that are too large to be held at once: written piece by piece, and there whole or not at all.

A writer holds a lock on its temporary file for as long as it lives, so what a killed one has left can be told apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from .durable import sync_folder

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.new")


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o640) -> Iterator[int]:
    """A descriptor to write what is at `path`, durably, once the block has ended.

    A reader, or a crash, sees the old file or the new one and nothing between. After any error the old one is there
    and the temporary file is gone.
    """
    temporary, descriptor = _open_temporary(path, mode)
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
            temporary.replace(path)
        finally:
            os.close(descriptor)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sweep(folder: Path) -> list[Path]:
    """Remove the temporary files of writers that were killed; those removed. Files of others are passed over."""
    swept = []
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError, PermissionError, BlockingIOError):
                _remove_if_left(path)
                swept.append(path)
    return swept


def _remove_if_left(path: Path) -> None:
    """Raises `BlockingIOError` if its writer lives."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


def _open_temporary(path: Path, mode: int) -> tuple[Path, int]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # swept before it was locked
