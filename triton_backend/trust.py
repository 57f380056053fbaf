# SPDX-License-Identifier: Apache-2.0
"""Which model files may be opened.

A file lies inside the model's version folder, no part of its path there is a symbolic link, it is a regular file, and
it has the SHA-256 that config.pbtxt or `digest.json` pins. What was checked is what gets loaded: the bytes are read
once, from the descriptor that was checked, so nobody can swap the file in between.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path, PurePosixPath

from .errors import ModelFileRefused

DIGESTS = "digest.json"
_PINNED_ONLY = (".pt2",)
_ALLOWED = (".safetensors", ".onnx", *_PINNED_ONLY)
_MAX_DIGESTS_BYTES = 1 << 20


def read_model_file(folder: Path, name: str, pinned: str | None = None) -> bytes:
    """The content of `folder/name`, if it may be trusted; `pinned` is a SHA-256 that outranks `digest.json`.

    Raises `ModelFileRefused`. Formats that can hold a pickle: `.pt2` only when pinned, any other never.
    """
    path = folder / name
    suffix = PurePosixPath(name).suffix
    if suffix not in _ALLOWED:
        raise ModelFileRefused(path, f"only {', '.join(_ALLOWED)} are opened; other formats may run code when loaded")
    expected = pinned or _digest_of(folder, name)
    if expected is None and suffix in _PINNED_ONLY:
        raise ModelFileRefused(path, f"{suffix} archives may hold pickles: pin its SHA-256 with `teg models pin`")
    content = _read_regular(folder, name)
    found = hashlib.sha256(content).hexdigest()
    if expected is not None and found != expected:
        raise ModelFileRefused(path, f"SHA-256 is {found}, pinned is {expected}")
    return content


def _digest_of(folder: Path, name: str) -> str | None:
    """The SHA-256 that `digest.json` pins for `name`; None without such a file."""
    if not os.path.lexists(folder / DIGESTS):
        return None
    raw = _read_regular(folder, DIGESTS, _MAX_DIGESTS_BYTES)
    try:
        files = json.loads(raw)["files"]
        digest = files[name]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileRefused(folder / name, f"{DIGESTS} does not pin it ({type(error).__name__})") from error
    if not isinstance(digest, str):
        raise ModelFileRefused(folder / name, f"{DIGESTS} does not pin it as text")
    return digest


def _read_regular(folder: Path, name: str, max_bytes: int | None = None) -> bytes:
    """The bytes of a regular file below `folder`, reached without following any link."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise ModelFileRefused(folder / name, "it must lie inside the version folder")
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in parts[:-1]:
            directory = _step(directory, part)
        descriptor = _open_last(directory, parts[-1])
    except OSError as error:
        raise ModelFileRefused(folder / name, error.strerror or str(error)) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ModelFileRefused(folder / name, "not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        if max_bytes is not None and status.st_size > max_bytes:
            raise ModelFileRefused(folder / name, f"{status.st_size} bytes are more than {max_bytes}")
        return file.read()


def _step(directory: int, part: str) -> int:
    """Descend one folder and close the one above."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(part, flags, dir_fd=directory)
    finally:
        os.close(directory)


def _open_last(directory: int, part: str) -> int:
    """Open a file without following a link, and without blocking on a FIFO; closes the folder."""
    try:
        return os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)
