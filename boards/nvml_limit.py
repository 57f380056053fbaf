# SPDX-License-Identifier: Apache-2.0
"""The power limit of an NVML GPU: the one knob that NVML reads back."""

from __future__ import annotations

import errno

from .errors import KnobNotRestored, KnobRefused, NodeError, NodeMissing
from .nvml_calls import Device

POWER_LIMIT = "nvml.power_limit_mw"
"""Its name among a board's knob files."""


class PowerLimit:
    """The limit of one GPU; `name` is the board's."""

    def __init__(self, device: Device, name: str) -> None:
        self._device = device
        self._path = f"{name}/power limit"

    def range_w(self) -> tuple[float, float]:
        """The lowest and highest limit that may be asked for, in watts."""
        lowest_mw, highest_mw = self._device.power_limits_mw()
        return lowest_mw / 1000, highest_mw / 1000

    def request(self, watts: float) -> float:
        """Ask for a limit; returns the one read back, in watts.

        Raises `KnobRefused` outside the range without asking, `NodeError` if NVML refuses.
        """
        try:
            lowest_w, highest_w = self.range_w()
            if not lowest_w <= watts <= highest_w:
                message = f"{watts:g} W is not within {lowest_w:g} to {highest_w:g} W"
                raise KnobRefused(self._path, message, errno.EINVAL)
            self._device.request_power_limit(round(1000 * watts))
            return self._device.power_limit_mw() / 1000
        except NodeError as error:
            error.knob = "power_limit_w"
            raise

    def restore(self, original_mw: int) -> None:
        """Put a limit back, an impossible one to the card's default; raises `BoardError` if it does not read back."""
        lowest_mw, highest_mw = self._device.power_limits_mw()
        possible = lowest_mw <= original_mw <= highest_mw
        wanted = original_mw if possible else self._device.default_power_limit_mw()
        if self._device.power_limit_mw() != wanted:
            self._device.request_power_limit(wanted)
        if (found := self._device.power_limit_mw()) != wanted:
            raise KnobNotRestored(POWER_LIMIT, wanted, found)

    def missing(self) -> NodeMissing:
        """The error for a GPU without one."""
        error = NodeMissing(self._path, "this GPU has none that could be changed", errno.ENOTSUP)
        error.knob = "power_limit_w"
        return error
