# SPDX-License-Identifier: Apache-2.0
"""The lease: one holder may hold the clocks for a few seconds at a time. A pure state machine; time comes in.

free --grant--> held --grant by the holder, renew--> held --release, expiry, holder gone--> free (clocks restored)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from boards.clocks import ClockPoint

from .protocol import LONGEST_TTL_S, Refused


@dataclass(frozen=True, slots=True)
class Lease:
    """A point held by one connection until `expires_s` (monotonic seconds)."""

    holder: int
    """The connection; a process that opens a second one is a second client."""
    pid: int
    point: ClockPoint
    expires_s: float

    def expired(self, now_s: float) -> bool:
        """Whether the time to live is over."""
        return now_s >= self.expires_s

    def renewed(self, ttl_s: float, now_s: float) -> Lease:
        """The same lease with a new time to live."""
        return replace(self, expires_s=now_s + _checked(ttl_s))


def grant(current: Lease | None, holder: int, pid: int, point: ClockPoint, ttl_s: float, now_s: float) -> Lease:
    """A lease on `point`; raises `Refused("held")` while somebody else's has not expired."""
    if current is not None and current.holder != holder and not current.expired(now_s):
        raise Refused("held", f"process {current.pid} holds the clocks for {current.expires_s - now_s:.1f} s more")
    return Lease(holder, pid, point, now_s + _checked(ttl_s))


def held_by(current: Lease | None, holder: int, now_s: float) -> Lease:
    """The holder's lease; raises `Refused("no_lease")` if it has none, or none any more."""
    if current is None or current.holder != holder or current.expired(now_s):
        raise Refused("no_lease", "you hold no lease, or it has expired")
    return current


def _checked(ttl_s: float) -> float:
    if not 0 < ttl_s <= LONGEST_TTL_S:
        raise ValueError(f"a lease lives for more than 0 and at most {LONGEST_TTL_S} s, got {ttl_s}")
    return ttl_s
