# SPDX-License-Identifier: Apache-2.0
"""A `Tree` in memory: files that are functions, and fail with the errno that the kernel would give."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import NamedTuple

from .errors import node_error


class Node(NamedTuple):
    """One file: how it is read, and written if it may be. Both raise `OSError` as the system call would."""

    read: Callable[[], str]
    write: Callable[[str], None] | None = None


class VirtualTree:
    """A `Tree` over nodes in memory."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self._nodes = nodes
        self._paths = {path: tuple(path.split("/")) for path in nodes}

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
        wanted = pattern.split("/")
        depth = len(wanted)
        found = {
            "/".join(parts[:depth])
            for parts in self._paths.values()
            if len(parts) >= depth and all(map(fnmatchcase, parts, wanted))
        }
        return sorted(found)

    def exists(self, path: str) -> bool:
        """Whether the path is a file or a folder that holds one."""
        return path in self._nodes or any(name.startswith(path + "/") for name in self._nodes)

    def _node(self, path: str) -> Node:
        if path not in self._nodes:
            raise os_error(errno.ENOENT)
        return self._nodes[path]


def os_error(code: int) -> OSError:
    """What a failing system call raises."""
    return OSError(code, os.strerror(code))


def constant(text: object) -> Node:
    """A file that never changes and may not be written."""
    return Node(lambda: str(text))
