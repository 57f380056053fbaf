# SPDX-License-Identifier: Apache-2.0
"""The sensors of the virtual AGX Orin: INA3221 rails that average over 430 ms and count in steps, and thermal zones."""

from __future__ import annotations

import errno
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .physics import Watts
from .virtual_kernel import Faults
from .virtual_tree import Node, constant, os_error

WINDOW_S = 0.430
BUS_STEP_MV, SHUNT_STEP_MA = 8, 20
"""Steps of the INA3221: 8 mV on the bus, 40 µV on a shunt of 2 mΩ."""
AMBIENT_CELSIUS = 25.0
KELVIN_PER_WATT = 0.8
THERMAL_TIME_S = 30.0
"""Developer kit with its fan: assumed, of the right order."""
GATED_ZONES = ("cv0-thermal", "cv1-thermal", "cv2-thermal")
ZONES = ("cpu-thermal", "gpu-thermal", *GATED_ZONES, "soc0-thermal", "soc1-thermal", "soc2-thermal")
BOARD_ZONES = ("tj-thermal", "tboard-thermal", "tdiode-thermal")


@dataclass(frozen=True, slots=True)
class Rail:
    """One channel: its nominal voltage, and its share of each part's power. Shares are assumed; their sum is not."""

    label: str
    millivolts: int
    cpu: float
    gpu: float
    memory: float
    rest: float

    def watts(self, power: Watts) -> float:
        """What this rail carries."""
        return self.cpu * power.cpu_w + self.gpu * power.gpu_w + self.memory * power.memory_w + self.rest * power.rest_w


RAILS = (
    Rail("VDD_GPU_SOC", 840, 0, 1, 0, 0.5),
    Rail("VDD_CPU_CV", 784, 1, 0, 0, 0.1),
    Rail("VIN_SYS_5V0", 4968, 0, 0, 1, 0.4),
    Rail("VDDQ_VDD2_1V8AO", 1800, 0, 0, 0.6, 0),
)
"""The first three add up to the module; the last lies inside the third."""
_PLACES = (("hwmon2", 1), ("hwmon2", 2), ("hwmon2", 3), ("hwmon3", 2))


class VirtualRails:
    """Two INA3221 whose readings are the mean over the last `WINDOW_S` of whatever power was fed to them."""

    def __init__(self, faults: Callable[[], Faults], power: Watts) -> None:
        self._faults = faults
        self._slices: deque[tuple[float, tuple[float, ...]]] = deque()
        self._length_s = 0.0
        self._shown = tuple(rail.watts(power) for rail in RAILS)
        self.feed(power, WINDOW_S)

    def feed(self, power: Watts, dt_s: float) -> None:
        """Let `power` flow for `dt_s` seconds."""
        self._slices.append((dt_s, tuple(rail.watts(power) for rail in RAILS)))
        self._length_s += dt_s
        while self._slices and self._length_s - self._slices[0][0] >= WINDOW_S:
            self._length_s -= self._slices.popleft()[0]
        if self._faults().sensor != "frozen":
            self._shown = tuple(self._mean(number) for number in range(len(RAILS)))

    def nodes(self) -> dict[str, Node]:
        """The hwmon files of both chips; channels that the board does not wire have no label."""
        nodes: dict[str, Node] = {}
        for hwmon in ("hwmon2", "hwmon3"):
            folder = f"/sys/class/hwmon/{hwmon}"
            nodes |= {
                f"{folder}/name": constant("ina3221"),
                f"{folder}/samples": constant(512),
                f"{folder}/update_interval": constant(round(1000 * WINDOW_S)),
                f"{folder}/in7_label": constant("sum of shunt voltages"),
            }
        for number, (rail, (hwmon, channel)) in enumerate(zip(RAILS, _PLACES, strict=True)):
            folder = f"/sys/class/hwmon/{hwmon}"
            nodes |= {
                f"{folder}/in{channel}_label": constant(rail.label),
                f"{folder}/in{channel}_input": constant(_in_steps(rail.millivolts, BUS_STEP_MV)),
                f"{folder}/curr{channel}_input": Node(partial(self._milliamperes, number)),
            }
        return nodes

    def _mean(self, number: int) -> float:
        """The oldest slice counts only as far as it lies inside the window."""
        excess = max(0.0, self._length_s - WINDOW_S)
        joules = sum(dt * watts[number] for dt, watts in self._slices) - excess * self._slices[0][1][number]
        return joules / (self._length_s - excess)

    def _milliamperes(self, number: int) -> str:
        if self._faults().sensor == "negative":
            return "-20"
        volts = _in_steps(RAILS[number].millivolts, BUS_STEP_MV) / 1000
        return str(_in_steps(1000 * self._shown[number] / volts, SHUNT_STEP_MA))


class VirtualThermal:
    """Zones that warm up with the power, engines that answer EAGAIN, alerts and over-current counters."""

    def __init__(self, faults: Callable[[], Faults], power: Watts) -> None:
        self._faults = faults
        self._rise = KELVIN_PER_WATT * power.total_w

    def feed(self, power: Watts, dt_s: float) -> None:
        """Let `power` flow for `dt_s` seconds."""
        target = KELVIN_PER_WATT * power.total_w
        self._rise = target + (self._rise - target) * math.exp(-dt_s / THERMAL_TIME_S)

    def nodes(self) -> dict[str, Node]:
        """Thermal zones, cooling devices and the over-current monitor."""
        nodes: dict[str, Node] = {}
        for number, zone in enumerate((*ZONES, *BOARD_ZONES)):
            folder = f"/sys/class/thermal/thermal_zone{number}"
            nodes[f"{folder}/type"] = constant(zone)
            nodes[f"{folder}/temp"] = Node(self._gated if zone in GATED_ZONES else self._celsius)
        for number, kind in enumerate(("gpu-throttle-alert", "cpu-throttle-alert", "pwm-fan")):
            folder = f"/sys/class/thermal/cooling_device{number}"
            nodes[f"{folder}/type"] = constant(kind)
            nodes[f"{folder}/cur_state"] = Node(self._alert if kind == "gpu-throttle-alert" else lambda: "0")
        nodes["/sys/class/hwmon/hwmon4/name"] = constant("soctherm_oc")
        nodes |= {f"/sys/class/hwmon/hwmon4/oc{number}_event_cnt": constant(0) for number in (1, 2, 3)}
        return nodes

    def _celsius(self) -> str:
        return str(round(1000 * (AMBIENT_CELSIUS + self._rise)))

    def _gated(self) -> str:
        raise os_error(errno.EAGAIN)

    def _alert(self) -> str:
        return str(int(self._faults().throttled))


def _in_steps(value: float, step: int) -> int:
    return step * round(value / step)
