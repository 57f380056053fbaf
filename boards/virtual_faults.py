# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on a virtual board, on request: writes that fail or do nothing, sensors that lie, throttling.

As a file (`teg clockd --faults FILE`) it is one JSON object with the fields of `Faults`:

    {"ignored": ["gpu_hz"], "busy": ["emc_hz"], "busy_times": 2, "sensor": "frozen", "over_current": {"oc3": 15}}
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from .clocks import KNOBS
from .virtual_tree import os_error

Sensor = Literal["sound", "frozen", "negative", "zero", "nan", "empty", "spike"]
"""What the power monitors say: the truth, or one of the ways in which they have been seen to lie."""
Thermometer = Literal["sound", "unreadable"]
COUNTERS = ("oc1", "oc2", "oc3")
_KNOB_SETS = ("ignored", "clamped", "denied", "busy", "missing")
_TYPES: dict[str, type] = dict.fromkeys(_KNOB_SETS, list) | {
    "busy_times": int,
    "sensor": str,
    "thermal": str,
    "throttled": bool,
    "over_current": dict,
}
"""Of the fields in a file."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong. Sets hold names of knobs (`gpu_hz`, `gpu_min_hz`, `emc_hz`, `cpu_hz`, `cores`)."""

    ignored: frozenset[str] = frozenset()
    """Writes do nothing, in silence."""
    clamped: frozenset[str] = frozenset()
    """Values above the middle of the knob's table become that, in silence, as under somebody else's limit."""
    denied: frozenset[str] = frozenset()
    """Writes fail with EACCES."""
    busy: frozenset[str] = frozenset()
    """Writes fail with EBUSY (EAGAIN from the memory controller's firmware), `busy_times` times."""
    missing: frozenset[str] = frozenset()
    """The files of the part are gone (ENOENT), as while its driver is reloaded."""
    busy_times: int = 0
    """How many writes of each knob fail as busy, counted from when these faults began; 0: all of them."""
    sensor: Sensor = "sound"
    thermal: Thermometer = "sound"
    """Unreadable: every zone answers EIO."""
    throttled: bool = False
    """The GPU is held at its lowest step, and the alert of the GPU is up where the board has one."""
    over_current: Mapping[str, float] = field(default_factory=dict)
    """Events per second by counter (`oc1`, `oc2`, `oc3`); the counters move in batches of 2 s."""

    def __post_init__(self) -> None:
        for name in _KNOB_SETS:
            if unknown := getattr(self, name) - set(KNOBS):
                raise ValueError(f"{name}: no such knob: {', '.join(sorted(unknown))}")
        if self.busy_times < 0:
            raise ValueError(f"busy_times must not be negative, got {self.busy_times}")
        if self.sensor not in get_args(Sensor):
            raise ValueError(f"sensor must be one of {', '.join(get_args(Sensor))}, got {self.sensor!r}")
        if self.thermal not in get_args(Thermometer):
            raise ValueError(f"thermal must be one of {', '.join(get_args(Thermometer))}, got {self.thermal!r}")
        for counter, rate in self.over_current.items():
            if counter not in COUNTERS or not 0 <= rate < 1e6:
                raise ValueError(f"over_current: events per second of {', '.join(COUNTERS)}, got {counter}: {rate}")


def read_faults(path: Path) -> Faults:
    """The faults in a JSON file; raises `ValueError` naming what is wrong with it, `OSError` if it cannot be read."""
    try:
        return Faults(**_fields(json.loads(path.read_text())))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _fields(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise TypeError("not a JSON object")
    for name, value in record.items():
        if name not in _TYPES:
            raise ValueError(f"unknown fault {name!r}")
        # Exactly that type: true is no count.
        if type(value) is not _TYPES[name]:
            raise ValueError(f"{name} must be of type {_TYPES[name].__name__}, got {json.dumps(value)}")
    return {name: frozenset(map(str, value)) if name in _KNOB_SETS else value for name, value in record.items()}


class FaultSwitch:
    """The faults in force, which may be switched at any time, and how often each knob has been busy since then."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()

    @property
    def faults(self) -> Faults:
        """What goes wrong now."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self._refused = dict.fromkeys(KNOBS, 0)

    def takes(self, knob: str) -> bool:
        """Whether a write of this knob has any effect; raises `OSError` as the failing system call would."""
        faults = self._faults
        if knob in faults.denied:
            raise os_error(errno.EACCES)
        if knob in faults.busy and (faults.busy_times == 0 or self._refused[knob] < faults.busy_times):
            self._refused[knob] += 1
            raise os_error(errno.EAGAIN if knob == "emc_hz" else errno.EBUSY)
        return knob not in faults.ignored

    def clamp(self, knob: str, value: int, steps: tuple[int, ...]) -> int:
        """The value, or the middle of the knob's table if that is lower and the knob is clamped."""
        return min(value, steps[len(steps) // 2]) if knob in self._faults.clamped else value
