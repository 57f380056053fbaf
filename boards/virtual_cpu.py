# SPDX-License-Identifier: Apache-2.0
"""The cores of a virtual board: cpufreq policies in kHz, and hot-plug.

A policy without online cores answers EBUSY; cpu0 stays online; 4.9 (JetPack 4) refuses a crossed range with EINVAL,
later kernels let the upper limit win; limits are cut to the hardware's range and not rounded to a step, but the clock
runs at the highest step within them (Linux cpufreq.c, admin-guide/pm/cpufreq).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from .profile import CpuProfile
from .virtual_clock import CPU_SETTLE_S, Settling, parse_number, step_below
from .virtual_faults import FaultSwitch
from .virtual_tree import Node, constant, os_error

FOLDER = "/sys/devices/system/cpu"


@dataclass(slots=True)
class _Policy:
    """Cores that share a clock: limits as written, in kHz, and the clock that follows."""

    cpus: tuple[int, ...]
    min_khz: int
    max_khz: int
    clock: Settling

    @property
    def folder(self) -> str:
        return f"{FOLDER}/cpufreq/policy{self.cpus[0]}"

    @property
    def lowest_khz(self) -> int:
        return min(self.min_khz, self.max_khz)


class VirtualCpus:
    """Policies and cores."""

    def __init__(self, profile: CpuProfile, jetpack: str, now: Callable[[], float], switch: FaultSwitch) -> None:
        self._listed = profile.listed
        self._steps = tuple(hz // 1000 for hz in profile.hz)
        self._refuses_crossed = jetpack == "4"
        self._switch = switch
        low, high = profile.min_hz // 1000, self._steps[-1]
        self._policies = [_Policy(cpus, low, high, Settling(high, CPU_SETTLE_S, now)) for cpus in profile.policies]
        self._counts = tuple(accumulate(map(len, profile.policies)))
        self._online = dict.fromkeys(sorted(cpu for cpus in profile.policies for cpu in cpus), True)

    def point(self) -> tuple[int, int]:
        """The online clusters' mean clock in Hz, and how many cores are online."""
        clocks = [1000 * policy.clock.value for policy in self._policies if self._active(policy)]
        return sum(clocks) // len(clocks), sum(self._online.values())

    def nodes(self) -> dict[str, Node]:
        """The files of policies and cores."""
        present = f"0-{max(self._online)}"
        nodes = {
            f"{FOLDER}/online": Node(self._online_list),
            f"{FOLDER}/present": constant(present),
            f"{FOLDER}/possible": constant(present),
        }
        for policy in self._policies:
            nodes |= self._policy_nodes(policy)
        return nodes | {f"{FOLDER}/cpu{cpu}/online": self._online_node(cpu) for cpu in self._online}

    def core_files(self) -> tuple[str, ...]:
        """The files that take single cores on and off."""
        return tuple(f"{FOLDER}/cpu{cpu}/online" for cpu in self._online)

    def _policy_nodes(self, policy: _Policy) -> dict[str, Node]:
        related = " ".join(map(str, policy.cpus))
        nodes = {
            "related_cpus": constant(related),
            "affected_cpus": Node(lambda: " ".join(str(cpu) for cpu in policy.cpus if self._online[cpu])),
            "scaling_governor": constant("schedutil"),
            "cpuinfo_min_freq": constant(self._steps[0]),
            "cpuinfo_max_freq": constant(self._steps[-1]),
            "scaling_min_freq": Node(lambda: str(policy.lowest_khz), partial(self._write_min, policy)),
            "scaling_max_freq": Node(lambda: str(policy.max_khz), partial(self._write_max, policy)),
            "scaling_cur_freq": Node(lambda: str(step_below(policy.max_khz, self._steps))),
            "cpuinfo_cur_freq": Node(partial(self._measured, policy)),
        }
        if self._listed:
            nodes["scaling_available_frequencies"] = constant(" ".join(map(str, self._steps)))
        return {f"{policy.folder}/{name}": node for name, node in nodes.items()}

    def _active(self, policy: _Policy) -> bool:
        return any(self._online[cpu] for cpu in policy.cpus)

    def _measured(self, policy: _Policy) -> str:
        if not self._active(policy):
            raise os_error(errno.EBUSY)
        return str(policy.clock.value)

    def _limit(self, policy: _Policy, text: str) -> int:
        """What is written as a limit, cut to the range of the hardware."""
        khz = parse_number(text)
        if not self._active(policy):
            raise os_error(errno.EBUSY)
        return min(max(khz, self._steps[0]), self._steps[-1])

    def _write_min(self, policy: _Policy, text: str) -> None:
        khz = self._limit(policy, text)
        if self._refuses_crossed and khz > policy.max_khz:
            raise os_error(errno.EINVAL)
        if self._switch.takes("cpu_hz"):
            policy.min_khz = khz

    def _write_max(self, policy: _Policy, text: str) -> None:
        khz = self._limit(policy, text)
        if self._refuses_crossed and khz < policy.min_khz:
            raise os_error(errno.EINVAL)
        if self._switch.takes("cpu_hz"):
            policy.max_khz = self._switch.clamp("cpu_hz", khz, self._steps)
            policy.clock.tell(step_below(policy.max_khz, self._steps))

    def _online_node(self, cpu: int) -> Node:
        def write(text: str) -> None:
            online = parse_number(text)
            if online not in (0, 1):
                raise os_error(errno.EINVAL)
            if cpu == 0 and not online:
                raise os_error(errno.EPERM)
            count = sum(self._online.values()) + 1
            clamped = online and self._switch.clamp("cores", count, self._counts) < count
            if self._switch.takes("cores") and not clamped:
                self._online[cpu] = bool(online)

        return Node(lambda: str(int(self._online[cpu])), write)

    def _online_list(self) -> str:
        """As the kernel lists cores: `0-3,6`."""
        ranges: list[list[int]] = []
        for cpu in (cpu for cpu, online in self._online.items() if online):
            if ranges and ranges[-1][1] == cpu - 1:
                ranges[-1][1] = cpu
            else:
                ranges.append([cpu, cpu])
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
