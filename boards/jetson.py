# SPDX-License-Identifier: Apache-2.0
"""A Jetson: its clocks read, asked for, and put back. The same code runs on a real tree and on the virtual one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from .clocks import KNOBS, Applied, ClockPoint
from .errors import BoardError, NodeError, NodeMissing, NotOffered, NotRestored
from .layout import Layout
from .parts import NAMES, Name, Parts
from .rails import Rails
from .restoring import absent, complete, differences, put_back
from .thermal import Throttle
from .tree import Patient, Tree

TRUST_AFTER_S = 0.020
"""A read-back sooner after a write may still show the old clock."""
SETTLE_LIMIT_S = 0.5
"""A clock that does not read back by then was not honoured. Orin settles in 1 (CPU), 5 (GPU) and 8 ms (EMC)."""
OTHER_RAILS_S = 0.25
"""Rails that do not count for the module are read this often."""
_POLL_S = 0.010
_EMC_TRIES = 3
_PARTS: dict[str, Name] = {"gpu_hz": "gpu", "gpu_min_hz": "gpu", "emc_hz": "emc", "cpu_hz": "cpus", "cores": "cpus"}
_Answer = TypeVar("_Answer")


class JetsonBoard:
    """A `Board` made of the parts found in `tree`. `clock` and `sleep` count seconds and come from outside.

    A part whose files vanish is dropped until `rescan` finds it again; the others go on working.
    """

    virtual = False

    def __init__(
        self, name: str, tree: Tree, layout: Layout, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self.name = name
        self.layout = layout
        self._tree = Patient(tree, clock, sleep)
        self._clock = clock
        self._sleep = sleep
        self._asked = False
        self._vanished: dict[Name, NodeMissing] = {}
        self._withdrawn: set[int] = set()
        self._all_rails_s = float("-inf")
        self.parts = Parts.find(self._tree, layout)
        self._say()

    @property
    def averaging_s(self) -> float:
        """Window over which the rails average: power is to be trusted this long after a change."""
        return self.parts.rails.window_s

    @property
    def plausible_w(self) -> float:
        """Watts above which a module's power is taken for a sensor fault."""
        return self.layout.ceiling_w

    @property
    def missing(self) -> tuple[str, ...]:
        """What was not found, or has gone: `rescan` may find it."""
        return (*self.parts.missing(), *(["rails"] if self.parts.rails.missing() else []))

    def rescan(self) -> None:
        """Look again for what was missing; while nothing is asked for, also at the limits of the power mode."""
        if self.missing:
            self.parts = self.parts.completed(self._tree, self.layout)
            self._vanished = {name: why for name, why in self._vanished.items() if name in self.parts.missing()}
        if not self._asked:
            for name in NAMES:
                if (part := getattr(self.parts, name)) is not None:
                    self._ask_part(name, part.rescan, None)
        else:
            self._ask_part("cpus", self.parts.cpus.meet, None)
        self._say()

    def observe(self) -> ClockPoint:
        """The clocks as the hardware reports them now; None for those of a part that is missing."""
        gpu, emc = self.parts.gpu, self.parts.emc
        none: tuple[int | None, int | None] = (None, None)
        lowest, highest = self._ask_part("gpu", gpu.observe, none) if gpu else none
        rate = self._ask_part("emc", emc.observe, None) if emc else None
        return ClockPoint(highest, lowest, rate, *self._ask_part("cpus", self.parts.cpus.observe, none))

    def request(self, point: ClockPoint) -> Applied:
        """Ask for the knobs that `point` sets and wait until they read back, or `SETTLE_LIMIT_S` has passed.

        Raises `NotOffered` before anything is written, `NodeError` with its `knob` if a write fails half-way.
        """
        if not self.table.offers(point):
            raise NotOffered(point)
        self._asked = True
        started_s = self._clock()
        try:
            self._write(point)
            applied = self._settle(point, started_s)
        except NodeError as error:
            error.knob = error.knob or self._knob_of(error.path, point)
            if isinstance(error, NodeMissing):
                self._drop(_PARTS[error.knob], error)
            raise
        self._withdraw(applied)
        return applied

    def rails(self) -> dict[str, float]:
        """Watts per named rail; those that do not count for the module are up to 0.25 s old.

        Each is a register or two behind I2C, half a millisecond apiece, and a TX2 has eleven of them.
        """
        everything = self._clock() - self._all_rails_s >= OTHER_RAILS_S
        try:
            watts = self.parts.rails.read(everything=everything)
        except NodeMissing:
            # The driver was reloaded, perhaps under another number.
            self.parts = replace(self.parts, rails=Rails(self._tree, (), self.layout))
            self._say()
            raise
        if everything:
            self._all_rails_s = self._clock()
        return watts

    def power_w(self, rails: dict[str, float] | None = None) -> float:
        """Watts of the whole module, from rails already read or from new readings."""
        return self.parts.rails.module_w(self.rails() if rails is None else rails)

    def energy_j(self) -> float | None:
        """None: no Jetson counts its energy."""
        return None

    def thermals(self) -> dict[str, float | None]:
        """Degrees Celsius per thermal zone; None where the zone is power-gated."""
        return self.parts.thermal.read()

    def throttle(self) -> Throttle:
        """Over-current events since boot, and the thermal alerts in force."""
        return self.parts.thermal.throttle()

    def read_knobs(self) -> dict[str, int]:
        """The value of every knob file that a request may write, by name, in the kernel's own unit."""
        gpu, emc, nothing = self.parts.gpu, self.parts.emc, dict[str, int]()
        values = dict(self._ask_part("gpu", gpu.knobs, nothing)) if gpu else {}
        values |= self._ask_part("emc", emc.knobs, nothing) if emc else {}
        return values | self._ask_part("cpus", self.parts.cpus.knobs, nothing)

    def watch_knobs(self) -> Callable[[], bool]:
        """A question cheap enough to ask often: whether every knob file still reads as it does now."""
        gpu, emc = self.parts.gpu, self.parts.emc
        paths = [*(gpu.range.paths if gpu else ()), *(emc.knob_paths() if emc else ()), *self.parts.cpus.knob_paths()]
        return self._tree.watch(paths)

    def restore(self, originals: dict[str, int], keep: frozenset[str] = frozenset()) -> None:
        """Put the knobs back; one that is missing from `originals`, or impossible, gets the board's own range.

        Every knob is tried but those in `keep`. Raises `NotRestored` with what failed, or is not there to be tried.
        """
        try:
            now = self.read_knobs()
        except NodeError:
            # What cannot be read may still be written; whether it was is seen below.
            now = {}
        wanted = complete(self.parts, originals, keep, now)
        failures: list[BoardError] = list(put_back(self.parts, wanted))
        self._sleep(TRUST_AFTER_S)
        try:
            now = self.read_knobs()
            failures += differences(wanted, now)
        except NodeError as error:
            failures.append(error)
        self._asked = bool(failures)
        failures += absent(self.parts, originals, keep, now)
        if failures:
            raise NotRestored(tuple(failures))

    def _write(self, point: ClockPoint) -> None:
        """Cores and their clock first, then GPU and memory."""
        gpu, emc = self.parts.gpu, self.parts.emc
        if point.cores is not None or point.cpu_hz is not None:
            self.parts.cpus.ask(point.cpu_hz, point.cores)
        if gpu and (point.gpu_hz is not None or point.gpu_min_hz is not None):
            gpu.ask(point.gpu_hz, point.gpu_min_hz)
        if emc and point.emc_hz is not None:
            emc.request(point.emc_hz)

    def _settle(self, point: ClockPoint, started_s: float) -> Applied:
        """Read back until every knob is as asked, locking memory again where the firmware let go of it."""
        self._sleep(TRUST_AFTER_S)
        for tries in itertools.count(1):
            applied = Applied(point, self.observe(), self._clock() - started_s)
            for knob, value in zip(KNOBS, point.values(), strict=True):
                if value is not None and _PARTS[knob] in self._vanished:
                    raise self._vanished[_PARTS[knob]]
            if applied.honoured or applied.settle_s >= SETTLE_LIMIT_S:
                break
            if self.parts.emc and point.emc_hz not in (None, applied.observed.emc_hz) and tries < _EMC_TRIES:
                # A lock may be refused without an error, or lost to the firmware at once.
                self.parts.emc.request(point.emc_hz)
            self._sleep(_POLL_S)
        return applied

    def _withdraw(self, applied: Applied) -> None:
        """Take a memory rate that does not hold off the table, where nobody has proven that it does."""
        asked, emc = applied.requested.emc_hz, self.parts.emc
        if emc and not emc.proven and asked is not None and asked != applied.observed.emc_hz:
            self._withdrawn.add(asked)
            self._say()

    def _knob_of(self, path: str, point: ClockPoint) -> str:
        """The knob of `point` for whose sake a file was used."""
        gpu, emc = self.parts.gpu, self.parts.emc
        if gpu and path.startswith(gpu.folder):
            lower = path == gpu.range.lower_path and point.gpu_min_hz is not None
            return "gpu_min_hz" if lower or point.gpu_hz is None else "gpu_hz"
        if emc and path in (emc.rate_path, *emc.flags.values()):
            return "emc_hz"
        return "cores" if path.endswith("/online") or point.cpu_hz is None else "cpu_hz"

    def _ask_part(self, name: Name, ask: Callable[[], _Answer], nothing: _Answer) -> _Answer:
        """What a part answers; `nothing` if it has gone, which drops it."""
        try:
            return ask()
        except NodeMissing as error:
            self._drop(name, error)
            return nothing

    def _drop(self, name: Name, error: NodeMissing) -> None:
        self._vanished[name] = error
        self.parts = self.parts.without(name, self._tree)
        self._say()

    def _say(self) -> None:
        """Renew the table and the notes."""
        table = self.parts.table()
        self.table = replace(table, emc_hz=tuple(rate for rate in table.emc_hz if rate not in self._withdrawn))
        self.notes = tuple(self._notes())

    def _notes(self) -> Iterator[str]:
        yield from self.layout.notes
        yield from self.parts.notes(self.layout)
        yield from (f"vanished: {error}" for error in self._vanished.values())
        yield from (f"memory rate {rate / 1e6:g} MHz does not hold here: withdrawn" for rate in sorted(self._withdrawn))
