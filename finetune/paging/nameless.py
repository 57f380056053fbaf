# SPDX-License-Identifier: Apache-2.0
"""Files without a name: whatever ends the process ends them, and nobody else can open them."""

from __future__ import annotations

import errno
import mmap
import os
import re
import secrets
from pathlib import Path

BLOCK_BYTES = 4096
"""What direct transfers are aligned to; no storage in use has larger blocks."""
PREFIX = ".teg-pages-"
NO_NAMELESS = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT}
"""What file systems and kernels without O_TMPFILE say to it (open(2))."""


def open_nameless(folder: Path) -> tuple[int, bool]:
    """A descriptor of a new file in a folder, readable by this user alone, and whether it bypasses the page cache.

    Not on a file system that refuses O_DIRECT at once or with the first block. Raises `OSError`.
    """
    sweep(folder)
    descriptor = _open_direct(folder)
    return (_open(folder, 0), False) if descriptor is None else (descriptor, True)


def sweep(folder: Path) -> None:
    """Remove the names, of empty files, that processes left behind that were killed between opening and unlinking."""
    for path in folder.glob(f"{PREFIX}*"):
        found = re.fullmatch(rf"{re.escape(PREFIX)}(\d+)-[0-9a-f]+", path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            path.unlink(missing_ok=True)


def _open(folder: Path, extra: int) -> int:
    flags = os.O_RDWR | os.O_EXCL | os.O_CLOEXEC | extra
    try:
        return os.open(folder, flags | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno not in NO_NAMELESS or not folder.is_dir():
            raise
    return open_and_unlink(folder / f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}", flags)


def open_and_unlink(path: Path, flags: int) -> int:
    """For file systems without nameless files: the name is gone, and nothing was written, before anybody is told."""
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    finally:
        path.unlink(missing_ok=True)  # a refused O_DIRECT may have made it too


def _open_direct(folder: Path) -> int | None:
    """None where direct transfers are refused."""
    try:
        descriptor = _open(folder, os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None
    try:
        with mmap.mmap(-1, BLOCK_BYTES) as block:
            os.pwrite(descriptor, block, 0)
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.EINVAL:
            raise
        return None
    return descriptor
