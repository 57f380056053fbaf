# SPDX-License-Identifier: Apache-2.0
"""Which memory rates a board really holds, found out by asking for each through clockd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from boards.clocks import Applied, ClockPoint, ClockTable

HOLD_S = 1.0
"""A lock can be granted and lost to the firmware within a second."""
TTL_S = 5.0


@dataclass(frozen=True, slots=True)
class Probed:
    """One rate: what it read right after it was asked for, and what `HOLD_S` later."""

    asked_hz: int
    granted_hz: int | None
    held_hz: int | None

    @property
    def holds(self) -> bool:
        """Whether it read as asked, and went on doing so."""
        return self.asked_hz == self.granted_hz == self.held_hz


class Clocks(Protocol):
    """Clockd, as its client offers it."""

    def table(self) -> ClockTable:
        """The values the board offers."""
        ...

    def lease(self, point: ClockPoint, ttl_s: float) -> Applied:
        """Hold `point` for `ttl_s` seconds."""
        ...

    def release(self) -> None:
        """Give the clocks back."""
        ...

    def status(self) -> dict[str, Any]:
        """What clockd observes."""
        ...


def probe_emc(clocks: Clocks, sleep: Callable[[float], None]) -> list[Probed]:
    """Every memory rate on offer, asked for in turn with everything else at the top; the clocks go back at the end.

    Raises what the client raises: `ClockdUnavailable`, `LeaseRefused` where somebody else holds the clocks.
    """
    table = clocks.table()
    found = []
    for rate in table.emc_hz:
        applied = clocks.lease(replace(table.maximum(), emc_hz=rate), TTL_S)
        sleep(HOLD_S)
        found.append(Probed(rate, applied.observed.emc_hz, clocks.status()["observed"]["emc_hz"]))
    if found:
        clocks.release()
    return found
