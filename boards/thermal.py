# SPDX-License-Identifier: Apache-2.0
"""Temperatures (Linux thermal sysfs, by zone type) and signs of throttling."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import NodeError, SensorUnavailable
from .tree import Tree, read_int

_CONSTANT_ZONES = {"PMIC-Die"}
"""Reads 100 °C whatever happens."""


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

    def __init__(self, tree: Tree, zones: dict[str, str], alerts: dict[str, str], counters: tuple[str, ...]) -> None:
        self._tree = tree
        self._zones = zones
        self._alerts = alerts
        self._counters = counters

    @classmethod
    def find(cls, tree: Tree) -> Thermal:
        """What this machine has of them."""
        zones = _by_type(tree, "/sys/class/thermal/thermal_zone*/type", "temp")
        cooling = _by_type(tree, "/sys/class/thermal/cooling_device*/type", "cur_state")
        # pwm-fan and the devfreq and cpufreq caps move in normal operation; an alert does not.
        alerts = {kind: path for kind, path in cooling.items() if kind.endswith("-alert")}
        counters = [
            path
            for name in tree.glob("/sys/class/hwmon/hwmon*/name")
            if tree.read(name) == "soctherm_oc"
            for path in tree.glob(f"{name.removesuffix('/name')}/oc*_event_cnt")
        ]
        return cls(
            tree, {kind: path for kind, path in zones.items() if kind not in _CONSTANT_ZONES}, alerts, tuple(counters)
        )

    def read(self) -> dict[str, float | None]:
        """Degrees Celsius per zone; None where the engine is power-gated (the kernel answers EAGAIN, not 0)."""
        return {kind: self._celsius(path) for kind, path in self._zones.items()}

    def throttle(self) -> Throttle:
        """Over-current events since boot, and the alerts in force."""
        events = sum(read_int(self._tree, path) for path in self._counters)
        return Throttle(events, 0, tuple(kind for kind, path in self._alerts.items() if read_int(self._tree, path) > 0))

    def _celsius(self, path: str) -> float | None:
        try:
            return read_int(self._tree, path) / 1000
        except SensorUnavailable:
            return None


def _by_type(tree: Tree, pattern: str, value: str) -> dict[str, str]:
    found = {}
    for path in tree.glob(pattern):
        try:
            found[tree.read(path)] = path.removesuffix("type") + value
        except NodeError:
            # One broken zone does not lose the others.
            continue
    return found
