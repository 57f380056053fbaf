# SPDX-License-Identifier: Apache-2.0
"""The only seam to the machine: kernel files by absolute path, under a root that is passed in."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

from .errors import KnobRefused, SensorImplausible, node_error

_LONGEST = 65536


class Tree(Protocol):
    """Kernel files. Paths begin at `/sys` or `/proc`, whatever the root. Methods raise `NodeError`."""

    def read(self, path: str) -> str:
        """The file's text, without white space or NUL at its end."""
        ...

    def write(self, path: str, text: str) -> None:
        """Write `text` in one call."""
        ...

    def glob(self, pattern: str) -> list[str]:
        """Every path that matches, sorted."""
        ...

    def exists(self, path: str) -> bool:
        """Whether the path is there and may be reached by this user."""
        ...


class SysfsTree:
    """The file system under `root`: `/` on a board, a folder in a test."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> str:
        """The file's text. By descriptor: buffered text input turns EAGAIN from a gated sensor into a TypeError."""
        try:
            descriptor = os.open(self._under_root(path), os.O_RDONLY | os.O_CLOEXEC)
            try:
                raw = os.read(descriptor, _LONGEST)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise node_error(path, error) from error
        return raw.decode("utf-8", "replace").rstrip(" \t\r\n\0")

    def write(self, path: str, text: str) -> None:
        """Write one line in one call, without following a link in the last place, and check that all of it was taken.

        Nothing is truncated before: a process killed in between must not leave an empty knob on a tree of plain files.
        """
        line = f"{text}\n".encode()
        try:
            descriptor = os.open(self._under_root(path), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                taken = os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise node_error(path, error, writing=True) from error
        if taken != len(line):
            raise KnobRefused(path, f"took {taken} of {len(line)} bytes", errno.EIO)

    def glob(self, pattern: str) -> list[str]:
        """Every path that matches, sorted."""
        return sorted("/" + str(found.relative_to(self.root)) for found in self.root.glob(pattern.lstrip("/")))

    def exists(self, path: str) -> bool:
        """Whether the path is there; debugfs hides its files from everybody but root."""
        return os.access(self._under_root(path), os.F_OK)

    def _under_root(self, path: str) -> Path:
        return self.root / path.lstrip("/")


def read_int(tree: Tree, path: str) -> int:
    """The whole number on the first line of a kernel file; raises `SensorImplausible` if there is none."""
    text, _, _ = tree.read(path).partition("\n")
    try:
        return int(text)
    except ValueError as error:
        raise SensorImplausible(path, f"expected a whole number, found {text[:40]!r}") from error
