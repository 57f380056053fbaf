# SPDX-License-Identifier: Apache-2.0
"""The board page: what clockd knows of the board, in one record.

Counters only grow, so anybody may difference them. The joules of an interval are known to the growth of
`energy_error_j` plus `averaging_s` times the range of `power_w` in it: what sampling, and the sensor's averaging, hide.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from .pages import HEADER_WORDS, WORD, Page, Record, fixed, text

RAILS = 8
ZONES = 12
Point = tuple[int | None, ...]
"""The five knobs gpu_hz, gpu_min_hz, emc_hz, cpu_hz, cores; None where the board lacks one."""


@dataclass(frozen=True, slots=True)
class BoardReading:
    """One look at the board; times are CLOCK_MONOTONIC nanoseconds."""

    board: str
    virtual: bool
    observe_only: bool
    sampled_ns: int
    requested: Point
    observed: Point
    energy_j: float
    energy_error_j: float
    """Bound on what sampling may have missed so far."""
    power_w: float
    lease_pid: int
    """Holder of the lease, 0 if nobody holds one and the clocks are the board's own."""
    lease_expires_ns: int
    throttle_events: int
    """Throttle and over-current events since clockd started."""
    foreign_changes: int
    """Times somebody else was seen to change a clock that a lease held."""
    brief_throttles: int = 0
    """Instantaneous over-current events since clockd started."""
    averaging_s: float = 0.0
    """Window over which the power sensor averages."""
    power_missing_s: float = 0.0
    """Time without a power reading that could be trusted, since clockd started."""
    power_same_s: float = 0.0
    """For how long every rail has shown exactly the same."""
    zones_age_s: float = 0.0
    """Age of the last temperature that could be read."""
    rails_w: dict[str, float] = field(default_factory=dict)
    zones_celsius: dict[str, float] = field(default_factory=dict)


_NAMED = "16sd"
_READING = Record(HEADER_WORDS * WORD, "64sBBQ5Q5QdddQQQQQdddd" + _NAMED * (RAILS + ZONES))


class BoardPage(Page):
    """Written by clockd at every sample, read by everybody."""

    magic = b"TEGBOARD"
    version = 2
    size = _READING.offset + _READING.size

    def write(self, reading: BoardReading) -> None:
        """Publish one reading and beat."""
        named = _pack(reading.rails_w, RAILS) + _pack(reading.zones_celsius, ZONES)
        clocks = [value or 0 for value in (*reading.requested, *reading.observed)]
        head = (fixed(reading.board, 64), reading.virtual, reading.observe_only, reading.sampled_ns)
        energy = (reading.energy_j, reading.energy_error_j, reading.power_w)
        counts = (reading.throttle_events, reading.foreign_changes, reading.brief_throttles)
        trust = (reading.averaging_s, reading.power_missing_s, reading.power_same_s, reading.zones_age_s)
        lease = (reading.lease_pid, reading.lease_expires_ns)
        _READING.write(self.memory, (*head, *clocks, *energy, *lease, *counts, *trust, *named))
        self.beat()

    def read(self) -> BoardReading | None:
        """The latest reading, None before the first."""
        fields = _READING.read(self.memory)
        if fields is None:
            return None
        clocks = [value or None for value in fields[4:14]]
        rails, zones = fields[26 : 26 + 2 * RAILS], fields[26 + 2 * RAILS :]
        name, virtual, observe_only, sampled_ns = text(fields[0]), bool(fields[1]), bool(fields[2]), fields[3]
        reading = BoardReading(
            name, virtual, observe_only, sampled_ns, tuple(clocks[:5]), tuple(clocks[5:]), *fields[14:26]
        )
        return replace(reading, rails_w=_unpack(rails), zones_celsius=_unpack(zones))


def _pack(values: dict[str, float], slots: int) -> list[bytes | float]:
    flat: list[bytes | float] = [b"", 0.0] * slots
    used = min(len(values), slots)
    flat[0 : 2 * used : 2] = _names(tuple(values)[:used])
    flat[1 : 2 * used : 2] = tuple(values.values())[:used]
    return flat


@lru_cache(maxsize=16)
def _names(names: tuple[str, ...]) -> tuple[bytes, ...]:
    """Names as their fields hold them: a board's are the same at every sample."""
    return tuple(fixed(name, 16) for name in names)


def _unpack(flat: tuple[bytes | float, ...]) -> dict[str, float]:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return {text(name): float(value) for name, value in pairs if isinstance(name, bytes) and name.strip(b"\0")}
