# SPDX-License-Identifier: Apache-2.0
"""What has to be true of a run in which points broke the objective: judged by what was served and asked for."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

from governor.guard import Slo, Verdict, chance_of_late, judge
from telemetry.instance_page import Sample, Status

from .explored import STEP_S, Explored, Stay
from .record import Tally

SAFE_WITHIN_S = 1.0
RETRY_S = 3600.0
SHARE = 0.01
"""Windows of a run that may be in breach."""
PLAIN = 0.005
"""A breach is plain when luck would show so many late requests less often; stricter than one verdict of the guard, as
it is asked again at every late request."""
LEEWAY = 2
"""A breach across an edge breaks one window, two or none, by where windows begin."""
ALIGNMENTS = 5
"""Ways to lay windows over a run."""
AFFORDED = 3
"""Extensions of a run by the windows that make up for its last breaches."""
IN_A_ROW = 3
"""As many never are."""


def kept(tally: Tally, made: Explored, what: str, *, goes_on: bool = False) -> tuple[int, int]:
    """The rules that hold whenever the objective may be broken; windows in breach, and windows at all.

    `goes_on`: whether exploring does so to the end of the run, where its last breach cannot have been made up for yet.
    """
    slo = Slo(made.surface.quantile, made.surface.limit_s, made.config.slo_window_s)
    _stepped_back(tally, made, slo, what)
    _left(tally, made, what)
    _not_retried(tally, made, what)
    tally.same(made.status.faults["tick"], 0, f"{what}: ticks that failed")
    breaches = sum(trial.outcome == "violated" for trial in made.written())
    named = sum(record.getMessage().startswith("objective") for record in made.said)
    tally.same(made.status.faults["objective"], named, f"{what}: breaches counted, and lines of the log that name one")
    # some are noticed where a point was kept after its trial
    tally.expect(breaches <= named, f"{what}: {breaches} trials broke the objective, {named} breaches were counted")
    broken = _worked_off(made, slo)
    _paused(tally, made, slo, what)
    runs = "".join("x" if window else "." for window in broken)
    tally.expect("x" * IN_A_ROW not in runs, f"{what}: {IN_A_ROW} windows in a row in breach")
    share = max(1.0, SHARE * len(broken)) + (LEEWAY if goes_on else 0)
    tally.expect(sum(broken) <= share, f"{what}: {sum(broken)} of {len(broken)} in breach")
    return sum(broken), len(broken)


def _worked_off(made: Explored, slo: Slo) -> list[bool]:
    """The windows of the run, which goes on for as long as it takes to make up for those that were broken last."""
    broken = broken_windows(made.model.finished, slo, made.asked_for[0][0], made.now_s)
    for _ in range(AFFORDED):
        owed = sum(broken) / SHARE - len(broken)
        if sum(broken) <= 1 or owed <= 0:
            break
        made.live((owed + 1) * slo.window_s)
        broken = broken_windows(made.model.finished, slo, made.asked_for[0][0], made.now_s)
    return broken


def broken_windows(samples: Sequence[Sample], slo: Slo, begin_s: float, end_s: float) -> list[bool]:
    """The windows of a run, one after the other: whether the requests that ended in each prove a broken promise.

    `samples` in order of their ends.
    """
    ends_s = [sample.end_ns / 1e9 for sample in samples]
    count = int((end_s - begin_s) / slo.window_s)
    edges = [bisect_left(ends_s, begin_s + number * slo.window_s) for number in range(count + 1)]
    return [_broken(samples[first:last], slo) for first, last in pairwise(edges)]


def plain_s(samples: Sequence[Sample], ends_s: Sequence[float], slo: Slo, stay: Stay) -> float | None:
    """When a point's breach was plain: a whole window of its own requests proved it as the last of them ended.

    That luck does so once in a long stay is sure, so that from the third window on it takes two of them.
    """
    first = bisect_left(ends_s, stay.begin_s + slo.window_s)
    for number in range(first, bisect_right(ends_s, stay.end_s)):
        if samples[number].latency_s <= slo.limit_s:
            continue
        edges = [bisect_left(ends_s, ends_s[number] - windows * slo.window_s) for windows in (2, 1)]
        own = [sample for sample in samples[edges[1] : number + 1] if sample.arrival_ns >= 1e9 * stay.begin_s]
        late = sum(sample.latency_s > slo.limit_s for sample in own)
        early = ends_s[number] < stay.begin_s + 2 * slo.window_s
        if chance_of_late(late, len(own), 1 - slo.quantile) < PLAIN and (early or _broken(samples[slice(*edges)], slo)):
            return ends_s[number]
    return None


def _stepped_back(tally: Tally, made: Explored, slo: Slo, what: str) -> None:
    """A plain breach is seen within a window, and the fastest point asked for within a second more."""
    samples, stays = made.model.finished, made.stays
    ends_s = [sample.end_ns / 1e9 for sample in samples]
    for stay, after in zip(stays, [*stays[1:], None], strict=True):
        if made.is_safe(stay.point) or (at_s := plain_s(samples, ends_s, slo, stay)) is None:
            continue
        late_s = stay.end_s - at_s
        tally.worst("slowest_step_back_s", late_s)
        tally.expect(
            late_s <= slo.window_s + SAFE_WITHIN_S, f"{what}: in breach at {stay.point} for {late_s:.1f} s more"
        )
        if after is not None:
            tally.expect(made.is_safe(after.point), f"{what}: from a breach at {stay.point} to {after.point}")


def _left(tally: Tally, made: Explored, what: str) -> None:
    """Once a trial has shown a breach, the fastest point is asked for within a second."""
    safe_s = [stay.begin_s for stay in made.stays if made.is_safe(stay.point)]
    for trial in made.written():
        if trial.outcome == "violated" and not made.is_safe(trial.point):
            after = bisect_left(safe_s, trial.end_s - STEP_S / 2)
            soon = after < len(safe_s) and safe_s[after] <= trial.end_s + SAFE_WITHIN_S
            tally.expect(soon, f"{what}: {trial.point} broke the objective, and the fastest point was not asked for")


def _paused(tally: Tally, made: Explored, slo: Slo, what: str) -> None:
    """No trial begins while more windows than their share are broken; where windows begin is the governor's affair."""
    begin_s = made.asked_for[0][0]
    shifts_s = [number * slo.window_s / ALIGNMENTS for number in range(ALIGNMENTS)]
    aligned = [
        (begin_s - shift_s, broken_windows(made.model.finished, slo, begin_s - shift_s, made.now_s))
        for shift_s in shifts_s
    ]
    for trial in made.written():
        begun_s = trial.end_s - trial.window_s
        found = []
        for from_s, broken in aligned:
            before = max(0, int((begun_s - from_s) / slo.window_s))
            found.append(sum(broken[:before]) - max(1.0, SHARE * before))
        tally.expect(min(found) <= LEEWAY, f"{what}: a trial {min(found):.1f} windows in breach beyond the share")


def _not_retried(tally: Tally, made: Explored, what: str) -> None:
    """A point that broke the objective is not asked for again within the hour, unless that was taken back."""
    for trial in made.written():
        if trial.verdict == "violated" and not made.is_safe(trial.point):
            later_s = [stay.begin_s - trial.end_s for stay in made.stays if stay.point == trial.point]
            again_s = [since_s for since_s in later_s if STEP_S / 2 < since_s < RETRY_S]
            tally.expect(
                not again_s, f"{what}: {trial.point} asked for again {again_s[:3]} s after it broke the objective"
            )


def _broken(samples: Sequence[Sample], slo: Slo) -> bool:
    answered = [sample.latency_s for sample in samples if sample.status is Status.OK]
    return judge(answered, len(samples) - len(answered), slo) is Verdict.BROKEN
