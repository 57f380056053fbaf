# SPDX-License-Identifier: Apache-2.0
"""The served models that a trainer looks at: their instances' pages, as they come and go."""

from __future__ import annotations

from pathlib import Path

from telemetry.errors import PageError
from telemetry.instance_page import InstancePage
from telemetry.pages import STALE_NS
from telemetry.rundir import RunDir

RESCAN_NS = 250_000_000
"""How often the run directory is searched for instances that came or went."""
SILENT_NS = 500_000_000
"""A page without a beat for so long, five times what is due, may belong to a dead or hung process."""


class Watched:
    """The instance pages of a run directory, as they come and go.

    One that falls silent is kept for as long as its file is there, so that `silent` can tell; it holds nothing.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._scanned_ns: int | None = None
        self._open: dict[tuple[str, int], tuple[InstancePage, memoryview]] = {}
        self._served: tuple[tuple[InstancePage, memoryview], ...] = ()

    def look(self, now_ns: int) -> None:
        """Open the pages that came and let go of those that went, now and then."""
        if self._scanned_ns is not None and now_ns - self._scanned_ns < RESCAN_NS:
            return
        self._scanned_ns = now_ns
        found = {key for path in self._run_dir.instances.glob("*.page") if (key := _key(path))}
        for gone in self._open.keys() - found:
            _let_go(*self._open.pop(gone))
        for key in sorted(found - self._open.keys()):
            try:
                page = InstancePage.open(self._run_dir.instances / key[0])
            except PageError:
                continue
            self._open[key] = page, page.gate
        served = (entry for entry in self._open.values() if (info := entry[0].info) is None or info.served)
        self._served = tuple(served)

    def gates(self, now_ns: int) -> tuple[memoryview, ...]:
        """The words that say how many requests are in flight, of instances that live; good until the next `look`."""
        return tuple(gate for page, gate in self._served if page.alive(now_ns))

    def silent(self, now_ns: int) -> bool:
        """Whether an instance has just fallen silent; after a second it counts as gone, and others decide."""
        return any(SILENT_NS < page.age_ns(now_ns) <= STALE_NS for page, _ in self._served)

    def close(self) -> None:
        """Unmap the pages."""
        for entry in self._open.values():
            _let_go(*entry)
        self._open.clear()
        self._served = ()


def _let_go(page: InstancePage, gate: memoryview) -> None:
    gate.release()
    page.close()


def _key(path: Path) -> tuple[str, int] | None:
    """A page file's identity: a new owner puts a new file at the same path."""
    try:
        return path.name, path.stat().st_ino
    except FileNotFoundError:
        return None
