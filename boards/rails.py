# SPDX-License-Identifier: Apache-2.0
"""Power rails: INA3221 monitors under hwmon (Linux hwmon/ina3221), found by label.

A reading is a running average over samples · channels · conversion time, about 430 ms as NVIDIA's start-up sets it, so
power is to be trusted one window after a change. There is no energy counter.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import NodeError, SensorImplausible, SensorUnavailable
from .tree import Tree, read_int

_CHANNELS = (1, 2, 3)
_SUPPLY_MV = (0, 60_000)
_UNNAMED = {"", "NC"}
_DRIVER_WINDOW_S = 0.0066
"""One conversion cycle as the driver sets it, where nothing changed it."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One rail: where its millivolts and milliamperes are read."""

    label: str
    voltage: str
    current: str


class Rails:
    """Every labelled channel of every INA3221, and which of them add up to the module."""

    def __init__(self, tree: Tree, channels: tuple[Channel, ...], module: tuple[str, ...], window_s: float) -> None:
        self._tree = tree
        self.channels = channels
        self.module = module
        self.window_s = window_s

    @classmethod
    def find(cls, tree: Tree, module: tuple[str, ...]) -> Rails:
        """The rails of this machine; hwmon numbers move from boot to boot, so the driver's name decides."""
        channels: list[Channel] = []
        window_s = _DRIVER_WINDOW_S
        for name in tree.glob("/sys/class/hwmon/hwmon*/name"):
            if tree.read(name) == "ina3221":
                folder = name.removesuffix("/name")
                channels += _labelled(tree, folder)
                window_s = max(window_s, _window_s(tree, folder))
        return cls(tree, tuple(channels), module, window_s)

    def read(self) -> dict[str, float]:
        """Watts per rail; raises `SensorImplausible` on a value that cannot be true, `SensorUnavailable` on none."""
        return {channel.label: self._watts(channel) for channel in self.channels}

    def module_w(self, rails: dict[str, float]) -> float:
        """Watts of the whole module; raises `SensorUnavailable` if a rail that belongs to it is missing."""
        missing = [label for label in self.module if label not in rails]
        if missing:
            raise SensorUnavailable("/sys/class/hwmon", f"no rail {', '.join(missing)}")
        return sum(rails[label] for label in self.module)

    def _watts(self, channel: Channel) -> float:
        millivolts, milliamperes = read_int(self._tree, channel.voltage), read_int(self._tree, channel.current)
        if not _SUPPLY_MV[0] <= millivolts <= _SUPPLY_MV[1]:
            raise SensorImplausible(channel.voltage, f"{millivolts} mV")
        if milliamperes < 0:
            raise SensorImplausible(channel.current, f"{milliamperes} mA")
        return millivolts * milliamperes / 1e6


def _labelled(tree: Tree, folder: str) -> list[Channel]:
    found = []
    for number in _CHANNELS:
        try:
            label = tree.read(f"{folder}/in{number}_label")
        except NodeError:
            # A disabled channel has no label, or ENODATA.
            continue
        if label not in _UNNAMED:
            found.append(Channel(label, f"{folder}/in{number}_input", f"{folder}/curr{number}_input"))
    return found


def _window_s(tree: Tree, folder: str) -> float:
    """Averaging window; `update_interval` already counts all samples and channels (Linux hwmon/ina3221)."""
    try:
        return read_int(tree, f"{folder}/update_interval") / 1000
    except NodeError:
        return _DRIVER_WINDOW_S
