# SPDX-License-Identifier: Apache-2.0
"""CPU clocks and cores: cpufreq policies (kHz; Linux admin-guide/pm/cpufreq) and CPU hot-plug."""

from __future__ import annotations

from .errors import NodeError, SensorImplausible
from .limits import Limits
from .tree import Tree, read_int, read_ints

_CPUS = "/sys/devices/system/cpu"
_MEASURED_TOLERANCE = 0.05
"""`cpuinfo_cur_freq` is counted over a few microseconds; over-current halves it, which is far more than this."""


class Policy:
    """Cores that share a clock. They need not be neighbours: on TX2 policy 0 has cores 0, 3, 4 and 5."""

    def __init__(self, tree: Tree, number: int) -> None:
        self._tree = tree
        self.number = number
        self.folder = f"{_CPUS}/cpufreq/policy{number}"
        self.cpus = read_ints(tree, f"{self.folder}/related_cpus")
        self.range = Limits(tree, f"{self.folder}/scaling_min_freq", f"{self.folder}/scaling_max_freq")
        try:
            steps_khz = read_ints(tree, f"{self.folder}/scaling_available_frequencies")
        except NodeError:
            # Thor's driver lists none.
            steps_khz = ()
        self.steps_hz = tuple(sorted(1000 * khz for khz in steps_khz))
        self._clock_path = f"{self.folder}/cpuinfo_cur_freq"
        self._clocked = tree.exists(self._clock_path)

    def observe_hz(self) -> int:
        """The upper limit, unless the measured clock shows another one: above it, or below the lower limit."""
        limit = read_int(self._tree, self.range.upper_path)
        if not self._clocked:
            return 1000 * limit
        try:
            measured = read_int(self._tree, self._clock_path)
            # The lower limit is read where it could matter: twenty times a second, every file counts.
            doubtful = measured < (1 - _MEASURED_TOLERANCE) * min(
                limit, self.range.rest[0] if self.range.rest else limit
            )
            lowest = read_int(self._tree, self.range.lower_path) if doubtful else 0
        except NodeError:
            return 1000 * limit
        above = measured > limit * (1 + _MEASURED_TOLERANCE)
        below = measured < min(lowest, limit) * (1 - _MEASURED_TOLERANCE)
        return 1000 * (measured if above or below else limit)


class Cpus:
    """All cores and their policies. Frequencies in Hz."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.policies: tuple[Policy, ...] = ()
        self._loose: tuple[int, ...] = ()
        """Cores of policies that cannot be read: later kernels answer EBUSY while all of their cores are offline."""
        self._spare: frozenset[int] = frozenset()
        """Cores that were online at rest, and so may be used."""
        self._masked = False

    @classmethod
    def find(cls, tree: Tree) -> Cpus:
        """The policies of this machine, by number."""
        cpus = cls(tree)
        cpus.rescan()
        return cpus

    def rescan(self) -> None:
        """Take the limits as they stand, and the cores that are online, for those at rest."""
        self.meet()
        self._check_mask()
        self._spare = self.online()
        active = self._active(self._spare)
        for policy in self.policies:
            if policy in active:
                policy.range.rescan()
            else:
                policy.range.forget()

    def meet(self) -> None:
        """Get to know policies that were not there, or not readable, before."""
        policies = {policy.number: policy for policy in self.policies}
        for path in self._tree.glob(f"{_CPUS}/cpufreq/policy*"):
            number = int(path.rpartition("policy")[2])
            try:
                policies[number] = policies.get(number) or Policy(self._tree, number)
            except NodeError:
                continue
        self.policies = tuple(policies[number] for number in sorted(policies))
        grouped = {cpu for policy in self.policies for cpu in policy.cpus}
        files = self._tree.glob(f"{_CPUS}/cpu[0-9]*/online")
        cpus = sorted(int(path.split("/")[-2].removeprefix("cpu")) for path in files)
        self._loose = tuple(cpu for cpu in cpus if cpu not in grouped) if self.policies else ()

    def frequencies(self) -> tuple[int, ...]:
        """The steps that every policy offers, ascending; none where the driver lists none."""
        sets = [set(policy.steps_hz) for policy in self.policies]
        return tuple(sorted(set.intersection(*sets))) if sets else ()

    def offered(self) -> tuple[int, ...]:
        """The steps within the upper limit at rest, which cpufreq never exceeds."""
        limits = [1000 * policy.range.rest[1] for policy in self.policies if policy.range.rest]
        return tuple(hz for hz in self.frequencies() if hz <= min(limits, default=0)) or self.frequencies()[:1]

    def core_counts(self) -> tuple[int, ...]:
        """How many cores may be online: whole policies, so that no core runs beside a dark cluster's clock.

        Cores that were offline at rest (a power mode's doing) stay out of it.
        """
        counts: list[int] = []
        for policy in self.policies:
            here = len(self._spare.intersection(policy.cpus))
            if here:
                counts.append(here + (counts[-1] if counts else 0))
        return tuple(counts)

    def all_cpus(self) -> tuple[int, ...]:
        """Every core, online or not, policy by policy."""
        return (*(cpu for policy in self.policies for cpu in policy.cpus), *self._loose)

    def online(self) -> frozenset[int]:
        """The cores that are online: one read, where the kernel's list can be trusted."""
        return self._listed() if self._masked else self._each()

    def observe(self) -> tuple[int | None, int | None]:
        """Upper limit of the online cores, and how many they are; None where there is no such knob.

        Where policies disagree the limit is their mean, which no request reads back as.
        """
        if not self.policies:
            return None, None
        online = self.online()
        if not self.frequencies():
            return None, len(online)
        limits = [policy.observe_hz() for policy in self._active(online)]
        return round(sum(limits) / len(limits)) if limits else None, len(online)

    def knobs(self) -> dict[str, int]:
        """The knob files and what they read; those of a policy without online cores cannot be read or written."""
        values: dict[str, int] = {}
        online = self.online()
        for policy in self._active(online) if self.frequencies() else []:
            names = (f"policy{policy.number}.scaling_min_freq", f"policy{policy.number}.scaling_max_freq")
            values |= zip(names, policy.range.read(), strict=True)
        return values | {f"cpu{cpu}.online": int(cpu in online) for cpu in self.all_cpus()}

    def knob_paths(self) -> list[str]:
        """The files that `knobs` reads."""
        active = self._active(self.online()) if self.frequencies() else []
        limits = [path for policy in active for path in policy.range.paths]
        each = [f"{_CPUS}/cpu{cpu}/online" for cpu in self.all_cpus()]
        return limits + ([f"{_CPUS}/online"] if self._masked else [path for path in each if self._tree.exists(path)])

    def ask(self, limit_hz: int | None, cores: int | None) -> None:
        """Ask every online core to stay at or below a limit, and for a number of cores.

        Cores come online before their clock is written and go off after it: an offline policy refuses (EBUSY). Those
        that come online must not bring an older limit with them.
        """
        before = self.online()
        usable = [cpu for cpu in self.all_cpus() if cpu in self._spare]
        wanted = usable[:cores] if cores is not None else []
        if self.frequencies() and limit_hz is None and not before.issuperset(wanted):
            limit_hz, _ = self.observe()
        for cpu in wanted:
            self.request_online(cpu, online=True)
        if limit_hz is not None:
            for policy in self._active(self.online()):
                self.request_policy(policy, policy.range.lowest_below(limit_hz // 1000), limit_hz // 1000)
        for cpu in usable[cores:] if cores is not None else []:
            self.request_online(cpu, online=False)

    def request_policy(self, policy: Policy, lowest_khz: int | None, highest_khz: int | None) -> None:
        """Ask one policy for limits in kHz; refused (EBUSY, EIO) while all its cores are offline."""
        policy.range.request(lowest_khz, highest_khz)

    def request_online(self, cpu: int, *, online: bool) -> None:
        """Bring a core online or take it off; cpu0 stays on, whatever is asked."""
        if cpu != 0 and self._is_online(cpu) != online:
            self._tree.write(f"{_CPUS}/cpu{cpu}/online", str(int(online)))
            self._check_mask()

    def _check_mask(self) -> None:
        """A list that does not follow the cores is no kernel's, but a plain file of an exported tree."""
        self._masked = self._tree.exists(f"{_CPUS}/online") and self._listed() == self._each()

    def _listed(self) -> frozenset[int]:
        return frozenset(parse_cpus(self._tree, f"{_CPUS}/online")).intersection(self.all_cpus())

    def _each(self) -> frozenset[int]:
        return frozenset(cpu for cpu in self.all_cpus() if self._is_online(cpu))

    def _is_online(self, cpu: int) -> bool:
        """One core; one without the file cannot be taken off."""
        path = f"{_CPUS}/cpu{cpu}/online"
        return not self._tree.exists(path) or read_int(self._tree, path) == 1

    def _active(self, online: frozenset[int]) -> list[Policy]:
        """The policies of which any core is online."""
        return [policy for policy in self.policies if not online.isdisjoint(policy.cpus)]


def parse_cpus(tree: Tree, path: str) -> list[int]:
    """The numbers in a list such as `0,3-5` (Linux cputopology)."""
    text = tree.read(path)
    try:
        spans = [tuple(map(int, span.split("-"))) for span in text.split(",")]
    except ValueError as error:
        raise SensorImplausible(path, f"expected a list of cores, found {text[:40]!r}") from error
    return [cpu for span in spans for cpu in range(span[0], span[-1] + 1)]
