# SPDX-License-Identifier: Apache-2.0
"""What a benchmark aims at, on how many of its rows that holds, and where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """What was aimed at, on how many rows it holds, and where it does not."""

    what: str
    met: int
    of: int
    missed: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line."""
        if not self.of:
            return f"nothing was run: {self.what}"
        verdict = "met" if self.met == self.of else "MISSED"
        where = f" (not: {', '.join(self.missed)})" if self.missed else ""
        return f"{verdict}, {self.met} of {self.of}: {self.what}{where}"


def count(what: str, rows: Sequence[tuple[str, bool]]) -> Target:
    """A target from its rows: the name of each, and whether it holds there."""
    missed = tuple(name for name, met in rows if not met)
    return Target(what, len(rows) - len(missed), len(rows), missed)
