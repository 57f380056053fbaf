# SPDX-License-Identifier: Apache-2.0
"""Fits that fail or take long: the governor keeps the last feasible point, and its ticks go on; virtual time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from botorch.exceptions.errors import ModelFittingError
from linear_operator.utils.errors import NanError, NotPSDError

from governor.points import Point, Searcher
from governor.search import Search
from governor.status import Phase
from governor.surrogate.surfaces import Surfaces, fit_surfaces
from governor.trial import Feasible

from .explored import STEP_S, Explored, Reckless, explored
from .record import Tally
from .surface import KNOBS, RandomSurface, grid

TICK_S = 1.0
"""The next tick comes within so many seconds, by the wall."""
LATE, LATE_S = "late", 4.0
"""Longer than a lease that nobody renews."""
HALT_S = 20.0
AGAIN_S = 120.0
A_WORLD = 5
EASY = 6

ERRORS: Mapping[str, Callable[[], Exception]] = {
    "not positive definite": lambda: NotPSDError("matrix not positive definite after repeatedly adding jitter"),
    "not a number": lambda: NanError("cholesky_cpu: 100 of 100 elements of the tensor are NaN"),
    "model fitting": lambda: ModelFittingError("all attempts to fit the model have failed"),
    "linear algebra": lambda: torch.linalg.LinAlgError("linalg.cholesky: the factorization could not be completed"),
    "any other": lambda: RuntimeError("expected all tensors to be on the same device"),
}


class Stumbling(Reckless):
    """Proposes points that keep the objective with ease; `fault`, once, before it does: raises, or does not return."""

    fault: Callable[[], None] | None = None

    def ask(self) -> Point | None:
        """The next point."""
        fault, self.fault = self.fault, None
        if fault is not None:
            fault()
        return dict(self._draw.choice(sorted(self._surface.good, key=self._surface.replayed_s)[:EASY]))


def failing(tally: Tally) -> None:
    """Row 13: whatever becomes of a fit, the last feasible point is kept, no clock is touched, and ticks go on."""
    cases = tally.thin([*ERRORS] * 8 + [LATE] * 10)
    for first in range(0, len(cases), A_WORLD):
        _world(tally, cases[first : first + A_WORLD], seed=first)
    for seed, case in enumerate(tally.thin([*ERRORS] * 2)):
        _inside(tally, case, seed)


def _inside(tally: Tally, case: str, seed: int) -> None:
    """A fit fails inside the product's search: it still names what was seen feasible, and recovers with the next."""
    what, fit = f"{case} inside the search", Fails(ERRORS[case])
    surface = RandomSurface(seed)
    knobs = {name: sorted({point[name] for point in grid()}) for name in KNOBS}
    search = Search(knobs, surface.limit_s, seed, fit=fit)
    told = [surface.safe, *surface.good[:3], *surface.bad[:1]]
    for number, point in enumerate(told):
        search.tell(point, surface.replayed_s(point), 1.0 + 0.1 * number)
    fit.failing = True
    tally.inject(real=False, kind=what)
    try:
        asked, best = search.ask(), search.best()
    except Exception as error:  # noqa: BLE001 - what a search lets out is the governor's to bear, as above
        tally.expect(type(error) is type(ERRORS[case]()), f"{what}: {error!r}")
    else:
        tally.expect(asked in search.points, f"{what}: asked for {asked}")
        tally.expect(best is not None and best.point in told[:-1], f"{what}: the best is {best}")
    fit.failing = False
    search.tell(surface.good[0], surface.replayed_s(surface.good[0]), 1.0)
    tally.expect(search.ask() in search.points and search.best() is not None, f"{what}: it never recovers")
    tally.expect(fit.calls >= 2, f"{what}: nothing was fitted")


class Fails:
    """Fits as the product does, or fails."""

    def __init__(self, make: Callable[[], Exception]) -> None:
        self.failing, self.calls, self._make = False, 0, make

    def __call__(self, *told: Any) -> Surfaces:
        """The surfaces."""
        self.calls += 1
        if self.failing:
            raise self._make()
        return fit_surfaces(*told)


class Patient(ThreadPoolExecutor):
    """Thinks in a thread; virtual time stands still until the thought has ended, or is held."""

    def __init__(self) -> None:
        super().__init__(1)
        self.still = threading.Event()

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begin, and wait."""
        self.still.clear()
        future = super().submit(work, *args, **kwargs)
        future.add_done_callback(lambda _: self.still.set())
        if not self.still.wait(HALT_S):
            raise TimeoutError("the search neither ends nor stops")
        return future


class Halt:
    """Holds whoever calls it until it is told to go on."""

    def __init__(self, reached: threading.Event) -> None:
        self._reached, self.go_on = reached, threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        if not self.go_on.wait(HALT_S):
            raise TimeoutError("nobody let the search go on")


def _world(tally: Tally, cases: Sequence[str], seed: int) -> None:
    surface = RandomSurface(seed)

    def stumbling(knobs: Mapping[str, Sequence[float]], slo_s: float, *_: object, **__: object) -> Searcher:
        return Stumbling(surface, knobs, slo_s)

    thread = Patient()
    with explored(surface, make_search=stumbling, executor=thread, trials=1_000_000) as made:
        for number, case in enumerate(cases):
            halt = Halt(thread.still)
            if not _stumbled(tally, made, case, halt, f"{case} (surface {seed}, {number})"):
                break
        tally.same(made.status.faults["tick"], 0, f"surface {seed}: ticks that failed")
        tracebacks = [record.getMessage() for record in made.said if record.exc_info]
        tally.same(tracebacks, [], f"surface {seed}: tracebacks")


def _stumbled(tally: Tally, made: Explored, case: str, halt: Halt, what: str) -> bool:
    """One fit fails, or takes four seconds, right after a feasible trial; whether another one followed."""
    faults = made.status.faults["fit"]
    if not tally.expect(made.until(lambda: made.status.phase is Phase.MEASURING, AGAIN_S), f"{what}: no trial begins"):
        return False
    made.searches[-1].fault = halt if case == LATE else _raises(ERRORS[case])
    if not tally.expect(_another(made), f"{what}: no sound trial before"):
        return False
    tally.inject(real=False, kind=case)
    try:
        _unmoved(tally, made, what)
        tally.same(made.status.faults["fit"], faults + 1, f"{what}: faults counted")
    finally:
        halt.go_on.set()
    return tally.expect(_another(made), f"{what}: no sound trial after it ({made.status.phase})")


def _unmoved(tally: Tally, made: Explored, what: str) -> None:
    """For four seconds the point stays as it is, the lease is kept, and every tick comes in time."""
    point, writes = dict(made.status.point), made.board.writes
    for _ in range(int(LATE_S / STEP_S)):
        began_s = time.monotonic()
        made.live(STEP_S)
        took_s = time.monotonic() - began_s
        tally.worst("slowest_tick_s", took_s)
        tally.expect(took_s <= TICK_S, f"{what}: a tick took {took_s:.1f} s")
    tally.same((made.status.point, made.board.writes - writes), (point, 0), f"{what}: the point, requests for clocks")
    tally.expect(made.board.leased, f"{what}: the lease is gone")


def _another(made: Explored) -> bool:
    """Whether a feasible trial ends within two minutes."""

    def feasible() -> int:
        return sum(isinstance(record.outcome, Feasible) for record in made.status.trials)

    seen = feasible()
    return made.until(lambda: feasible() > seen, AGAIN_S)


def _raises(make: Callable[[], Exception]) -> Callable[[], None]:
    def fault() -> None:
        raise make()

    return fault
