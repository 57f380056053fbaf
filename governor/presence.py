# SPDX-License-Identifier: Apache-2.0
"""Who is there and well: served models that fall silent, a board that throttles, a version on trial.

From that follows when nothing may train, whatever a predictor would say.
"""

from __future__ import annotations

from collections.abc import Callable

from .reader import Snapshot
from .status import Phase, Status

SILENT_S = 0.5
"""A served model that has not beaten for so long, five times what is due, has died or hangs."""
THROTTLED_S = 30.0
"""For how long nothing trains after a sign of throttling."""
UNASKED_S, UNSERVED_S = 30.0, 60.0
"""With no tuning under way, training may run once nothing has been asked for, or nothing served, for so long."""


class Presence:
    """Looks at every snapshot."""

    def __init__(self, status: Status, clock: Callable[[], float]) -> None:
        self.comes_back = False
        """Whether something served has died, so that what is served next is to be treated with care."""
        self._status, self._clock = status, clock
        self._present: set[str] = set()
        self._silent: set[str] = set()
        """Instances at the last look, and those of them that have fallen silent."""
        self._asked_s = self._served_s = self._throttled_s = float("-inf")
        self._throttles: int | None = None

    def look(self, now: Snapshot) -> None:
        """Note who is there."""
        now_s, status = self._clock(), self._status
        present = {view.info.instance for view in now.instances}
        if present:
            self._served_s = now_s
        if present - self._present or any(view.samples or view.in_flight for view in now.instances):
            self._asked_s = now_s  # who was just started is about to be
        silent = {view.info.instance for view in now.instances if view.silent_s > SILENT_S}
        for name in silent - self._silent:
            status.fault("silent", f"{name} has not been heard of for {SILENT_S:g} s")
        throttles = now.board.throttle_events if now.board else None
        if None not in (throttles, self._throttles) and throttles != self._throttles:
            self._throttled_s = now_s
        self._throttles = throttles
        self.comes_back |= bool(self._silent - present)
        self._present, self._silent = present, silent
        status.server_faults = dict(now.server_faults) or status.server_faults

    def why_not_train(self, now: Snapshot, *, tuning: bool) -> str:
        """Why nothing may train now, in words; empty if that is for the predictor to say.

        `tuning`: whether a course is under way, so that there is a point, or will be.
        """
        now_s, status = self._clock(), self._status
        if self._silent:
            return "a served model is silent"
        if "blind" in status.alarms:
            return "no temperature can be read"
        if now_s - self._throttled_s < THROTTLED_S:
            return "the board has throttled"
        if now.rollout:
            return f"a new version of {now.rollout} is on trial"
        if tuning:
            words = {Phase.HOLDING: "", Phase.COOLING: "something that went wrong is waited out"}
            return words.get(status.phase, "tuning")
        if not now.instances:
            return "what was served has gone" if now_s - self._served_s < UNSERVED_S else ""
        return f"waiting {status.detail}" if now_s - self._asked_s < UNASKED_S else ""
