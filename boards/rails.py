# SPDX-License-Identifier: Apache-2.0
"""Power rails: the monitors INA3221 and INA238, found by driver and label.

JetPack 4 has them under iio (milliwatts, channels from 0), later ones under hwmon (Linux hwmon/ina3221: millivolts and
milliamperes, channels from 1). A reading is a mean over samples · channels · conversion time, about 430 ms as NVIDIA's
start-up sets it, so power is to be trusted one window after a change. There is no energy counter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import NodeError, SensorImplausible, SensorUnavailable
from .tree import Tree, read_int

if TYPE_CHECKING:
    from .layout import Layout

_UNNAMED = {"", "NC"}


@dataclass(frozen=True, slots=True)
class Channel:
    """One rail: the files whose product, times `unit_w`, is its power."""

    label: str
    files: tuple[str, ...]
    unit_w: float
    window_s: float | None
    """Window over which its monitor averages, None where it does not say."""


class Rails:
    """Every labelled channel, and which of them add up to the module."""

    def __init__(self, tree: Tree, channels: tuple[Channel, ...], layout: Layout) -> None:
        self._tree = tree
        self._ceiling_w = layout.ceiling_w
        self.channels = channels
        self.module = layout.module_rails
        self._counted = [channel for channel in channels if channel.label in self.module]
        self._others = [channel for channel in channels if channel.label not in self.module]
        self._others_w: dict[str, float] = {}
        windows = [channel.window_s for channel in self._counted]
        self.window_assumed = not windows or None in windows
        stated = [window for window in windows if window is not None]
        self.window_s = max([*stated, layout.window_s] if self.window_assumed else stated)

    @classmethod
    def find(cls, tree: Tree, layout: Layout) -> Rails:
        """The rails of this machine."""
        return cls(tree, tuple(_channels(tree)), layout)

    def missing(self) -> tuple[str, ...]:
        """Rails of the module that were not found: without them its power is unknown, not smaller."""
        there = {channel.label for channel in self.channels}
        return tuple(label for label in self.module if label not in there)

    def read(self, *, everything: bool = True) -> dict[str, float]:
        """Watts per rail; without `everything` those outside the module as they were last.

        A rail of the module that cannot be read raises: `SensorImplausible` where the value cannot be true,
        `SensorUnavailable` where there is none. Any other is left out.
        """
        watts = {channel.label: self._watts(channel) for channel in self._counted}
        if everything:
            self._others_w = {}
            for channel in self._others:
                try:
                    self._others_w[channel.label] = self._watts(channel)
                except NodeError:
                    continue
        return watts | self._others_w

    def module_w(self, rails: dict[str, float]) -> float:
        """Watts of the whole module; raises `SensorUnavailable` if a rail is missing, `SensorImplausible` as `read`."""
        missing = [label for label in self.module if label not in rails]
        if missing:
            raise SensorUnavailable("/sys/class/hwmon", f"no rail {', '.join(missing)}")
        total_w = sum(rails[label] for label in self.module)
        if not 0 < total_w <= self._ceiling_w:
            raise SensorImplausible("/sys/class/hwmon", f"{' + '.join(self.module)} = {total_w:.3f} W")
        return total_w

    def _watts(self, channel: Channel) -> float:
        values = []
        for path in channel.files:
            values.append(value := read_int(self._tree, path))
            if value < 0:
                raise SensorImplausible(path, f"{value} is negative")
        return math.prod(values) * channel.unit_w


def labels(tree: Tree) -> frozenset[str]:
    """The names of every rail of this machine."""
    return frozenset(channel.label for channel in _channels(tree))


def _channels(tree: Tree) -> list[Channel]:
    found: list[Channel] = []
    for folder, chip in sorted(_monitors(tree).items()):
        window_s = _window_s(tree, folder)
        if chip == "ina238":
            # One channel, in µW; its place is the board's input (Linux hwmon/ina238).
            found.append(Channel("VIN", (f"{folder}/power1_input",), 1e-6, window_s))
            continue
        for number in "123":
            files = (f"{folder}/in{number}_input", f"{folder}/curr{number}_input")
            if label := _label(tree, f"{folder}/in{number}_label"):
                found.append(Channel(label, files, 1e-6, window_s))
    for path in tree.glob("/sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*"):
        folder, _, number = path.rpartition("/rail_name_")
        if label := _label(tree, path):
            found.append(Channel(label, (f"{folder}/in_power{number}_input",), 1e-3, None))
    return found


def _monitors(tree: Tree) -> dict[str, str]:
    """Folder -> chip of every power monitor under hwmon; numbers move from boot to boot, so the chip's name decides."""
    found = {
        name.removesuffix("/name"): chip
        for name in tree.glob("/sys/class/hwmon/hwmon*/name")
        if (chip := _label(tree, name)) in ("ina3221", "ina238")
    }
    if found:
        return found
    return {
        folder: chip
        for chip in ("ina3221", "ina238")
        for folder in tree.glob(f"/sys/bus/i2c/drivers/{chip}/*/hwmon/hwmon*")
    }


def _label(tree: Tree, path: str) -> str:
    """A name, empty where there is none: a disabled channel has no label, or ENODATA, or `NC`."""
    try:
        label = tree.read(path)
    except NodeError:
        return ""
    return "" if label in _UNNAMED else label


def _window_s(tree: Tree, folder: str) -> float | None:
    """Averaging window; `update_interval` already counts all samples and channels (Linux hwmon/ina3221)."""
    try:
        return read_int(tree, f"{folder}/update_interval") / 1000
    except NodeError:
        return None
