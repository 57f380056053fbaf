# SPDX-License-Identifier: Apache-2.0
"""Requests for points, and what is done about those that the board refuses or ignores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from boards.clocks import KNOBS, Applied, ClockPoint

from .config import Config
from .errors import LeaseRefused
from .hand import Clocks, Hand
from .setbacks import Setbacks
from .status import Status
from .training import Training
from .tuning import Tuning

MISSING = "missing"
POSTPONED = ("not_restored", "ledger")
LATER = "later"
"""Clockd is still putting clocks back, or could not write down what they are: ask again soon."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a governor keeps through all its tunings: settings, clockd, its hand on it, status, threads, training."""

    config: Config
    clocks: Clocks
    hand: Hand
    status: Status
    executor: Executor
    clock: Callable[[], float]
    training: Training


class Requests:
    """Asks for the points of one tuning. A knob that fails three times in a row leaves its search."""

    def __init__(self, means: Means, tuning: Tuning) -> None:
        self._clocks, self._hand, self._status = means.clocks, means.hand, means.status
        self._tuning = tuning
        self._setbacks = Setbacks()
        self._hopeless = False
        """Requests keep failing at no knob in particular."""

    def attempt(self, point: Mapping[str, float]) -> str | None:
        """Ask for a point that is to be measured or kept; why that failed, None if the clocks are as asked for.

        `LATER` says nothing about the point. Raises `LeaseRefused` for what is no failure of a knob.
        """
        try:
            applied = self._move(point)
        except LeaseRefused as error:
            self._status.point = {}
            return self._refused(point, error)
        if not applied.honoured:
            return "clocks"
        self._setbacks.granted(_knobs(applied.requested))
        self._hopeless = False
        for cause in ("denied", "busy", MISSING, "refused", *POSTPONED):
            self._status.alarms.pop(cause, None)
        return None

    def hold(self, point: Mapping[str, float]) -> None:
        """Ask for a point to wait at; where the board does not take even that, the clocks stay its own."""
        try:
            self._move(point)
        except LeaseRefused as error:
            if error.reason not in ("board", "not_offered", *POSTPONED):
                raise
            self._status.point = {}
            if error.reason == "board":
                cause = error.cause or "refused"
                self._status.failures[cause, error.knob] += 1
                self._status.fault(cause, f"clocks left free: {error}")
            else:
                self._status.refusals[error.reason] += 1

    def followed(self) -> None:
        """The clocks were as asked for through a whole trial."""
        self._setbacks.followed()
        self._status.alarms.pop("clocks", None)

    def enough(self, reason: str) -> bool:
        """Count a failure; whether it is time to give the clocks back for a while."""
        return self._setbacks.ignored() if reason == "clocks" else self._hopeless

    def give_up(self, reason: str) -> None:
        """Give clocks and knobs back, and raise the alarm."""
        self._hand.release()
        self._status.point = {}
        self._status.alarms[reason] = "clock requests keep failing; the clocks are the board's own for now"

    def found_again(self) -> bool:
        """Whether a knob that went missing is offered again."""
        missing = [knob for knob, why in self._tuning.left_out.items() if why == MISSING]
        return bool(missing) and any(getattr(self._clocks.table(), knob) for knob in missing)

    def _move(self, point: Mapping[str, float]) -> Applied:
        self._status.point = dict(point)
        return self._hand.hold(self._tuning.clocks(point), self._tuning.batch_limits(point))

    def _refused(self, point: Mapping[str, float], error: LeaseRefused) -> str:
        if error.reason in POSTPONED:
            self._status.refusals[error.reason] += 1
            self._status.alarms[error.reason] = str(error)
            return LATER
        if error.reason == "not_offered":
            table = self._clocks.table()
            gone = [knob for knob in _knobs(self._tuning.clocks(point)) if not getattr(table, knob)]
            if not gone:
                raise error
            for knob in gone:
                self._leave_out(knob, MISSING)
            return MISSING
        if error.reason != "board":
            raise error
        cause = error.cause or "refused"
        self._status.failures[cause, error.knob] += 1
        if self._setbacks.failed(error.knob):
            if error.knob:
                self._leave_out(error.knob, cause)
            else:
                self._hopeless = True
        return cause

    def _leave_out(self, knob: str, why: str) -> None:
        self._tuning.leave_out(knob, why)
        self._status.left_out = dict(self._tuning.left_out)


def _knobs(point: ClockPoint) -> list[str]:
    """The knobs that a point sets."""
    return [knob for knob, value in zip(KNOBS, point.values(), strict=True) if value is not None]
