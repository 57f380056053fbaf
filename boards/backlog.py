# SPDX-License-Identifier: Apache-2.0
"""Work that a virtual board was told of and has not charged yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .virtual import Load


class Backlog:
    """Loads in the order they were reported.

    There is one GPU, so time is charged once: a batch reports when it ends, all at once, and what does not fit into
    the time that has passed is charged in the time that follows.
    """

    def __init__(self) -> None:
        self._loads: deque[Load] = deque()

    @property
    def pending_s(self) -> float:
        """Busy time not charged yet."""
        return sum(load.busy_s for load in self._loads)

    def add(self, loads: Iterable[Load]) -> None:
        """Put loads at the end; those without busy time are dropped."""
        self._loads.extend(load for load in loads if load.busy_s > 0)

    def take(self, dt_s: float) -> list[Load]:
        """Up to `dt_s` of work, the last piece cut where the time ends."""
        taken: list[Load] = []
        left_s = dt_s
        while self._loads and left_s > 0:
            load = self._loads.popleft()
            busy_s = min(load.busy_s, left_s)
            left_s -= busy_s
            if load.busy_s > busy_s:
                self._loads.appendleft(replace(load, busy_s=load.busy_s - busy_s))
            taken.append(replace(load, busy_s=busy_s))
        return taken
