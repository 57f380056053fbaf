# SPDX-License-Identifier: Apache-2.0
"""Points that break the objective while the governor explores, and load that changes inside a trial; virtual time."""

from __future__ import annotations

from governor.points import bayesian_search
from governor.status import Phase

from .explored import Explored, explored
from .promises import SHARE, kept
from .record import Tally
from .surface import RandomSurface

SURFACES, TRIALS = 200, 200
WITH_SEARCH, SEARCHED = 40, 30
"""Every fortieth surface is explored by the product's search, for so many trials: at 200 it thinks for seconds."""
LONGEST_S = 20_000.0
HELD_S = 100.0

STEPS = 50
TIMES = 3.0
ROUSED_S = 300.0
"""After each change of the load."""
PAUSED_S = 3000.0
"""No trial begins for as long where exploring has used up its share of the windows."""
CHANGED = 0.2
LUCK = 8.0
"""Deviations of a Poisson count that no test can take for luck."""


def broken(tally: Tally) -> None:
    """Row 11: what breaks the objective is seen, left for the fastest point, and not tried again soon."""
    windows = breaches = 0
    for seed in tally.thin(range(SURFACES)):
        product = seed % WITH_SEARCH == WITH_SEARCH - 1
        in_breach, count = _explored(tally, seed, product=product)
        tally.inject(real=False, kind="product's search" if product else "reckless search")
        breaches, windows = breaches + in_breach, windows + count
    tally.note("windows", windows)
    tally.note("windows_in_breach", breaches)
    tally.expect(breaches <= SHARE * windows, f"{breaches} of all {windows} windows in breach")


def stepped(tally: Tally) -> None:
    """Row 12: when the load changes by more than a fifth inside a trial, the point is not blamed for it."""
    windows = breaches = 0
    for seed in tally.thin(range(STEPS)):
        in_breach, count = _stepped(tally, seed)
        breaches, windows = breaches + in_breach, windows + count
    tally.note("windows", windows)
    tally.note("windows_in_breach", breaches)
    tally.expect(breaches <= SHARE * windows, f"{breaches} of all {windows} windows in breach")


def _explored(tally: Tally, seed: int, *, product: bool) -> tuple[int, int]:
    what, trials = f"surface {seed}", SEARCHED if product else TRIALS
    make = {"make_search": bayesian_search} if product else {}
    with explored(RandomSurface(seed), trials=trials, **make) as made:
        made.until(lambda: made.trials >= trials or made.settled or made.status.faults["tick"], LONGEST_S)
        done = made.trials >= trials or (product and made.settled)
        tally.expect(done, f"{what}: {made.trials} trials in {made.lived_s:.0f} s ({made.status.phase})")
        made.live(HELD_S)
        counts = kept(tally, made, what)
        tally.kinds["trials"] += made.trials
        tally.kinds["breaches"] += made.status.faults["objective"]
        return counts


def _stepped(tally: Tally, seed: int) -> tuple[int, int]:
    what = f"step {seed}"
    with explored(RandomSurface(seed, peak=TIMES), trials=1_000_000) as made:
        made.live(60.0)
        _step(tally, made, TIMES, f"{what} up")
        tally.inject(real=False, kind="load x3")
        made.live(ROUSED_S)
        _step(tally, made, 1.0, f"{what} down")
        made.live(ROUSED_S)
        return kept(tally, made, what, goes_on=True)


def _step(tally: Tally, made: Explored, times: float, what: str) -> None:
    """Change the load well inside a trial: if that trial is lost or ends in a breach, it is because of the load.

    Where so few requests cannot show the change, blame is to be taken back before anything else is tried.
    """
    tally.expect(made.until(lambda: made.status.phase is not Phase.MEASURING, 60.0), f"{what}: a trial never ends")
    tally.expect(made.until(lambda: made.status.phase is Phase.MEASURING, PAUSED_S), f"{what}: no trial begins")
    made.live(0.25 + made.surface.seed % 5 * 0.25)
    before_hz, seen, at_s = made.rate_hz, made.trials, made.now_s
    made.offer(times * made.surface.rate_hz)
    if not tally.expect(made.until(lambda: made.trials > seen, 60.0), f"{what}: the trial never ends"):
        return
    tally.expect(made.until(lambda: made.status.phase is not Phase.COOLING, 60.0), f"{what}: it cools for ever")
    trial = made.written()[seen]
    after = min(1.0, (trial.end_s - at_s) / trial.window_s)
    change = after * (made.rate_hz / before_hz - 1)
    tally.kinds[f"called {trial.verdict}"] += 1
    if trial.taken_back:
        tally.kinds["blame taken back"] += 1
    if abs(change) > CHANGED:
        tally.expect(trial.verdict != "violated", f"{what}: blamed {trial.point} for {change:+.0%} of load")
    luck = LUCK / (before_hz * trial.window_s) ** 0.5
    if abs(change) > max(CHANGED, luck):
        tally.same(trial.verdict, "load", f"{what}: {change:+.0%} of load in {trial.window_s:.1f} s")
        tally.expect(made.status.faults["load"], f"{what}: no fault was counted")
