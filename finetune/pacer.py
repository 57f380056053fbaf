# SPDX-License-Identifier: Apache-2.0
"""Who may compute now: training asks a `Pacer` between operations and waits while inference is in flight.

`Gate` looks at the pages of a run directory. It closes while any request is in flight, between slices as the governor's
limits say, while the governor holds training, and while a served model has fallen silent: who died or hangs is about to
be started again, and needs the machine.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from telemetry.pages import Page
from telemetry.rundir import RunDir
from telemetry.trainer_page import ENDLESS_NS, TrainerLimits, TrainerPage

from .watched import Watched

AWAKE_NS = 2_000_000
"""For so long a trainer that waits for a request stays awake: most are short, and a core that has gone to sleep, or a
thread that the kernel owes time for having slept, makes others late afterwards."""
POLL_S = 0.0005
"""How often it looks at the gate after that: what bounds how late it resumes. It costs under 1 % of a core."""
RESTING_S, HELD_POLL_S = 0.005, 0.02
"""The same while it rests, and while it is held."""
LEAST_DUTY = 0.0005
IDLE_NS = 250_000_000
"""How often `idle` is called within a wait."""
YIELD_NS = 100_000
"""How often a trainer at work yields between two operations. Where a thread of the server queues behind it on one core,
EEVDF goes by who is owed time, however low a weight: without this it waits for the next tick, 4 ms off."""
DEBT_NS = 1_000_000
"""What a virtual board's slow-down may add up to before it is slept off."""
EVERY = 16
"""Looks between two whose stretch is noted: every 17th, a prime, so that each operation of a step has its turn. The
first ones are noted more often, for nothing is known yet."""
EARLY = 8
"""How many are noted before the looks between two grow by one."""
BEAT_S = 0.05
LEAST_WEIGHT = 19
"""The nice value of training."""
ALONE = TrainerLimits(1.0, 0.05)
"""The limits of training that no governor paces."""
NO_GOVERNOR, SILENT = "no governor", "a served model is silent"


class Pacer(Protocol):
    """Asked by the executor; `clear` is on the hot path, after every operation."""

    def clear(self) -> bool:
        """Whether training may go on now; no allocation, no system call but to yield now and then."""
        ...

    def wait(self) -> float:
        """Block until `clear`, return the seconds waited."""
        ...

    def slice_done(self, busy_s: float) -> None:
        """Account for `busy_s` seconds of training that were not interrupted."""
        ...


class Free:
    """Never waits: training alone on the device."""

    def clear(self) -> bool:
        """Always."""
        return True

    def wait(self) -> float:
        """No time at all."""
        return 0.0

    def slice_done(self, busy_s: float) -> None:
        """Nothing to account for."""


class Gate:
    """The pacer of a fine-tuning process beside served models; nobody else writes the trainer's page.

    It is closed until the first `wait`. Where no governor sets limits training is held, unless `governed` is False.
    `idle` is called a few times a second within long waits; what it raises ends the step that waits.
    On a virtual board (clockd writes a slow-down to the page) operations are stretched, charged, and take turns with
    inference on the one virtual GPU: `thread_ns` is this thread's own time, for what other processes took from it must
    not be stretched as well.
    """

    def __init__(
        self,
        run_dir: RunDir,
        page: TrainerPage,
        *,
        governed: bool = True,
        idle: Callable[[], None] = lambda: None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        thread_ns: Callable[[], int] = time.thread_time_ns,
        sleep: Callable[[float], None] = time.sleep,
        give_way: Callable[[], None] = os.sched_yield,
    ) -> None:
        self._page, self._governed, self._idle = page, governed, idle
        self._clock_ns, self._thread_ns, self._sleep, self._give_way = clock_ns, thread_ns, sleep, give_way
        self._watched = Watched(run_dir)
        self._gates: tuple[memoryview, ...] = ()
        self._limits = ALONE
        self._silent = False
        self._until_ns = self._rest_until_ns = 0
        self._asked_ns = 0
        """The last look, 0 between slices."""
        self._yielded_ns = 0
        """When it last gave way."""
        self._looks = self._noted = 0
        """Until the next stretch is noted, and how many are."""
        self._slowdown = 0.0
        self._own_ns = self._debt_ns = 0
        """Of a virtual board: this thread's time when the slice began, and what is still to be slept off."""

    def clear(self) -> bool:
        """Whether no instance has a request in flight and the slice is not over."""
        ended_ns = now_ns = self._clock_ns()
        if now_ns - self._yielded_ns >= YIELD_NS:
            self._give_way()
            self._yielded_ns = now_ns = self._clock_ns()
        if not self._asked_ns:
            if self._slowdown:
                self._take_turn()
        elif self._looks:
            self._looks -= 1
        else:
            self._note(ended_ns - self._asked_ns)
        self._asked_ns = now_ns
        for gate in self._gates:
            if gate[0]:
                return False
        return now_ns < self._until_ns and (not self._slowdown or self._owed_ns() < DEBT_NS)

    def wait(self) -> float:
        """Block until inference is idle, nothing holds training and the rest is over; seconds waited."""
        began_ns = now_ns = called_ns = self._clock_ns()
        self._pay()
        while True:
            now_ns = self._clock_ns()
            held = self._look(now_ns)
            free = not (held or any(gate[0] for gate in self._gates))
            rest_s = (self._rest_until_ns - now_ns) / 1e9
            if free and rest_s <= 0:
                break
            if not held and not free and now_ns - began_ns < AWAKE_NS:
                self._give_way()
            else:
                self._sleep(HELD_POLL_S if held else min(RESTING_S, rest_s) if free else POLL_S)
            if now_ns - called_ns >= IDLE_NS:
                called_ns = now_ns
                self._idle()
        # Who has slept is owed time by EEVDF (Linux 6.6 on), however low its weight: the kernel would run it before a
        # thread of the server that was just interrupted, up to the next tick. Who yields is owed none (6.18 on).
        self._give_way()
        self._yielded_ns = now_ns
        self._until_ns = now_ns + int(self._limits.slice_s * 1e9)
        return (now_ns - began_ns) / 1e9

    def slice_done(self, busy_s: float) -> None:
        """Charge the slice to the trainer's page, and rest from now on so that training keeps to its duty."""
        if not self._asked_ns:
            return
        now_ns, busy_ns = self._clock_ns(), int(busy_s * 1e9)
        if self._slowdown:
            own_ns = self._thread_ns() - self._own_ns
            self._debt_ns += int((self._slowdown - 1) * own_ns)
            busy_ns = int(self._slowdown * own_ns)
            self._page.occupy(now_ns + self._debt_ns)
        self._page.slice_done(busy_ns)
        self._asked_ns = 0
        rest_ns = int(busy_ns * (1 / max(self._limits.duty, LEAST_DUTY) - 1))
        if rest_ns:
            self._rest_until_ns = max(now_ns, self._rest_until_ns) + rest_ns

    def held(self) -> str | None:
        """Why training is held, in words; None while it is not. For any thread."""
        return self._held(self._page.read_limits(self._clock_ns()))

    def close(self) -> None:
        """Let go of the instances' pages; the trainer's own stays."""
        self._gates = ()
        self._watched.close()

    def _held(self, limits: TrainerLimits | None) -> str | None:
        if limits is None:
            return NO_GOVERNOR if self._governed else SILENT if self._silent else None
        if limits.duty <= 0:
            return limits.reason or "held by the governor"
        return SILENT if self._silent else None

    def _look(self, now_ns: int) -> str | None:
        """See who is there and what the governor says; why training is held."""
        self._watched.look(now_ns)
        self._gates = self._watched.gates(now_ns)
        self._silent = self._watched.silent(now_ns)
        self._slowdown = self._page.slowdown
        limits = self._page.read_limits(now_ns)
        self._limits = limits or ALONE
        return self._held(limits)

    def _note(self, stretch_ns: int) -> None:
        """Tell of one operation among many how long it was."""
        self._noted += 1
        self._looks = min(EVERY, self._noted // EARLY)
        self._page.add_stretch(int(max(1.0, self._slowdown) * stretch_ns))

    def _take_turn(self) -> None:
        """A slice begins on a virtual GPU: inference that arrives now waits for the operation."""
        self._page.occupy(ENDLESS_NS)
        self._own_ns = self._thread_ns()

    def _owed_ns(self) -> float:
        return self._debt_ns + (self._slowdown - 1) * (self._thread_ns() - self._own_ns)

    def _pay(self) -> None:
        """Sleep off what the virtual board took longer; then its GPU is free."""
        if self._debt_ns:
            self._sleep(self._debt_ns / 1e9)
            self._debt_ns = 0
        if self._slowdown:
            self._page.occupy(0)


def step_aside() -> None:
    """Give this thread the least weight there is (nice 19): whatever runs beside a model that answers goes first.

    Not the class for the idle (SCHED_IDLE): the kernel takes a core on which nothing else runs for an idle one, and
    wakes the server's threads there though another is free. It takes no privilege, and without one it cannot be taken
    back. Where threads have no weight of their own nothing happens.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LEAST_WEIGHT)


class Heart:
    """Beats a page from a thread of its own, within `with`."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="trainer-heart", daemon=True)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            self._page.beat()
