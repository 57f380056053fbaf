# SPDX-License-Identifier: Apache-2.0
"""A governor exploring a random surface in virtual time, seen from outside: what was asked for, and what was served."""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boards.clocks import ClockTable
from governor.config import Config
from governor.loop import Governor
from governor.points import Best, MakeSearch, Point, Searcher
from governor.simulation import Inline, SimulatedModel, Simulation
from governor.trial import TrialRecord
from telemetry.instance_page import InstanceInfo

from .surface import KNOBS, MAX_BATCH, TABLE, RandomSurface

STEP_S = 0.25
ONE_BAD_IN = 7


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
        self.surface = surface
        self.rate_hz = surface.rate_hz
        """Of the requests that arrive."""
        usual: dict[str, Any] = {"knobs": KNOBS, "tick_s": STEP_S}
        self.config = Config(run_dir=folder, state_dir=folder / "state", **(usual | settings))
        self.searches: list[Any] = []
        self._make_search = make_search or (lambda knobs, slo_s, *_, **__: Reckless(surface, knobs, slo_s))
        self.governor = Governor(self.config, self.board, self, self.clock, executor or Inline(), self._search)
        self.status = self.governor.status
        self.asked_for: list[tuple[float, Point]] = []
        """When which point was asked for; an empty one: the board's own clocks."""
        self.ended: list[tuple[float, TrialRecord]] = []
        """When which trial was written down, as it then was."""
        self.said: list[logging.LogRecord] = []

    def live(self, seconds: float) -> None:
        """Let both live for so long."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.step(STEP_S)
            self.governor.tick()
            if not self.asked_for or self.asked_for[-1][1] != self.status.point:
                self.asked_for.append((self.now_s, dict(self.status.point)))
            for record in self.status.trials[len(self.ended) :]:
                self.ended.append((self.now_s, record))

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
    def stays(self) -> list[Stay]:
        """What was asked for, from the first to now."""
        ends_s = [at_s for at_s, _ in self.asked_for[1:]] + [self.now_s]
        return [Stay(point, at_s, end_s) for (at_s, point), end_s in zip(self.asked_for, ends_s, strict=True)]

    def is_safe(self, point: Mapping[str, float]) -> bool:
        """Whether every clock is at its top, whatever the batch limit; the board's own clocks are."""
        return all(point.get(name, top) == top for name, top in self.surface.safe.items() if name != "batch")

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
