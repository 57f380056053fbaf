# SPDX-License-Identifier: Apache-2.0
"""The GPU of a virtual board: devfreq with the manners of the board's kernel.

4.9 (JetPack 4) refuses a crossed range with EINVAL and keeps what was written; 5.x and later accept it and let the
upper limit win, cut min and raise max to kHz, and take a max of 0 for no limit (Linux devfreq.c, nvgpu scale.c). Either
way a limit between two table steps reads back as the step above it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from .profile import GpuProfile
from .virtual_clock import GPU_SETTLE_S, Settling, parse_number, step_above
from .virtual_faults import FaultSwitch
from .virtual_tree import Node, constant, os_error

_POLLING_MS = 25
"""nvgpu scale.c."""


class VirtualGpu:
    """The devfreq device of the GPU; `busy` is whether work runs on it."""

    def __init__(self, profile: GpuProfile, jetpack: str, now: Callable[[], float], switch: FaultSwitch) -> None:
        self._profile = profile
        self._layout = profile.layouts[jetpack]
        self._refuses_crossed = jetpack == "4"
        self._has_scaling_switch = jetpack != "7"
        self._switch = switch
        self._min_hz, self._max_hz = profile.min_hz, profile.hz[-1]
        self._low, self._high = (Settling(hz, GPU_SETTLE_S, now) for hz in (self._min_hz, self._max_hz))
        self.busy = False

    @property
    def folder(self) -> str:
        """Where the device's files really lie."""
        return f"{self._layout.device}/devfreq/{self._layout.name}"

    @property
    def gated(self) -> bool:
        """Whether the GPU has lost its power for want of work."""
        return self._profile.gated_when_idle and not self.busy

    def point(self) -> tuple[int, int]:
        """Upper and lower limit that the silicon follows now."""
        high = self._profile.hz[0] if self._switch.faults.throttled else self._high.value
        return high, min(self._low.value, high)

    def nodes(self) -> dict[str, Node]:
        """The files of the device, and of others of the GPU."""
        nodes = _devfreq(self.folder, self._profile.hz, self._profile.governor, self._current) | {
            f"{self.folder}/min_freq": Node(lambda: str(self._range()[0]), self._write_min),
            f"{self.folder}/max_freq": Node(lambda: str(self._range()[1]), self._write_max),
        }
        device = self._layout.device
        nodes[f"{device}/power/control"] = constant("auto")
        if self._layout.of_node:
            nodes |= {
                f"{device}/of_node/name": constant(self._layout.of_node),
                f"{device}/of_node/compatible": constant(self._profile.compatible),
                f"{device}/load": Node(lambda: "999" if self.busy else "0"),
                f"{device}/railgate_enable": constant(1),
            }
            if self._has_scaling_switch:
                nodes[f"{device}/enable_3d_scaling"] = constant(1)
        if self._profile.second_domain:
            name, steps = self._profile.second_domain
            folder = f"{device}/devfreq/{name}"
            nodes |= _devfreq(folder, steps, self._profile.governor, lambda: str(steps[0]))
            nodes |= {f"{folder}/min_freq": constant(steps[0]), f"{folder}/max_freq": constant(steps[-1])}
        return nodes

    def links(self) -> dict[str, str]:
        """The class device, the way back to the device, and other names of it."""
        names = [self._layout.name, *([self._profile.second_domain[0]] if self._profile.second_domain else [])]
        links = dict(self._layout.links)
        for name in names:
            folder = f"{self._layout.device}/devfreq/{name}"
            links |= {f"/sys/class/devfreq/{name}": folder, f"{folder}/device": self._layout.device}
        return links

    def _range(self) -> tuple[int, int]:
        highest = step_above(self._max_hz, self._profile.hz)
        return min(step_above(self._min_hz, self._profile.hz), highest), highest

    def _current(self) -> str:
        high, low = self.point()
        return "0" if self.gated else str(high if self.busy else low)

    def _write_min(self, text: str) -> None:
        value = _limit(text)
        if self._refuses_crossed and value > self._max_hz:
            raise os_error(errno.EINVAL)
        if self._switch.takes("gpu_min_hz"):
            value = self._switch.clamp("gpu_min_hz", value, self._profile.hz)
            self._min_hz = value if self._refuses_crossed else value // 1000 * 1000
            self._follow()

    def _write_max(self, text: str) -> None:
        value = _limit(text)
        if self._refuses_crossed and 0 < value < self._min_hz:
            raise os_error(errno.EINVAL)
        if self._switch.takes("gpu_hz"):
            value = self._switch.clamp("gpu_hz", value or self._profile.hz[-1], self._profile.hz)
            self._max_hz = value if self._refuses_crossed else -(-value // 1000) * 1000
            self._follow()

    def _follow(self) -> None:
        low, high = self._range()
        self._low.tell(low)
        self._high.tell(high)


def _limit(text: str) -> int:
    value = parse_number(text)
    if value < 0:
        raise os_error(errno.EINVAL)
    return value


def _devfreq(folder: str, steps: tuple[int, ...], governor: str, current: Callable[[], str]) -> dict[str, Node]:
    """The files of a devfreq device, but for its limits."""
    return {
        f"{folder}/available_frequencies": constant(" ".join(map(str, steps))),
        f"{folder}/available_governors": constant(f"{governor} userspace performance"),
        f"{folder}/governor": constant(governor),
        f"{folder}/polling_interval": constant(_POLLING_MS),
        f"{folder}/cur_freq": Node(current),
        f"{folder}/target_freq": Node(current),
    }
