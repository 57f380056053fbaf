# SPDX-License-Identifier: Apache-2.0
"""A lower and an upper limit of one clock, in two kernel files, moved without ever crossing.

Linux 4.9 answers EINVAL to a crossed range (devfreq.c, cpufreq.c); later kernels take it and let the upper limit win.
"""

from __future__ import annotations

from .tree import Tree, read_int


class Limits:
    """Two limits in whatever unit their files count; `rest` is how they stood while nobody asked for anything."""

    def __init__(self, tree: Tree, lower_path: str, upper_path: str) -> None:
        self._tree = tree
        self.lower_path = lower_path
        self.upper_path = upper_path
        self.rest: tuple[int, int] | None = None

    @property
    def paths(self) -> tuple[str, str]:
        """Both files."""
        return self.lower_path, self.upper_path

    def read(self) -> tuple[int, int]:
        """Lower and upper limit as they read back: the range in force, other users' limits included."""
        return read_int(self._tree, self.lower_path), read_int(self._tree, self.upper_path)

    def rescan(self) -> None:
        """Take the limits as they stand for those at rest."""
        self.rest = self.read()

    def forget(self) -> None:
        """Nothing is known of rest: the files could not be read then."""
        self.rest = None

    def request(self, lowest: int | None, highest: int | None) -> None:
        """Ask for one limit or both; going up the upper one is written first, going down the lower one."""
        writes = [(self.lower_path, lowest), (self.upper_path, highest)]
        if highest is not None and highest >= read_int(self._tree, self.upper_path):
            writes.reverse()
        for path, value in writes:
            if value is not None:
                self._tree.write(path, str(value))

    def lowest_below(self, highest: int) -> int:
        """The lower limit that goes with an upper one: that at rest, as far as it stays below.

        So a limit that one request had to lower comes back with the next that has room for it.
        """
        resting = self.rest[0] if self.rest else read_int(self._tree, self.lower_path)
        return min(resting, highest)
