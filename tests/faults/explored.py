# SPDX-License-Identifier: Apache-2.0
"""A governor exploring a random surface in virtual time, seen from outside: what was asked for, and what was served."""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from boards.clocks import ClockPoint, ClockTable
from governor.config import Config
from governor.history import FILE
from governor.loop import Governor
from governor.points import Best, MakeSearch, Point, Searcher
from governor.simulated_board import SimulatedBoard
from governor.simulation import Inline, SimulatedModel, Simulation
from governor.status import Phase
from telemetry.durable import read_log
from telemetry.instance_page import InstanceInfo

from .surface import KNOBS, MAX_BATCH, TABLE, RandomSurface

STEP_S = 0.25
ONE_BAD_IN = 7
SHORT = {"trial_s": 2.0, "slo_window_s": 5.0, "cooldown_s": 5.0}
"""Half of what is usual, or less."""


class Reckless:
    """A search that proposes at random; one proposal in seven breaks the objective, however often it did before.

    The best is the cheapest that was told feasible.
    """

    def __init__(self, surface: RandomSurface, knobs: Mapping[str, Sequence[float]], slo_s: float) -> None:
        self.knobs = {name: tuple(float(value) for value in values) for name, values in knobs.items()}
        self.told: dict[tuple[float, ...], Best] = {}
        self._surface, self._slo_s, self._draw = surface, slo_s, random.Random(surface.seed)

    def ask(self) -> Point | None:
        """A point that keeps the objective, or one that does not."""
        pool = self._surface.good if self._draw.randrange(ONE_BAD_IN) else self._surface.bad
        return dict(self._draw.choice(pool))

    def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
        """Remember the last figures of each point."""
        self.told[tuple(point.values())] = Best(dict(point), energy_j, latency_s, 1.0)

    def forget(self) -> None:
        """Forget what was told."""
        self.told.clear()

    def best(self) -> Best | None:
        """The cheapest feasible one."""
        kept = [told for told in self.told.values() if told.latency_s <= self._slo_s]
        return min(kept, key=lambda told: told.energy_j, default=None)


@dataclass(frozen=True, slots=True)
class Stay:
    """A stretch of time for which one point was asked for."""

    point: Point
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial on disk: when it ended, where, how (its outcome, or why it has none), and how long it measured."""

    end_s: float
    point: Point
    outcome: str
    window_s: float
    taken_back: str = ""
    """Why it turned out to be none after its end."""

    @property
    def verdict(self) -> str:
        """What is held of it in the end."""
        return self.taken_back or self.outcome


class Quick(SimulatedBoard):
    """Takes what is drawn between two looks as one slice, for speed."""

    _drawn_j = _drawn_s = 0.0

    def feed(self, power_w: float, dt_s: float) -> None:
        """Let the board draw so much for so long."""
        self._drawn_j += power_w * dt_s
        self._drawn_s += dt_s

    def sample(self) -> None:
        """Look at the sensors."""
        if self._drawn_s > 0:
            super().feed(self._drawn_j / self._drawn_s, self._drawn_s)
        self._drawn_j = self._drawn_s = 0.0
        super().sample()


class Explored(Simulation):
    """One model on a random surface, and the governor that explores it."""

    def __init__(
        self,
        folder: Path,
        surface: RandomSurface,
        make_search: MakeSearch | None = None,
        executor: Executor | None = None,
        table: ClockTable = TABLE,
        **settings: Any,
    ) -> None:
        promise = surface.limit_s, surface.quantile
        info = InstanceInfo("random", "1", "random_0_0", "resnet", MAX_BATCH, 0, *promise, 1.0)
        self.model = SimulatedModel(info, surface.rate_hz, surface.seed)
        self.model.workload = surface  # type: ignore[assignment]
        super().__init__([self.model], table=table)
        self.board = Quick(self.clock, table)
        self.surface = surface
        self.rate_hz = surface.rate_hz
        """Of the requests that arrive."""
        usual: dict[str, Any] = {"knobs": KNOBS, "tick_s": STEP_S} | SHORT
        self.config = Config(run_dir=folder, state_dir=folder / "state", **(usual | settings))
        self.searches: list[Any] = []
        self._make_search = make_search or (lambda knobs, slo_s, *_, **__: Reckless(surface, knobs, slo_s))
        self.governor = Governor(self.config, self.board, self, self.clock, executor or Inline(), self._search)
        self.status = self.governor.status
        self.asked_for: list[tuple[float, Point]] = []
        """When which point was asked for; an empty one: the board's own clocks."""
        self.said: list[logging.LogRecord] = []

    def live(self, seconds: float) -> None:
        """Let both live for so long."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.step(STEP_S)
            self.governor.tick()
            if not self.asked_for or self.asked_for[-1][1] != self.status.point:
                self.asked_for.append((self.now_s, dict(self.status.point)))

    def offer(self, rate_hz: float) -> None:
        """Let requests arrive at this rate from now on."""
        self.rate_hz = rate_hz
        self.model.offer(rate_hz)

    def until(self, condition: Callable[[], object], within_s: float) -> bool:
        """Let both live until the condition holds; whether it came to that."""
        until_s = self.now_s + within_s
        while not condition():
            if self.now_s >= until_s:
                return False
            self.live(STEP_S)
        return True

    @property
    def trials(self) -> int:
        """How many were made."""
        return len(self.status.trials)

    @property
    def settled(self) -> bool:
        """Whether a point is held for good."""
        return self.status.phase is Phase.HOLDING and not self.status.paused

    def written(self) -> list[Trial]:
        """The trials as the history has them: as they were judged when they ended, and what was taken back."""
        trials: list[Trial] = []
        for row in read_log(self.config.state_dir / FILE):
            if row["kind"] == "trial":
                outcome = row.get("reason", row["outcome"])
                trials.append(Trial(row["at_s"], row["point"], outcome, row["window_s"]))
            elif row["kind"] == "retract":
                trials[-1] = replace(trials[-1], taken_back=row["reason"])
        return trials

    @property
    def lived_s(self) -> float:
        """Since something was asked for first."""
        return self.now_s - self.asked_for[0][0] if self.asked_for else 0.0

    @property
    def stays(self) -> list[Stay]:
        """What was asked for, from the first to now."""
        ends_s = [at_s for at_s, _ in self.asked_for[1:]] + [self.now_s]
        return [Stay(point, at_s, end_s) for (at_s, point), end_s in zip(self.asked_for, ends_s, strict=True)]

    def is_safe(self, point: Mapping[str, float]) -> bool:
        """Whether every clock is at its top and the batch limit the model's own; the board's own clocks are."""
        return all(point.get(name, top) == top for name, top in self.surface.safe.items())

    def _pass(self, point: ClockPoint, until_s: float) -> None:
        dt_s, power_w = until_s - self.now_s, self.surface.idle_power_w(point)
        if self._batch:
            self.model.busy_s += dt_s
            power_w = self.surface.busy_power_w(point, len(self.model.serving))
        self.board.feed(power_w, dt_s)
        self.now_s = until_s

    def _search(self, *arguments: Any, **named: Any) -> Searcher:
        made = self._make_search(*arguments, **named)
        self.searches.append(made)
        return made


@contextmanager
def explored(surface: RandomSurface, **more: Any) -> Iterator[Explored]:
    """A device on this surface, in a temporary folder; its governor is told to end."""
    with tempfile.TemporaryDirectory(prefix="teg-faults-") as folder:
        made = Explored(Path(folder), surface, **more)
        with _listening(made.said):
            try:
                yield made
            finally:
                made.governor.close()


class _Ear(logging.Handler):
    def __init__(self, heard: list[logging.LogRecord]) -> None:
        super().__init__()
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(record)


@contextmanager
def _listening(heard: list[logging.LogRecord]) -> Iterator[None]:
    """Keep what the governor says, and nobody else hears it."""
    log, ear = logging.getLogger("teg.governor"), _Ear(heard)
    before = log.propagate
    log.propagate = False
    log.addHandler(ear)
    try:
        yield
    finally:
        log.removeHandler(ear)
        log.propagate = before
