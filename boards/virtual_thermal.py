# SPDX-License-Identifier: Apache-2.0
"""The temperatures of a virtual board: zones that warm up with the power, alerts, fan and over-current counters.

Zones whose engine has no power answer EAGAIN; PMIC-Die reads 100 °C whatever happens (Linux thermal, field reports).
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from functools import partial

from .profile import ThermalProfile
from .virtual_faults import FaultSwitch
from .virtual_tree import Node, constant, os_error

AMBIENT_CELSIUS = 25.0
KELVIN_AT_60_W = 48.0
THERMAL_TIME_S = 30.0
"""Developer kit of an AGX Orin with its fan: assumed, of the right order; other boards' coolers fit their class."""
BATCH_S = 2.0
"""Over-current counters move this rarely (field report, Orin Nano Super)."""
_CONSTANT = {"PMIC-Die": "100000"}
_THERMAL = "/sys/class/thermal"
_OC_DEVICE = "/sys/devices/platform/soctherm-oc-event"


class VirtualThermal:
    """Zones, cooling devices and counters; `gpu_gated` says whether the GPU has lost its power."""

    def __init__(
        self,
        profile: ThermalProfile,
        jetpack: str,
        switch: FaultSwitch,
        kelvin_per_watt: float,
        power_w: float,
        gpu_gated: Callable[[], bool],
    ) -> None:
        self._profile = profile
        self._zones = profile.zones[jetpack]
        self._switch = switch
        self._kelvin_per_watt = kelvin_per_watt
        self._rise = kelvin_per_watt * power_w
        self._gpu_gated = gpu_gated
        self._elapsed_s = 0.0
        self._events = dict.fromkeys(profile.over_current, 0.0)
        self._shown = dict.fromkeys(profile.over_current, 0)

    def feed(self, power_w: float, dt_s: float) -> None:
        """Let `power_w` flow for `dt_s` seconds."""
        target = self._kelvin_per_watt * power_w
        self._rise = target + (self._rise - target) * math.exp(-dt_s / THERMAL_TIME_S)
        before = self._elapsed_s
        self._elapsed_s += dt_s
        for counter in self._events:
            self._events[counter] += self._switch.faults.over_current.get(counter, 0.0) * dt_s
        if int(self._elapsed_s / BATCH_S) > int(before / BATCH_S):
            self._shown = {counter: round(events) for counter, events in self._events.items()}

    def nodes(self, hwmon: int, gpu_name: str) -> dict[str, Node]:
        """Zones, cooling devices, and the over-current monitor as hwmon number `hwmon`, where the board has one."""
        nodes: dict[str, Node] = {}
        for number, zone in enumerate(self._zones):
            nodes[f"{_THERMAL}/thermal_zone{number}/type"] = constant(zone)
            nodes[f"{_THERMAL}/thermal_zone{number}/temp"] = Node(partial(self._celsius, zone))
        for number, kind in enumerate((*self._profile.alerts, "pwm-fan", f"devfreq-{gpu_name}")):
            nodes[f"{_THERMAL}/cooling_device{number}/type"] = constant(kind)
            nodes[f"{_THERMAL}/cooling_device{number}/cur_state"] = Node(partial(self._state, kind))
        if self._profile.over_current:
            folder = f"{_OC_DEVICE}/hwmon/hwmon{hwmon}"
            nodes[f"{folder}/name"] = constant("soctherm_oc")
            for counter in self._profile.over_current:
                nodes[f"{folder}/{counter}_event_cnt"] = Node(partial(self._count, counter))
                nodes[f"{folder}/{counter}_throt_en"] = constant(1)
        return nodes

    def links(self, hwmon: int) -> dict[str, str]:
        """The class device of the over-current monitor."""
        if not self._profile.over_current:
            return {}
        return {f"/sys/class/hwmon/hwmon{hwmon}": f"{_OC_DEVICE}/hwmon/hwmon{hwmon}"}

    def _celsius(self, zone: str) -> str:
        if self._switch.faults.thermal == "unreadable":
            raise os_error(errno.EIO)
        if zone in self._profile.gated or (zone.lower().startswith("gpu-") and self._gpu_gated()):
            raise os_error(errno.EAGAIN)
        return _CONSTANT.get(zone, str(round(1000 * (AMBIENT_CELSIUS + self._rise))))

    def _state(self, kind: str) -> str:
        return str(int(self._switch.faults.throttled and (kind == "gpu-throttle-alert" or kind.startswith("devfreq-"))))

    def _count(self, counter: str) -> str:
        return str(self._shown[counter])
