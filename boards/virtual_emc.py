# SPDX-License-Identifier: Apache-2.0
"""The memory controller of a virtual board: the EMC clock of BPMP debugfs, and nvpmodel's cap on it.

BPMP reports success for writes it refused (mainline bpmp-debugfs.c), holds a rate only under the lock, and rounds up to
one that can be locked. nvpmodel_emc_cap (JetPack 4 and 5) reads back what was last written, 0 for no cap;
nvpmodel_clk_cap (6 and 7) the cap in effect, never 0.
"""

from __future__ import annotations

from collections.abc import Callable

from .profile import EmcProfile
from .virtual_clock import EMC_SETTLE_S, Settling, parse_number, step_above
from .virtual_faults import FaultSwitch
from .virtual_tree import Node, constant

FOLDER = "/sys/kernel/debug/bpmp/debug/clk/emc"
_READ_BACK = "/sys/kernel/debug/clk/emc/clk_rate"
_UTILISATION = "/sys/kernel/actmon_avg_activity/mc_all"
_LATER_UTILISATION = "/sys/kernel/debug/cactmon/mc_all"
_BWMGR = "/sys/devices/platform/bwmgr/devfreq/bwmgr"


class VirtualEmc:
    """The EMC clock; `rate` is where it really is."""

    def __init__(self, profile: EmcProfile, jetpack: str, now: Callable[[], float], switch: FaultSwitch) -> None:
        self._profile = profile
        self._cap = profile.caps[jetpack]
        self._is_old = jetpack in ("4", "5")
        self._switch = switch
        self._steps = profile.lockable_hz
        self._cap_hz = 0
        self._locked = self._halted = 0
        self._enabled = 1
        self.rate = Settling(self._steps[-1], EMC_SETTLE_S, now)

    def nodes(self) -> dict[str, Node]:
        """The files of the clock, its cap, and how busy it is."""
        rate = Node(lambda: str(self.rate.value), self._write_rate)
        nodes = {
            f"{FOLDER}/rate": rate,
            f"{FOLDER}/min_rate": constant(self._steps[0]),
            f"{FOLDER}/max_rate": constant(self._steps[-1]),
            f"{FOLDER}/mrq_rate_locked": Node(lambda: str(self._locked), self._write_locked),
            f"{FOLDER}/state": Node(lambda: str(self._enabled), self._write_state),
            _READ_BACK: Node(rate.read),
            _UTILISATION if self._is_old else _LATER_UTILISATION: constant(0),
            self._cap: Node(self._read_cap, self._write_cap),
        }
        if self._profile.table_file:
            table = "\n".join(f"{number} {hz}" for number, hz in enumerate(self._profile.listed_hz))
            nodes[f"{FOLDER}/{self._profile.table_file}"] = constant(table)
        if self._profile.bwmgr_halt:
            nodes[self._profile.bwmgr_halt] = Node(lambda: str(self._halted), self._write_halt)
        if self._profile.devfreq:
            nodes |= {
                f"{_BWMGR}/cur_freq": Node(rate.read),
                f"{_BWMGR}/min_freq": constant(self._steps[0]),
                f"{_BWMGR}/max_freq": constant(self._steps[-1]),
            }
        return nodes

    def links(self) -> dict[str, str]:
        """The class device, where memory has one."""
        return {self._profile.devfreq: _BWMGR} if self._profile.devfreq else {}

    def _top(self) -> int:
        """The highest rate that the cap allows."""
        return step_above(self._cap_hz, self._steps) if self._cap_hz > 0 else self._steps[-1]

    def _write_rate(self, text: str) -> None:
        # The firmware refuses in silence: nothing here raises for a value it will not take.
        rate, takes = parse_number(text), self._switch.takes("emc_hz")
        held = self._locked and (self._halted or not self._profile.needs_halt)
        if takes and held and 0 < rate <= self._steps[-1]:
            self.rate.tell(min(self._switch.clamp("emc_hz", step_above(rate, self._steps), self._steps), self._top()))

    def _write_locked(self, text: str) -> None:
        locked = int(parse_number(text) == 1)
        self._switch.takes("emc_hz")
        self._locked = locked
        if not locked:
            self.rate.tell(self._top())

    def _write_state(self, text: str) -> None:
        enabled = int(parse_number(text) != 0)
        self._switch.takes("emc_hz")
        self._enabled = enabled

    def _write_halt(self, text: str) -> None:
        halted = int(parse_number(text) != 0)
        self._switch.takes("emc_hz")
        self._halted = halted
        if self._profile.needs_halt and not halted:
            self.rate.tell(self._top())

    def _read_cap(self) -> str:
        return str(self._cap_hz if self._is_old else self._top())

    def _write_cap(self, text: str) -> None:
        self._cap_hz = max(parse_number(text), 0)
        self.rate.tell(min(self.rate.value, self._top()) if self._locked else self._top())
