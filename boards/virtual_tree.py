# SPDX-License-Identifier: Apache-2.0
"""A `Tree` in memory: files that are functions, links, and folders that may go away, with the kernel's errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from .errors import node_error


class Node(NamedTuple):
    """One file: how it is read, and written if it may be. Both raise `OSError` as the system call would."""

    read: Callable[[], str]
    write: Callable[[str], None] | None = None


def _nothing() -> tuple[str, ...]:
    return ()


class VirtualTree:
    """A `Tree` over nodes in memory; `links` leads from paths to the real paths of folders.

    `hidden` says which folders are not there now.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        links: Mapping[str, str] | None = None,
        hidden: Callable[[], Iterable[str]] = _nothing,
    ) -> None:
        self.links = dict(links or {})
        self._nodes = dict(nodes)
        self._hidden = hidden
        self._resolved: dict[str, str] = {}
        self._folders: dict[str, set[str]] = {}
        for path in (*self._nodes, *self.links):
            while path:
                path, _, name = path.rpartition("/")
                self._folders.setdefault(path, set()).add(name)

    def read(self, path: str) -> str:
        """The file's text."""
        try:
            return self._node(path).read()
        except OSError as error:
            raise node_error(path, error) from error

    def write(self, path: str, text: str) -> None:
        """Write the file, or raise as the kernel would."""
        try:
            write = self._node(path).write
            if write is None:
                raise os_error(errno.EACCES)
            write(text)
        except OSError as error:
            raise node_error(path, error, writing=True) from error

    def glob(self, pattern: str) -> list[str]:
        """Every file or folder that matches, sorted."""
        found = [("", "")]
        for wanted in pattern.split("/")[1:]:
            found = [
                (f"{shown}/{name}", self._follow(f"{real}/{name}"))
                for shown, real in found
                for name in self._folders.get(real, ())
                if fnmatchcase(name, wanted)
            ]
        return sorted(shown for shown, real in found if self._is_there(real))

    def exists(self, path: str) -> bool:
        """Whether the path leads to a file or a folder."""
        return self._is_there(self._real(path))

    def watch(self, paths: Iterable[str]) -> Callable[[], bool]:
        """Whether every file still reads as it does now."""
        texts = [(path, self.read(path)) for path in paths]
        return lambda: all(self.read(path) == text for path, text in texts)

    def _node(self, path: str) -> Node:
        real = self._real(path)
        if not self._is_there(real):
            raise os_error(errno.ENOENT)
        if real not in self._nodes:
            raise os_error(errno.EISDIR)
        return self._nodes[real]

    def _is_there(self, real: str) -> bool:
        known = real in self._nodes or real in self._folders
        return known and not any(real == folder or real.startswith(folder + "/") for folder in self._hidden())

    def _real(self, path: str) -> str:
        """The path with every link followed."""
        if path not in self._resolved:
            real = ""
            for name in path.split("/")[1:]:
                real = self._follow(f"{real}/{name}")
            self._resolved[path] = real
        return self._resolved[path]

    def _follow(self, real: str) -> str:
        return self.links.get(real, real)


def os_error(code: int) -> OSError:
    """What a failing system call raises."""
    return OSError(code, os.strerror(code))


def constant(text: object) -> Node:
    """A file that never changes and may not be written."""
    return Node(lambda: str(text))
