# SPDX-License-Identifier: Apache-2.0
"""The power monitors of a virtual board: INA3221 (and INA238) that average over a window and count in steps.

JetPack 4 shows them under iio, with millivolts, milliamperes and milliwatts per channel counted from 0; later ones
under hwmon, counted from 1 and without power. A sound monitor is never still: its bus voltage lies between two steps of
8 mV and reads as the lower and the upper one in turn, window by window, so that readings are right on average and yet
no two windows in a row read the same. One that does not move for longer is frozen.
"""

from __future__ import annotations

import errno
from collections import deque
from functools import partial
from itertools import count

from .physics import Watts, mix
from .profile import Channel, Chip, RailsProfile
from .virtual_faults import FaultSwitch
from .virtual_tree import Node, constant, os_error

BUS_STEP_MV = 8
"""Of the INA3221; current counts in steps of 40 µV on the shunt, which differs from board to board."""
DITHER_S = 0.430
_HIGH_MV = 8000
"""A supply above this is read one step further away: one step of 19 V is lost in the milliwatts of iio."""
_LIMIT_MA = 32760
_SPIKE = 10


class VirtualRails:
    """Monitors whose readings are the mean over the last window of whatever power was fed to them."""

    def __init__(self, profile: RailsProfile, jetpack: str, switch: FaultSwitch, power: Watts) -> None:
        self._profile = profile
        self._is_iio = jetpack == "4"
        self._switch = switch
        self._slices: deque[tuple[float, Watts]] = deque()
        self._length_s = self._elapsed_s = 0.0
        self._shown = (power, 0)
        self.feed(power, profile.averaging_s)

    def feed(self, power: Watts, dt_s: float) -> None:
        """Let `power` flow for `dt_s` seconds."""
        window_s = self._profile.averaging_s
        self._slices.append((dt_s, power))
        self._length_s += dt_s
        self._elapsed_s += dt_s
        while self._length_s - self._slices[0][0] >= window_s:
            self._length_s -= self._slices.popleft()[0]
        if self._switch.faults.sensor != "frozen":
            self._shown = (self._mean(), int(self._elapsed_s / DITHER_S))

    def nodes(self) -> dict[str, Node]:
        """The files of every monitor."""
        nodes: dict[str, Node] = {}
        for chip, folder in self._places():
            nodes[f"{_device(chip)}/name"] = constant(f"{chip.kind}x" if self._is_iio else chip.kind)
            files = self._iio(chip) if self._is_iio else self._hwmon(chip)
            nodes |= {f"{folder}/{name}": node for name, node in files.items()}
        return nodes

    def links(self) -> dict[str, str]:
        """Ways to the monitors by class, by bus and by driver."""
        links: dict[str, str] = {}
        for chip, folder in self._places():
            name = folder.rsplit("/", 1)[1]
            driver = f"{chip.kind}x" if self._is_iio else chip.kind
            links |= {
                f"/sys/bus/i2c/devices/{chip.address}": _device(chip),
                f"/sys/bus/i2c/drivers/{driver}/{chip.address}": _device(chip),
                f"/sys/{'bus/iio/devices' if self._is_iio else 'class/hwmon'}/{name}": folder,
            }
            if not self._is_iio:
                links[f"{folder}/device"] = _device(chip)
        return links

    def _places(self) -> list[tuple[Chip, str]]:
        """Every chip with its folder; the first hwmon numbers are the fan's, and they count against bus order."""
        if self._is_iio:
            return [(chip, f"{_device(chip)}/iio:device{number}") for number, chip in enumerate(self._profile.chips)]
        numbered = zip(self._profile.chips, count(1 + len(self._profile.chips), -1), strict=False)
        return [(chip, f"{_device(chip)}/hwmon/hwmon{number}") for chip, number in numbered]

    def _iio(self, chip: Chip) -> dict[str, Node]:
        files = {"name": constant(f"{chip.kind}x")}
        for channel in chip.channels:
            number = channel.number - 1
            files |= {
                f"rail_name_{number}": constant(channel.label or "NC"),
                f"in_voltage{number}_input": Node(partial(self._read_voltage, channel)),
                f"in_current{number}_input": Node(partial(self._read_current, channel)),
                f"in_power{number}_input": Node(partial(self._read_milliwatts, channel)),
                f"warn_current_limit_{number}": constant(_LIMIT_MA),
                f"crit_current_limit_{number}": constant(_LIMIT_MA),
            }
        return files

    def _hwmon(self, chip: Chip) -> dict[str, Node]:
        files = {"name": constant(chip.kind)}
        for channel in chip.channels:
            number = channel.number
            files |= {
                f"in{number}_input": Node(partial(self._read_voltage, channel)),
                f"curr{number}_input": Node(partial(self._read_current, channel)),
            }
            if chip.kind == "ina238":
                files[f"power{number}_input"] = Node(partial(self._read_microwatts, channel))
                continue
            files |= {
                f"in{number}_label": constant(channel.label or "NC"),
                f"in{number}_enable": constant(int(channel.label is not None)),
                f"curr{number}_max": constant(_LIMIT_MA),
                f"curr{number}_crit": constant(_LIMIT_MA),
                f"curr{number}_max_alarm": constant(0),
                f"curr{number}_crit_alarm": constant(0),
            }
        if chip.kind == "ina3221":
            files |= {
                "samples": constant(512 if self._profile.averaging_s == DITHER_S else 1),
                "update_interval": constant(round(1000 * self._profile.averaging_s)),
                "in7_label": constant("sum of shunt voltages"),
            }
        return files

    def _mean(self) -> Watts:
        """Power over the window; the oldest slice counts only as far as it lies inside."""
        excess_s = max(0.0, self._length_s - self._profile.averaging_s)
        shares = list(self._slices)
        shares[0] = (shares[0][0] - excess_s, shares[0][1])
        total_s = self._length_s - excess_s
        return mix((dt_s / total_s, power) for dt_s, power in shares)

    def _volts(self, channel: Channel) -> float:
        """The bus voltage as this window reads it: a step below its true value, or one above."""
        if channel.label is None:
            raise os_error(errno.ENODATA)
        ripple_mv = BUS_STEP_MV / 2 * (3 if channel.millivolts > _HIGH_MV else 1)
        return (channel.millivolts + (ripple_mv if self._shown[1] % 2 else -ripple_mv)) / 1000

    def _milliamps(self, channel: Channel) -> float:
        power = self._shown[0]
        watts = channel.cpu * power.cpu_w + channel.gpu * power.gpu_w
        watts += channel.memory * power.memory_w + channel.rest * power.rest_w
        return 1e6 * watts / channel.millivolts

    def _counted(self, channel: Channel) -> int:
        """Milliamperes in whole steps."""
        step = self._profile.current_step_ma
        return step * round(self._milliamps(channel) / step)

    def _read_voltage(self, channel: Channel) -> str:
        return str(round(1000 * self._volts(channel)))

    def _read_current(self, channel: Channel) -> str:
        if channel.label is None:
            raise os_error(errno.ENODATA)
        return self._faulty(self._counted(channel))

    def _read_milliwatts(self, channel: Channel) -> str:
        return self._faulty(round(self._volts(channel) * self._counted(channel)))

    def _read_microwatts(self, channel: Channel) -> str:
        return self._faulty(round(1000 * self._volts(channel) * self._milliamps(channel)))

    def _faulty(self, value: int) -> str:
        """The reading, or what a monitor with the fault in force says instead."""
        texts = {"negative": str(-value or -1), "zero": "0", "nan": "nan", "empty": "", "spike": str(_SPIKE * value)}
        return texts.get(self._switch.faults.sensor, str(value))


def _device(chip: Chip) -> str:
    return f"/sys/devices/i2c-{chip.address.split('-')[0]}/{chip.address}"
