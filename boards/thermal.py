# SPDX-License-Identifier: Apache-2.0
"""Temperatures (Linux thermal sysfs, by zone type) and signs of throttling."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from .errors import NodeError
from .tree import Tree, read_int

_CONSTANT_ZONES = {"PMIC-Die"}
"""Reads 100 °C whatever happens."""
_BRIEF = "oc3"
"""Instantaneous over-current; oc1 is under-voltage, oc2 the mean."""


@dataclass(frozen=True, slots=True)
class Throttle:
    """Over-current events since boot, and the alerts in force now."""

    events: int
    """Under-voltage and average over-current."""
    brief_events: int
    """Instantaneous over-current: each halves the clocks for about a millisecond, and some boards do it all day."""
    alerts: tuple[str, ...]


class Thermal:
    """Zones, throttle alerts and over-current counters, found by type or name."""

    def __init__(self, tree: Tree, zones: dict[str, str], alerts: dict[str, str], counters: dict[str, str]) -> None:
        self._tree = tree
        self._zones = zones
        self._alerts = alerts
        self.counters = counters

    @classmethod
    def find(cls, tree: Tree) -> Thermal:
        """What this machine has of them."""
        zones = _by_type(tree, "/sys/class/thermal/thermal_zone*/type", "temp")
        cooling = _by_type(tree, "/sys/class/thermal/cooling_device*/type", "cur_state")
        # pwm-fan and the devfreq and cpufreq caps move in normal operation; an alert does not.
        alerts = {kind: path for kind, path in cooling.items() if kind.endswith("-alert")}
        counters = {
            re.findall(r"oc\d", path)[-1]: path
            for name in tree.glob("/sys/class/hwmon/hwmon*/name")
            if _text(tree, name) == "soctherm_oc"
            for path in tree.glob(f"{name.removesuffix('/name')}/oc*_event_cnt")
        }
        return cls(tree, {kind: path for kind, path in zones.items() if kind not in _CONSTANT_ZONES}, alerts, counters)

    def read(self) -> dict[str, float | None]:
        """Degrees Celsius per zone; None where the engine is power-gated (the kernel answers EAGAIN, not 0).

        A zone that cannot be read for another reason is left out; if that is so of all, the last reason is raised.
        """
        celsius: dict[str, float | None] = {}
        reason: NodeError | None = None
        for kind, path in self._zones.items():
            try:
                celsius[kind] = read_int(self._tree, path) / 1000
            except NodeError as error:
                if error.code == errno.EAGAIN:
                    celsius[kind] = None
                else:
                    reason = error
        if reason is not None and not celsius:
            raise reason
        return celsius

    def throttle(self) -> Throttle:
        """Over-current events since boot, and the alerts in force."""
        counts = {name: read_int(self._tree, path) for name, path in self.counters.items()}
        brief = counts.pop(_BRIEF, 0)
        alerts = tuple(kind for kind, path in self._alerts.items() if read_int(self._tree, path) > 0)
        return Throttle(sum(counts.values()), brief, alerts)


def _by_type(tree: Tree, pattern: str, value: str) -> dict[str, str]:
    """One broken zone does not lose the others."""
    kinds = {path: _text(tree, path) for path in tree.glob(pattern)}
    return {kind: path.removesuffix("type") + value for path, kind in kinds.items() if kind}


def _text(tree: Tree, path: str) -> str:
    try:
        return tree.read(path)
    except NodeError:
        return ""
