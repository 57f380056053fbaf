# SPDX-License-Identifier: Apache-2.0
"""How figures, points and verdicts of a report are said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..guard import Slo
from ..points import Predicted
from ..trial import Invalid, TrialRecord

NAMES = {"gpu_hz": "GPU", "gpu_min_hz": "GPU min", "emc_hz": "EMC", "cpu_hz": "CPU", "cores": "cores", "batch": "batch"}
"""Knobs as people call them, in the order in which they are told."""


def joules(energy_j: float | None) -> str:
    """Joules to four digits."""
    return "-" if energy_j is None else f"{energy_j:#.4g}"


def milliseconds(time_s: float | None) -> str:
    """Seconds as milliseconds, without the unit."""
    return "-" if time_s is None else f"{time_s * 1e3:.1f}" if time_s < 10 else f"{time_s * 1e3:.0f}"


def measured(figure: str, half_width: float | None) -> str:
    """What a trial measured, with its interval where that is known."""
    return figure if half_width is None else f"{figure} ±{share(half_width)}"


def percent(more: float) -> str:
    """A share that may be more or less, with its sign."""
    return f"{100 * more:+.1f}%"


def promise(slo: Slo) -> str:
    """An SLO in short."""
    return f"p{slo.quantile * 100:g} <= {limit(slo.limit_s)}"


def knob_name(knob: str) -> str:
    """A knob as people call it."""
    return NAMES.get(knob) or f"batch of {knob.removeprefix('batch.')}"


def in_order(knobs: Mapping[str, object]) -> list[str]:
    """Knobs in the order in which they are told."""
    order = list(NAMES)
    return sorted(knobs, key=lambda knob: (order.index(knob) if knob in order else len(order), knob))


def value(knob: str, amount: float) -> str:
    """A knob's value without its unit: clocks in MHz."""
    return f"{amount / 1e6:.6g}" if knob.endswith("_hz") else f"{amount:g}"


def setting(knob: str, amount: float) -> str:
    """A knob and its value."""
    return f"{knob_name(knob)} {value(knob, amount)}{' MHz' if knob.endswith('_hz') else ''}"


def settings(point: Mapping[str, float]) -> str:
    """A point; nothing searched is said as such."""
    return ", ".join(setting(knob, point[knob]) for knob in in_order(point)) or "clocks as they are"


def knob_range(knob: str, values: Sequence[float]) -> str:
    """What a knob can be."""
    unit = " MHz" if knob.endswith("_hz") else ""
    if len(values) <= 4:
        return f"{knob_name(knob)} {', '.join(value(knob, amount) for amount in values)}{unit}"
    return f"{knob_name(knob)} {value(knob, values[0])} to {value(knob, values[-1])}{unit} in {len(values)} steps"


def verdict(record: TrialRecord) -> str:
    """The outcome of a trial, with the reason of an invalid one."""
    if isinstance(record.outcome, Invalid):
        return f"invalid ({record.outcome.reason})"
    return type(record.outcome).__name__.lower()


def share(part: float) -> str:
    """A share in percent, with a digit after the point below a tenth."""
    return f"{100 * part:.{0 if part >= 0.1 else 1}f}%"


def within(deviation: float) -> str:
    """Two deviations of a log, as a share."""
    return share(2 * deviation)


def expected_joules(figures: Predicted | None, unit: str = "") -> str:
    """Expected joules per request with their uncertainty."""
    return "-" if figures is None else f"{joules(figures.energy_j)}{unit} ±{within(figures.energy_deviation)}"


def expected_milliseconds(figures: Predicted | None, unit: str = "") -> str:
    """Expected milliseconds with their uncertainty."""
    return "-" if figures is None else f"{milliseconds(figures.latency_s)}{unit} ±{within(figures.latency_deviation)}"


def limit(limit_s: float) -> str:
    """A latency limit as it was set."""
    return f"{limit_s * 1e3:g} ms"


def virtual(is_virtual: bool) -> str:
    """What follows a figure that is one of a virtual board."""
    return " (virtual)" if is_virtual else ""


def stamp(is_virtual: bool) -> str:
    """What follows a sentence on figures of a virtual board."""
    return "; every figure is that of a virtual board" if is_virtual else ""


def count(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
