# SPDX-License-Identifier: Apache-2.0
"""The search's thoughts, one at a time, in a thread of their own: none makes a tick late, none that fails ends it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future

from .points import Best, Point, Proposal
from .status import Status

LATE_S = 2.0
"""A thought that takes longer counts as a failed fit; it is waited for all the same."""


class Thoughts:
    """What comes next: a thought under way, a plan, or nothing."""

    def __init__(self, executor: Executor, status: Status, clock: Callable[[], float]) -> None:
        self._executor, self._status, self._clock = executor, status, clock
        self._next: Future[Proposal] | None = None
        self._late_s = 0.0
        self._counted = False

    def begin(self, think: Callable[..., Proposal], *about: object) -> None:
        """Let the search think."""
        self._next, self._counted = self._executor.submit(think, *about), False
        self._late_s = self._clock() + LATE_S

    def plan(self, point: Point, best: Best | None) -> None:
        """Without thinking, this point comes next."""
        self._next = Future()
        self._next.set_result(Proposal(point, best))

    def put_back(self, proposal: Proposal) -> None:
        """What was taken comes next after all, later."""
        self._next = Future()
        self._next.set_result(proposal)

    def drop(self) -> None:
        """Nothing comes next."""
        self._next = None

    @property
    def any(self) -> bool:
        """Whether anything comes next."""
        return self._next is not None

    @property
    def busy(self) -> bool:
        """Whether the search is thinking; that it does for too long is counted once."""
        if self._next is None or self._next.done():
            return False
        if not self._counted and self._clock() >= self._late_s:
            self._counted = True
            self._status.fault("fit", f"the search has been thinking for {LATE_S:g} s; the clocks stay as they are")
        return True

    def take(self) -> Proposal | None:
        """What comes next; None if the thought failed, which is counted."""
        if self._next is None:
            raise ValueError("nothing was thought of")
        thought, self._next = self._next, None
        if (error := thought.exception()) is None:
            return thought.result()
        if not self._counted:
            self._status.fault("fit", f"the search failed; the clocks stay as they are: {error!r}")
        return None
