# SPDX-License-Identifier: Apache-2.0
"""The clock space of a board: a point in it, the values a board offers, and what became of a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .thermal import Throttle

KNOBS = ("gpu_hz", "gpu_min_hz", "emc_hz", "cpu_hz", "cores")
"""Every knob of a `ClockPoint`, in the order used on the wire and in pages."""


@dataclass(frozen=True, slots=True)
class ClockPoint:
    """One point of the clock space; a knob that a board lacks, or that a request leaves alone, is None.

    `gpu_hz` and `gpu_min_hz` are the upper and lower limit of the GPU, `emc_hz` the memory controller's rate, `cpu_hz`
    the upper limit of every online core, `cores` how many cores are online.
    """

    gpu_hz: int | None = None
    gpu_min_hz: int | None = None
    emc_hz: int | None = None
    cpu_hz: int | None = None
    cores: int | None = None

    def values(self) -> tuple[int | None, ...]:
        """The five knobs in the order of `KNOBS`."""
        return tuple(getattr(self, knob) for knob in KNOBS)


@dataclass(frozen=True, slots=True)
class ClockTable:
    """The values a board really offers per knob, ascending; empty where the board has no such knob."""

    gpu_hz: tuple[int, ...] = ()
    gpu_min_hz: tuple[int, ...] = ()
    emc_hz: tuple[int, ...] = ()
    cpu_hz: tuple[int, ...] = ()
    cores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{field.name} must ascend without repeats, got {values}")

    def offers(self, point: ClockPoint) -> bool:
        """Whether every knob that the point sets has one of this table's values, and the GPU range is not inverted."""
        if point.gpu_hz is not None and point.gpu_min_hz is not None and point.gpu_min_hz > point.gpu_hz:
            return False
        return all(
            value is None or value in getattr(self, knob) for knob, value in zip(KNOBS, point.values(), strict=True)
        )

    def maximum(self) -> ClockPoint:
        """Every knob at its top, the GPU's lower limit too: what `jetson_clocks` on MAXN pins."""
        return ClockPoint(**{knob: values[-1] for knob in KNOBS if (values := getattr(self, knob))})


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a request: the point asked for, the point read back, and how long the clocks took to settle."""

    requested: ClockPoint
    observed: ClockPoint
    settle_s: float

    @property
    def honoured(self) -> bool:
        """Whether every knob that was asked for reads back as asked."""
        pairs = zip(self.requested.values(), self.observed.values(), strict=True)
        return all(asked is None or asked == seen for asked, seen in pairs)


class Board(Protocol):
    """A board whose clocks can be read and asked for. Methods raise `BoardError`; none ever returns a made-up value."""

    name: str
    virtual: bool
    table: ClockTable
    """What may be asked for now: within the limits of the power mode that was in force at the last `rescan`."""
    notes: tuple[str, ...]
    """What is unknown, missing or assumed about this board, in words for its owner."""

    def rescan(self) -> None:
        """Look again for parts that were missing, and at the power mode's limits; not while clocks are asked for."""
        ...

    def observe(self) -> ClockPoint:
        """The clocks as the hardware reports them now."""
        ...

    def request(self, point: ClockPoint) -> Applied:
        """Ask for the knobs that `point` sets, in the board's safe order, and read every one back."""
        ...

    def read_knobs(self) -> dict[str, int]:
        """The value of every knob file that a request may write, by name, in the kernel's own unit."""
        ...

    def watch_knobs(self) -> Callable[[], bool]:
        """A question cheap enough to ask often: whether every knob file still reads as it does now."""
        ...

    def restore(self, originals: dict[str, int], keep: frozenset[str] = frozenset()) -> None:
        """Put the knobs back, missing or impossible ones to the board's own range; raises `NotRestored`.

        Knob files named in `keep` are somebody else's by now and stay as they are.
        """
        ...

    @property
    def averaging_s(self) -> float:
        """Window over which the power sensor averages: power is to be trusted this long after a change."""
        ...

    def rails(self) -> dict[str, float]:
        """Watts per named rail."""
        ...

    def power_w(self, rails: dict[str, float] | None = None) -> float:
        """Watts of the whole module, from the rails that add up to it: those given, or new readings."""
        ...

    def energy_j(self) -> float | None:
        """Joules that the hardware itself has counted, from whatever beginning; None where it does not count."""
        ...

    def thermals(self) -> dict[str, float | None]:
        """Degrees Celsius per thermal zone; None where the zone is power-gated."""
        ...

    def throttle(self) -> Throttle:
        """Over-current events since boot, and the alerts in force."""
        ...
