# SPDX-License-Identifier: Apache-2.0
"""A Jetson: its clocks read, asked for, and put back. The same code runs on a real tree and on the virtual one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from .clocks import Applied, ClockPoint, ClockTable
from .cpu import Cpus
from .devfreq import Gpu
from .emc import Emc, EmcState
from .errors import BoardError, KnobNotRestored, NodeError, NotOffered, NotRestored
from .layout import Layout
from .rails import Rails
from .thermal import Thermal, Throttle
from .tree import Patient, Tree

TRUST_AFTER_S = 0.020
"""A read-back sooner after a write may still show the old clock."""
SETTLE_LIMIT_S = 0.5
"""A clock that does not read back by then was not honoured. Orin settles in 1 (CPU), 5 (GPU) and 8 ms (EMC)."""
_POLL_S = 0.010
_EMC_TRIES = 3


@dataclass(frozen=True, slots=True)
class Parts:
    """What was discovered of a board; None where it is missing, or hidden from this user."""

    gpu: Gpu | None
    emc: Emc | None
    cpus: Cpus
    rails: Rails
    thermal: Thermal

    @classmethod
    def find(cls, tree: Tree, layout: Layout) -> Parts:
        """Look for every part."""
        return cls(
            Gpu.find(tree, layout.gpu_of_names),
            Emc.find(tree, layout.emc_folder, layout.emc_lockable_hz, layout.emc_cap),
            Cpus.find(tree),
            Rails.find(tree, layout.module_rails),
            Thermal.find(tree),
        )

    def table(self) -> ClockTable:
        """The values this board offers, read from it."""
        gpu = self.gpu.frequencies() if self.gpu else ()
        emc = self.emc.frequencies() if self.emc else ()
        return ClockTable(gpu, gpu, emc, self.cpus.frequencies(), self.cpus.core_counts())


class JetsonBoard:
    """A `Board` made of the parts found in `tree`. `clock` and `sleep` count seconds and come from outside."""

    virtual = False

    def __init__(
        self, name: str, tree: Tree, layout: Layout, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self.name = name
        self.notes: tuple[str, ...] = ()
        self.parts = Parts.find(Patient(tree, clock, sleep), layout)
        self.table = self.parts.table()
        self._clock = clock
        self._sleep = sleep

    @property
    def averaging_s(self) -> float:
        """Window over which the rails average: power is to be trusted this long after a change."""
        return self.parts.rails.window_s

    def observe(self) -> ClockPoint:
        """The clocks as the hardware reports them now."""
        gpu, emc, cpus = self.parts.gpu, self.parts.emc, self.parts.cpus
        lowest, highest = gpu.observe() if gpu else (None, None)
        return ClockPoint(highest, lowest, emc.observe() if emc else None, *cpus.observe())

    def request(self, point: ClockPoint) -> Applied:
        """Ask for the knobs that `point` sets and wait until they read back, or `SETTLE_LIMIT_S` has passed.

        Raises `NotOffered` before anything is written, `NodeError` if a write fails half-way.
        """
        if not self.table.offers(point):
            raise NotOffered(point)
        started = self._clock()
        self._write(point)
        self._sleep(TRUST_AFTER_S)
        for tries in itertools.count(1):
            applied = Applied(point, self.observe(), self._clock() - started)
            if applied.honoured or applied.settle_s >= SETTLE_LIMIT_S:
                break
            if self.parts.emc and point.emc_hz and point.emc_hz != applied.observed.emc_hz and tries < _EMC_TRIES:
                # A lock may be refused without an error, or lost to the firmware at once.
                self.parts.emc.request(point.emc_hz)
            self._sleep(_POLL_S)
        return applied

    def rails(self) -> dict[str, float]:
        """Watts per named rail."""
        return self.parts.rails.read()

    def power_w(self, rails: dict[str, float] | None = None) -> float:
        """Watts of the whole module, from rails already read or from new readings."""
        return self.parts.rails.module_w(self.rails() if rails is None else rails)

    def thermals(self) -> dict[str, float | None]:
        """Degrees Celsius per thermal zone; None where the zone is power-gated."""
        return self.parts.thermal.read()

    def throttle(self) -> Throttle:
        """Over-current events since boot, and the thermal alerts in force."""
        return self.parts.thermal.throttle()

    def read_knobs(self) -> dict[str, int]:
        """The value of every knob file that a request may write, by name, in the kernel's own unit."""
        values: dict[str, int] = {}
        if self.parts.gpu:
            values["gpu.min_freq"], values["gpu.max_freq"] = self.parts.gpu.limits()
        if self.parts.emc:
            emc = self.parts.emc.state()
            values |= {"emc.rate": emc.rate_hz, "emc.mrq_rate_locked": emc.locked, "emc.state": emc.enabled}
        for policy in self.parts.cpus.policies:
            if self.parts.cpus.active(policy):
                values[f"policy{policy.number}.scaling_max_freq"] = self.parts.cpus.limit_khz(policy)
        for cpu in self.parts.cpus.all_cpus():
            values[f"cpu{cpu}.online"] = int(self.parts.cpus.online(cpu))
        return values

    def rescan(self) -> None:
        """Look again for what was missing, and at the power mode's limits."""
        self.table = self.parts.table()

    def energy_j(self) -> float | None:
        """None: no Jetson counts its energy."""
        return None

    def restore(self, originals: dict[str, int], keep: frozenset[str] = frozenset()) -> None:
        """Put the knobs back; one that is missing from `originals`, or impossible, gets the board's own range.

        Every knob is tried. Raises `NotRestored` with what failed.
        """
        wanted = self._completed(originals)
        failures = list(self._put_back(wanted))
        self._sleep(TRUST_AFTER_S)
        failures += self._differences(wanted)
        if failures:
            raise NotRestored(tuple(failures))

    def _write(self, point: ClockPoint) -> None:
        """Cores come online before their clock is written and go off after it: an offline core refuses the write."""
        cpus = self.parts.cpus
        before_hz, before = cpus.observe()
        # Cores that come online must not bring an older limit with them.
        limit_hz = point.cpu_hz or (before_hz if (point.cores or 0) > (before or 0) else None)
        if point.cores is not None:
            self._online(range(point.cores), online=True)
        if limit_hz is not None:
            cpus.request(limit_hz)
        if self.parts.gpu and (point.gpu_hz is not None or point.gpu_min_hz is not None):
            lowest, highest = self.parts.gpu.limits()
            highest = point.gpu_hz or max(highest, point.gpu_min_hz or 0)
            self.parts.gpu.request(point.gpu_min_hz or min(lowest, highest), highest)
        if self.parts.emc and point.emc_hz is not None:
            self.parts.emc.request(point.emc_hz)
        if point.cores is not None:
            self._online(range(point.cores, len(cpus.all_cpus())), online=False)

    def _online(self, positions: range, *, online: bool) -> None:
        cpus = self.parts.cpus.all_cpus()
        for position in positions:
            self.parts.cpus.request_online(cpus[position], online=online)

    def _completed(self, originals: dict[str, int]) -> dict[str, int]:
        """Every knob's value to put back: the original if the board can have it, else the board's own range."""
        cpus, values = self.parts.cpus, {}
        if self.parts.gpu:
            bottom, top = self.table.gpu_hz[0], self.table.gpu_hz[-1]
            lowest, highest = originals.get("gpu.min_freq", bottom), originals.get("gpu.max_freq", top)
            sound = bottom <= lowest <= highest <= top
            values["gpu.min_freq"], values["gpu.max_freq"] = (lowest, highest) if sound else (bottom, top)
        if self.parts.emc:
            rate, top = originals.get("emc.rate", 0), self.table.emc_hz[-1]
            values["emc.rate"] = rate if 0 < rate <= top else top
            values["emc.mrq_rate_locked"] = int(originals.get("emc.mrq_rate_locked") == 1)
            values["emc.state"] = int(originals.get("emc.state") != 0)
        for cpu in cpus.all_cpus():
            values[f"cpu{cpu}.online"] = int(cpu == 0 or originals.get(f"cpu{cpu}.online") != 0)
        for policy in cpus.policies:
            if any(values[f"cpu{cpu}.online"] for cpu in policy.cpus):
                name, limits = f"policy{policy.number}.scaling_max_freq", self.table.cpu_hz
                khz = originals.get(name, 0)
                values[name] = khz if limits[0] <= 1000 * khz <= limits[-1] else limits[-1] // 1000
        return values

    def _put_back(self, wanted: dict[str, int]) -> Iterator[BoardError]:
        """Restore part by part, cores first on and last off, one that fails not hindering the next; what failed."""
        cpus, gpu, emc = self.parts.cpus, self.parts.gpu, self.parts.emc
        online = {cpu: wanted[f"cpu{cpu}.online"] == 1 for cpu in cpus.all_cpus()}
        steps = [partial(cpus.request_online, cpu, online=True) for cpu in online if online[cpu]]
        for policy in cpus.policies:
            if (limit := wanted.get(f"policy{policy.number}.scaling_max_freq")) is not None:
                steps.append(partial(cpus.request_policy, policy, limit))
        if gpu:
            steps.append(partial(gpu.request, wanted["gpu.min_freq"], wanted["gpu.max_freq"]))
        if emc:
            state = EmcState(wanted["emc.rate"], wanted["emc.mrq_rate_locked"], wanted["emc.state"])
            steps.append(partial(emc.restore, state))
        steps += [partial(cpus.request_online, cpu, online=False) for cpu in online if not online[cpu]]
        for step in steps:
            try:
                step()
            except NodeError as error:
                yield error

    def _differences(self, wanted: dict[str, int]) -> Iterator[BoardError]:
        """Knob files that do not read as wanted; the rate of an unlocked EMC is the firmware's own affair."""
        now = self.read_knobs()
        ignored = set() if wanted.get("emc.mrq_rate_locked") else {"emc.rate"}
        for name, value in wanted.items():
            if name not in ignored and now.get(name) != value:
                yield KnobNotRestored(name, value, now.get(name))
