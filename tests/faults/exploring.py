# SPDX-License-Identifier: Apache-2.0
"""Points that break the objective while the governor explores, and load that changes inside a trial; virtual time."""

from __future__ import annotations

from governor.points import bayesian_search
from governor.status import Phase
from governor.trial import Invalid, Violated

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
ROUSED_S = 400.0
"""From one change of the load to the next."""
CHANGED = 0.2


def broken(tally: Tally) -> None:
    """Row 11: what breaks the objective is seen, left for the fastest point, and not tried again soon."""
    windows = breaches = 0
    for seed in tally.thin(range(SURFACES)):
        product = seed % WITH_SEARCH == 0
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
        done = made.until(lambda: len(made.ended) >= trials, LONGEST_S)
        tally.expect(done or product, f"{what}: {len(made.ended)} trials in {LONGEST_S:.0f} s ({made.status.phase})")
        made.live(HELD_S)
        tally.kinds["trials"] += len(made.ended)
        tally.kinds["breaches"] += sum(isinstance(record.outcome, Violated) for _, record in made.ended)
        return kept(tally, made, what)


def _stepped(tally: Tally, seed: int) -> tuple[int, int]:
    what = f"step {seed}"
    with explored(RandomSurface(seed, peak=TIMES), trials=1_000_000) as made:
        made.live(60.0)
        _step(tally, made, TIMES, f"{what} up")
        tally.inject(real=False, kind="load x3")
        made.live(ROUSED_S)
        _step(tally, made, 1.0, f"{what} down")
        made.live(ROUSED_S)
        return kept(tally, made, what)


def _step(tally: Tally, made: Explored, times: float, what: str) -> None:
    """Change the load well inside a trial: if that trial is lost or ends in a breach, it is because of the load."""
    tally.expect(made.until(lambda: made.status.phase is not Phase.MEASURING, 60.0), f"{what}: a trial never ends")
    tally.expect(made.until(lambda: made.status.phase is Phase.MEASURING, 300.0), f"{what}: no trial begins")
    made.live(0.25 + made.surface.seed % 5 * 0.25)
    before_hz, seen, at_s = made.rate_hz, len(made.ended), made.now_s
    made.offer(times * made.surface.rate_hz)
    if not tally.expect(made.until(lambda: len(made.ended) > seen, 60.0), f"{what}: the trial never ends"):
        return
    end_s, record = made.ended[seen]
    after = min(1.0, (end_s - at_s) / record.window_s) if record.window_s else 0.0
    change = after * (made.rate_hz / before_hz - 1)
    if abs(change) > CHANGED:
        outcome = record.outcome
        reason = outcome.reason if isinstance(outcome, Invalid) else type(outcome).__name__.lower()
        tally.kinds[f"called {reason}"] += 1
        tally.expect(not isinstance(outcome, Violated), f"{what}: blamed {record.point} for {change:+.0%} of load")
        luck = 4 / (before_hz * record.window_s) ** 0.5
        if abs(change) > max(CHANGED, 2 * luck):
            tally.same(reason, "load", f"{what}: {change:+.0%} of load in {record.window_s:.1f} s")
            faults = made.status.faults["load"]
            tally.expect(faults, f"{what}: no fault was counted")
