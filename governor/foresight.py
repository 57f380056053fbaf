# SPDX-License-Identifier: Apache-2.0
"""The predictor at work in a thread of its own: what it is asked, and what it learns from each window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future

from predictor.admission import Job, Refuse
from predictor.corun import CoRunModel, ModelError, Serving, TrainingSlices
from predictor.pacing import TIGHT
from predictor.room import Place, Room, make_room

from .beside import Heard
from .guard import Slo
from .spots import Spot

Found = Room[Spot | None] | Refuse


class Foresight:
    """One question at a time. `executor` has one thread: the model learns in the order of the windows."""

    def __init__(self, executor: Executor, fault: Callable[[str, str], None]) -> None:
        self.model = CoRunModel()
        self._executor, self._fault = executor, fault
        self._question: Future[Found] | None = None
        self._lessons: list[Future[object]] = []

    @property
    def busy(self) -> bool:
        """Whether a question is open."""
        return self._question is not None

    @property
    def error(self) -> ModelError:
        """How wrong it was of late."""
        return self.model.error

    def learn(
        self, serving: Serving, training: TrainingSlices | None, quantile: float, latency_s: float, requests: int
    ) -> None:
        """Let it learn from a window whose `requests` had this quantile of latency."""
        told = (serving, training, quantile, latency_s, requests)
        self._lessons.append(self._executor.submit(self.model.observe, *told))

    def late_alone(self, asked: Callable[[str], Serving | None], heard: Heard, slos: Mapping[str, Slo]) -> float:
        """How many requests of a window would have been late without training, at the least, over how many may be.

        Of the instances that were close to their limit or beyond, the one that has the fewest. `asked`: what one was
        asked in the window and before it, None where nobody can say.
        """
        tight = [name for name, late in heard.late.items() if late > TIGHT]
        return min((self._late_alone(asked(name), heard.arrivals_s.get(name), slos[name]) for name in tight), default=0)

    def _late_alone(self, serving: Serving | None, arrivals_s: Sequence[float] | None, slo: Slo) -> float:
        if serving is None or not arrivals_s:
            return 0.0
        return self.model.late_alone(serving, slo.limit_s, arrivals_s[0]) / (1 - slo.quantile)

    def ask(self, places: Sequence[Place[Spot | None]], job: Job) -> None:
        """Ask where a job has room; the first place is the present one."""
        self._question = self._executor.submit(make_room, self.model, places, job)

    def drop(self) -> None:
        """The question is of no interest any more."""
        self._question = None

    def take(self) -> Found | None:
        """The answer, once there is one; a refusal where the predictor failed. Whatever failed is counted."""
        for lesson in [lesson for lesson in self._lessons if lesson.done()]:
            self._lessons.remove(lesson)
            if (error := lesson.exception()) is not None:
                self._fault("predictor", f"a window taught nothing: {error!r}")
        if self._question is None or not self._question.done():
            return None
        question, self._question = self._question, None
        if (error := question.exception()) is not None:
            self._fault("predictor", f"no decision: {error!r}")
            return Refuse("the predictor failed")
        return question.result()
