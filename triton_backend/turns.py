# SPDX-License-Identifier: Apache-2.0
"""Turns on the one GPU of a virtual board: a batch waits for the operation that training has under way.

On a real board the silicon sees to that. On a virtual one training and inference really run on the host, each stretched
by itself, so that both must be kept from having the GPU at once. Training stops asking for it as soon as a request is
in flight, so that the wait is what is left of one operation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from telemetry.errors import PageError
from telemetry.trainer_page import TrainerPage

POLL_S = 0.0002
SCAN_NS = 250_000_000
"""How often the trainer's page is looked for."""
SILENT_NS = 250_000_000
"""A trainer that has not beaten for so long, five times what is due, has died within its operation."""


class Turns:
    """Reads the trainer's page at `path`, which comes and goes."""

    def __init__(
        self,
        path: Path,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path, self._clock_ns, self._sleep = path, clock_ns, sleep
        self._page: TrainerPage | None = None
        self._inode = 0
        self._scanned_ns: int | None = None

    def wait(self) -> None:
        """Block until training does not have the GPU; a trainer that no longer beats has nothing."""
        now_ns = self._clock_ns()
        if self._scanned_ns is None or now_ns - self._scanned_ns >= SCAN_NS:
            self._scanned_ns = now_ns
            self._scan()
        page = self._page
        while page is not None and now_ns < (until_ns := page.occupied_until_ns) and page.age_ns(now_ns) <= SILENT_NS:
            self._sleep(min(POLL_S, (until_ns - now_ns) / 1e9))
            now_ns = self._clock_ns()

    def close(self) -> None:
        """Let go of the page."""
        if self._page is not None:
            self._page.close()
            self._page = None

    def _scan(self) -> None:
        inode = self._path.stat().st_ino if self._path.exists() else 0
        if inode == self._inode:
            return
        self.close()
        self._inode = inode
        if inode:
            try:
                self._page = TrainerPage.open(self._path)
            except PageError:
                self._inode = 0  # another version's, or gone again: looked for once more
