# SPDX-License-Identifier: Apache-2.0
"""The only seam to the machine: kernel files by absolute path, under a root that is passed in."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from .errors import KnobRefused, SensorImplausible, node_error

_PAGE = 4096
"""A sysfs file ends there."""
_LONGEST = 65536
_BLANK = b" \t\r\n\0"
"""More than any table in debugfs has."""


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

    def watch(self, paths: Iterable[str]) -> Callable[[], bool]:
        """A question cheap enough to ask often: whether every file still reads as it does now."""
        ...


class _Kept(NamedTuple):
    """A file that stays open."""

    descriptor: int
    plain: bool
    """Whether it lies in a file system with blocks: the kernel's own have none."""


class SysfsTree:
    """The file system under `root`: `/` on a board, a folder in a test.

    A file read for the second time stays open: in sysfs, opening costs ten times what reading from the start does, and
    twenty times a second that is the difference between 1 % of a core and a tenth of it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._prefix = str(root).rstrip("/")
        self._kept: dict[str, _Kept] = {}
        self._read_before: set[str] = set()

    def read(self, path: str) -> str:
        """The file's text. By descriptor: buffered text input turns EAGAIN from a gated sensor into a TypeError."""
        kept = self._kept.get(path)
        raw = b"" if kept is None else self._read_kept(path, *kept)
        if not raw:
            try:
                raw = self._read_anew(path)
            except OSError as error:
                raise node_error(path, error) from error
        return raw.rstrip(_BLANK).decode("utf-8", "replace")

    def write(self, path: str, text: str) -> None:
        """Write one line in one call, without following a link in the last place, and check that all of it was taken.

        Nothing is truncated before: a process killed in between must not leave an empty knob on a tree of plain files.
        """
        line = f"{text}\n".encode()
        try:
            descriptor = os.open(self._prefix + path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
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
        return os.access(self._prefix + path, os.F_OK)

    def watch(self, paths: Iterable[str]) -> Callable[[], bool]:
        """Whether every file still reads as it does now: texts are compared, not understood."""
        texts = [(path, self.read(path).encode()) for path in paths]

        def still() -> bool:
            for path, text in texts:
                kept = self._kept.get(path)
                raw = b"" if kept is None else self._read_kept(path, *kept)
                if raw.rstrip(_BLANK) != text and self.read(path).encode() != text:
                    return False
            return True

        return still

    def close(self) -> None:
        """Close every file that was kept open; reading opens them again."""
        while self._kept:
            os.close(self._kept.popitem()[1].descriptor)

    def __del__(self) -> None:
        self.close()

    def _read_kept(self, path: str, descriptor: int, plain: bool) -> bytes:
        """What a kept file reads from the start, nothing where it is of no more use.

        The kernel's files answer ENODEV or EIO when their device has gone; a plain file that was replaced has no name
        left. Whatever else fails, or is longer than a page, is asked once more by path: what that says counts.
        """
        raw = b""
        try:
            if not plain or os.fstat(descriptor).st_nlink:
                raw = os.pread(descriptor, _PAGE, 0)
        except OSError:
            raw = b""
        if not 0 < len(raw) < _PAGE:
            os.close(self._kept.pop(path).descriptor)
            return b""
        return raw

    def _read_anew(self, path: str) -> bytes:
        descriptor = os.open(self._prefix + path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            raw = os.pread(descriptor, _LONGEST, 0)
            if path in self._read_before:
                self._kept[path] = _Kept(descriptor, os.fstatvfs(descriptor).f_blocks > 0)
        finally:
            if path not in self._kept:
                os.close(descriptor)
        self._read_before.add(path)
        return raw


class Patient:
    """A tree whose writes are tried again while the kernel is busy (EBUSY, EAGAIN): 3 times within 200 ms at most."""

    TRIES = 3
    WITHIN_S = 0.200

    def __init__(self, tree: Tree, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._write = tree.write
        self._clock = clock
        self._sleep = sleep
        self.read = tree.read
        self.glob = tree.glob
        self.exists = tree.exists
        self.watch = tree.watch

    def write(self, path: str, text: str) -> None:
        """Write `text`; what stays busy is raised as the kernel said it."""
        pause_s = self.WITHIN_S / (self.TRIES + 1)
        started_s = self._clock()
        for tries in itertools.count(1):
            try:
                self._write(path, text)
            except KnobRefused as error:
                late = self._clock() - started_s + pause_s > self.WITHIN_S
                if error.code not in (errno.EBUSY, errno.EAGAIN) or tries == self.TRIES or late:
                    raise
                self._sleep(pause_s)
            else:
                return


def read_int(tree: Tree, path: str) -> int:
    """The whole number on the first line of a kernel file; raises `SensorImplausible` if there is none."""
    text = tree.read(path)
    try:
        # A plain file may hold what a longer value left behind.
        return int(text.partition("\n")[0])
    except ValueError as error:
        raise SensorImplausible(path, f"expected a whole number, found {text[:40]!r}") from error


def read_ints(tree: Tree, path: str) -> tuple[int, ...]:
    """The whole numbers of a kernel file, in its order; raises `SensorImplausible` if anything else stands there."""
    text = tree.read(path)
    try:
        return tuple(map(int, text.split()))
    except ValueError as error:
        raise SensorImplausible(path, f"expected whole numbers, found {text[:40]!r}") from error
