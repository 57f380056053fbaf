# SPDX-License-Identifier: Apache-2.0
"""CPU clocks and cores: cpufreq policies (kHz; Linux admin-guide/pm/cpufreq) and CPU hot-plug."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import NodeError
from .tree import Tree, read_int

_POLICIES = "/sys/devices/system/cpu/cpufreq"
_CPUS = "/sys/devices/system/cpu"
_MEASURED_TOLERANCE = 0.05
"""`cpuinfo_cur_freq` is counted over a few microseconds; over-current halves it, which is far more than this."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Cores that share a clock."""

    number: int
    cpus: tuple[int, ...]

    @property
    def folder(self) -> str:
        """Where its files lie."""
        return f"{_POLICIES}/policy{self.number}"


class Cpus:
    """All cores and their policies. Frequencies in Hz."""

    def __init__(self, tree: Tree, policies: tuple[Policy, ...]) -> None:
        self._tree = tree
        self.policies = policies

    @classmethod
    def find(cls, tree: Tree) -> Cpus:
        """The policies of this machine, by number."""
        policies = []
        for path in tree.glob(f"{_POLICIES}/policy*/related_cpus"):
            number = int(re.findall(r"policy(\d+)", path)[0])
            policies.append(Policy(number, tuple(int(word) for word in tree.read(path).split())))
        return cls(tree, tuple(sorted(policies, key=lambda policy: policy.number)))

    def frequencies(self) -> tuple[int, ...]:
        """The steps that every policy offers, ascending."""
        sets = [
            {1000 * int(word) for word in self._tree.read(f"{policy.folder}/scaling_available_frequencies").split()}
            for policy in self.policies
        ]
        return tuple(sorted(set.intersection(*sets))) if sets else ()

    def core_counts(self) -> tuple[int, ...]:
        """How many cores may be online: whole policies, so that no core runs beside a dark cluster's clock."""
        counts, total = [], 0
        for policy in self.policies:
            total += len(policy.cpus)
            counts.append(total)
        return tuple(counts)

    def online(self, cpu: int) -> bool:
        """Whether a core is online; one without the file cannot be taken off."""
        path = f"{_CPUS}/cpu{cpu}/online"
        return not self._tree.exists(path) or read_int(self._tree, path) == 1

    def observe(self) -> tuple[int | None, int | None]:
        """Upper limit of the online cores, and how many they are; None on a machine without cpufreq.

        Where policies disagree the limit is their mean, which no request reads back as.
        """
        if not self.policies:
            return None, None
        cores = [sum(map(self.online, policy.cpus)) for policy in self.policies]
        limits = [self._observe_policy(policy) for policy, on in zip(self.policies, cores, strict=True) if on]
        return round(sum(limits) / len(limits)), sum(cores)

    def limit_khz(self, policy: Policy) -> int:
        """A policy's upper limit as it reads back, in kHz."""
        return read_int(self._tree, f"{policy.folder}/scaling_max_freq")

    def request(self, limit_hz: int) -> None:
        """Ask every online core to stay at or below a limit."""
        for policy in self.policies:
            if self.active(policy):
                self.request_policy(policy, limit_hz // 1000)

    def request_policy(self, policy: Policy, limit_khz: int) -> None:
        """Ask one policy to stay at or below a limit in kHz; refused (EBUSY, EIO) while all its cores are offline."""
        self._tree.write(f"{policy.folder}/scaling_max_freq", str(limit_khz))

    def request_online(self, cpu: int, *, online: bool) -> None:
        """Bring a core online or take it off; cpu0 stays on, whatever is asked."""
        if cpu != 0 and self.online(cpu) != online:
            self._tree.write(f"{_CPUS}/cpu{cpu}/online", str(int(online)))

    def all_cpus(self) -> tuple[int, ...]:
        """Every core, online or not."""
        return tuple(cpu for policy in self.policies for cpu in policy.cpus)

    def active(self, policy: Policy) -> bool:
        """Whether any of a policy's cores is online."""
        return any(map(self.online, policy.cpus))

    def _observe_policy(self, policy: Policy) -> int:
        """The limit, unless the measured clock shows another one: above the limit, or below the lower limit."""
        limit = self.limit_khz(policy)
        try:
            measured = read_int(self._tree, f"{policy.folder}/cpuinfo_cur_freq")
            lowest = read_int(self._tree, f"{policy.folder}/scaling_min_freq")
        except NodeError:
            return 1000 * limit
        above = measured > limit * (1 + _MEASURED_TOLERANCE)
        below = measured < min(lowest, limit) * (1 - _MEASURED_TOLERANCE)
        return 1000 * (measured if above or below else limit)
