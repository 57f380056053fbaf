# SPDX-License-Identifier: Apache-2.0
"""What a row did: how many faults it injected, how many of them into real processes, and what did not hold."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
MOST_FAILURES = 20


class Unfit(Exception):
    """The case could not be set up at all: neither a pass nor a failure of the product."""


@dataclass(slots=True)
class Tally:
    """One row in the making. `every` thins it: of N points every so-many-th is taken."""

    every: int = 1
    injected: int = 0
    real_processes: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def inject(self, times: int = 1, *, real: bool, kind: str = "") -> None:
        """Count faults that were injected; `real`: into a process of its own."""
        with self._lock:
            self.injected += times
            self.real_processes += times if real else 0
            if kind:
                self.kinds[kind] += times

    def expect(self, held: object, what: str) -> bool:
        """Note a part of the outcome that did not hold; whether it held."""
        if not held:
            with self._lock:
                self.failed += 1
                if len(self.failures) < MOST_FAILURES:
                    self.failures.append(what)
        return bool(held)

    def same(self, found: object, wanted: object, what: str) -> bool:
        """Expect two values to be equal, and say both if they are not."""
        return self.expect(found == wanted, f"{what}: {_short(found)} in place of {_short(wanted)}")

    def thin(self, points: Sequence[T], offset: int = 0) -> list[T]:
        """The points that this run takes."""
        return list(points[offset % self.every :: self.every])

    def few(self, times: int) -> int:
        """How often a case of `times` repetitions is repeated in this run, at least once."""
        return max(1, times // self.every)

    def note(self, name: str, value: object) -> None:
        """Keep a figure for the report."""
        self.notes[name] = value

    def worst(self, name: str, value: float) -> None:
        """Keep the largest of several figures."""
        with self._lock:
            self.notes[name] = round(max(value, self.notes.get(name, value)), 4)

    def record(self) -> dict[str, Any]:
        """The row as JSON."""
        return {
            "injected": self.injected,
            "real_processes": self.real_processes,
            "failed": self.failed,
            "failures": self.failures,
            "kinds": dict(self.kinds),
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the fault table: what is injected, how often a release needs it, and the function that does it."""

    number: str
    fault: str
    need: int
    """Injections of a full run."""
    run: str
    """`module:function` below this package; called with a `Tally`."""
    real: int = 20
    """Of these, in real processes."""
    limit_s: float = 900.0
    thin: int = 7
    """A thinned run takes every so-many-th point."""


Runs = Callable[[Tally], None]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 300 else f"{text[:300]}…"
