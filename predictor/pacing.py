# SPDX-License-Identifier: Apache-2.0
"""The closed loop of duty: what training may take follows what windows of requests say, whatever was predicted.

A broken window stops training until one is clean, and halves what it may take after that; clean windows give it back,
quickly up to what last broke one, then slowly. A window that breaks while training stands still is not training's
doing; nor is the one just before it, if training had been clean for a while: a host has slow moments. Nor is one whose
requests came so thick that they would have been late anyway: training goes on, and is given more where it made nobody
later, unless far too many are late. Three broken ones end in a refusal, which lasts longer each time. Pure: time comes
in as seconds of any monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .admission import PROBE, Admit, Pace
from .vacations import SLICE_S

FIRST = 0.25
"""Duty to begin with where no more is sure, and after a broken window, if as much is allowed."""

LEAST = 0.05
"""Less is nothing."""

GROWTH = 1.5
"""Factor of the duty per clean window, below the ceiling."""

TIGHT = 1 / GROWTH
"""Where more is late, it matters whose doing that is: were all of it training's, growing would break a window."""

OVERLOADED = 4.0
"""Where so many times as many are late as may be, their number no longer tells whether training makes them later."""

PATIENCE = 5
"""Clean windows in a row that lift the ceiling by `GROWTH`; twice as many for each window that training broke, four
times as many again for each refusal."""

BROKEN = 3
"""Broken windows that end in a refusal."""

SETTLED = 5
"""Clean windows beside training after which a broken one is only suspected to be its doing."""

FORGIVEN = 200
"""Clean windows that make one of them forgotten."""

REFUSED_S, LONGER, REFUSED_MOST_S = 60.0, 4.0, 3600.0
"""How long the first refusal lasts, how many times as long each next one, and the longest."""


@dataclass(frozen=True, slots=True)
class Window:
    """What requests of a window say: how many were late over how many may be, of the worst model; 0 without any."""

    late: float
    alone: float = 0.0
    """How many of these very requests would have been late without training, as predicted, over how many may be."""

    @property
    def grown(self) -> float:
        """What `late` might be, had training had as much more as a clean window gives it."""
        return self.late + (GROWTH - 1) * max(0.0, self.late - self.alone)


@dataclass(frozen=True, slots=True)
class Limits:
    """What training is told: a share of the idle time, slices of at most so many seconds, and why, in words."""

    duty: float
    slice_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Duty:
    """The state of the loop. `most` and `slice_s` are what was predicted to fit, `now` what training may take."""

    most: float
    slice_s: float
    now: float
    ceiling: float = 1.0
    broken: int = 0
    clean: int = 0
    refusals: int = 0
    refused_until_s: float = -math.inf
    reason: str = "within what is predicted to fit"
    back: float = 0.0
    """What it may take again once a window is no longer overloaded, if it stands still because one was."""
    unblamed: Duty | None = None
    """As it was before a window broke, until the next one, without training, has told whose doing that was."""

    @classmethod
    def granted(cls, decision: Admit | Pace) -> Duty:
        """The loop at the beginning of a job."""
        most, slice_s = _most(decision)
        return cls(most, slice_s, min(most, max(FIRST, decision.sure_duty)))

    def regranted(self, decision: Admit | Pace) -> Duty:
        """The same loop under a new decision, with everything it has learnt."""
        if self.most <= PROBE and not self.broken:
            return Duty.granted(decision)  # nothing was learnt yet but how long stretches are
        most, slice_s = _most(decision)
        return replace(self, most=most, slice_s=slice_s, now=min(self.now, most))

    def after(self, window: Window, now_s: float) -> Duty:
        """The state once this window has been seen, at `now_s` seconds."""
        if self.unblamed is not None:
            return self._settled(window.late > 1).after(window, now_s)
        if now_s < self.refused_until_s:
            return self
        if self.refused_until_s > -math.inf:
            return self._returned() if window.late <= TIGHT else self
        if window.late > 1:
            return self._after_broken(window, now_s)
        if window.grown > 1:
            return replace(self, clean=0)
        return self._after_clean()

    @property
    def refused(self) -> bool:
        """Whether the job is refused for now."""
        return self.refused_until_s > -math.inf

    @property
    def limits(self) -> Limits:
        """What to tell training now."""
        return Limits(self.now, self.slice_s, self.reason)

    def _settled(self, broken_without_training: bool) -> Duty:
        """Whose doing the window before was: the host's if it is no better without training."""
        if self.unblamed is None or not broken_without_training:
            return replace(self, unblamed=None)
        return replace(self.unblamed, most=self.most, slice_s=self.slice_s, now=0.0, unblamed=None)

    def _after_broken(self, window: Window, now_s: float) -> Duty:
        if window.alone > 1 or not self.now:
            return self._after_missed(window)
        if self.now <= PROBE:  # too little to have broken it
            return replace(self, now=0.0, clean=0, reason="a window broke the objective")
        broken, ceiling = self.broken + 1, max(LEAST, self.now / 2)
        unblamed = self if self.clean >= SETTLED else None
        if broken < BROKEN:
            seen = replace(self, now=0.0, ceiling=ceiling, broken=broken, clean=0)
            return replace(seen, reason="a window broke the objective", unblamed=unblamed)
        lasts_s = min(REFUSED_MOST_S, REFUSED_S * LONGER**self.refusals)
        return replace(
            self,
            now=0.0,
            ceiling=LEAST,
            # back from a refusal, one broken window is enough for the next
            broken=BROKEN - 1,
            clean=0,
            refusals=self.refusals + 1,
            refused_until_s=now_s + lasts_s,
            reason=f"refused for {lasts_s:.0f} s: {BROKEN} windows broke the objective",
            unblamed=unblamed,
        )

    def _after_missed(self, window: Window) -> Duty:
        """The promise is missed without training, too: it goes on, as if all were well where it made nobody later."""
        missed = "the objective is missed without training"
        if window.late >= OVERLOADED:
            return replace(self, now=0.0, clean=0, back=max(self.back, self.now / 2), reason=missed)
        if not self.now:
            back = min(self.most, self.ceiling, self.back) if self.back >= LEAST else 0.0
            return replace(self, now=back, clean=0, back=0.0, reason=missed)
        return replace(self._after_clean() if window.late <= window.alone else self, reason=missed)

    def _after_clean(self) -> Duty:
        clean = self.clean + 1
        patience = PATIENCE << min(self.broken + 2 * self.refusals, 10)
        ceiling = min(1.0, self.ceiling * GROWTH) if clean % patience == 0 else self.ceiling
        broken = max(0, self.broken - 1) if clean % FORGIVEN == 0 else self.broken
        now = min(self.most, ceiling, max(self.back, FIRST if not self.now else LEAST, self.now * GROWTH))
        reason = _reason(now, self.most)
        return replace(self, now=now, back=0.0, ceiling=ceiling, broken=broken, clean=clean, reason=reason)

    def _returned(self) -> Duty:
        now = min(self.most, LEAST)
        return replace(self, now=now, refused_until_s=-math.inf, clean=0, reason=_reason(now, self.most))


def _most(decision: Admit | Pace) -> tuple[float, float]:
    return (1.0, SLICE_S) if isinstance(decision, Admit) else (decision.duty, decision.slice_s)


def _reason(now: float, most: float) -> str:
    return "within what is predicted to fit" if now >= most else "growing with clean windows"
