# SPDX-License-Identifier: Apache-2.0
"""What to do next, whatever the answer is."""

from __future__ import annotations

from collections import Counter

from ..trial import Invalid
from . import words
from .opinions import likely_s
from .report import Answer, Report

SMALL = 0.01
"""A promise below this share is not worth more trials."""

CURES = {
    "the traffic did not hold still": (
        ("load", "idle", "backlog"),
        "offer a steadier load, or lengthen the trials (`teg run --trial-s`)",
    ),
    "the board did not take the clocks": (
        ("clocks", "denied", "busy", "missing", "refused"),
        "see `teg doctor`, and which knobs `teg status` leaves out",
    ),
    "its sensors could not be trusted": (
        ("sensor", "frozen", "window", "energy", "blind"),
        "see `teg doctor`; lengthen the trials (`teg run --trial-s`) if joules stayed in doubt",
    ),
    "heat or current took clocks away": (
        ("throttled",),
        "cool the board better, or give it a stronger supply or a higher power mode",
    ),
    "somebody else changed a clock": (
        ("foreign",),
        "find out who: nvpmodel, jetson_clocks and jtop are the usual ones",
    ),
}
"""What was wrong with invalid trials: their reasons, and what to do."""


def advice(report: Report) -> list[str]:
    """Sentences, the most useful first."""
    match report.answer:
        case Answer.EMPTY:
            found = ["Let `teg run` tune while requests arrive; each finished trial is written to this history."]
        case Answer.UNMEASURED:
            found = _cures(report)
        case Answer.BROKEN:
            found = _out_of_reach(report)
        case Answer.KEPT:
            found = _more_trials(report)
    invalid = sum(isinstance(tried.record.outcome, Invalid) for tried in report.trials)
    if report.answer in (Answer.KEPT, Answer.BROKEN) and invalid * 3 > len(report.trials):
        found += _cures(report)
    return found


def _more_trials(report: Report) -> list[str]:
    if report.promise is None:
        return ["Let `teg run` go on: more trials are needed."]
    if report.promise.share < SMALL:
        return ["Nothing: more trials would hardly pay."]
    return ["More trials may pay: leave the governor running, or give it more of them (`teg run --trials`)."]


def _out_of_reach(report: Report) -> list[str]:
    fastest, reachable = report.fastest, report.reachable
    found: list[str] = []
    if fastest is not None:
        found.append(
            f"The lowest {report.quantile} seen is {words.milliseconds(fastest.latency_s)} ms, at "
            f"{words.settings(fastest.point)}; the SLO is {words.limit(report.slo_s)}."
        )
    if reachable is not None:
        needed_s = likely_s(reachable.figures)
        if needed_s <= report.slo_s:
            found.append(f"Let it go on: {words.settings(reachable.point)} is expected to keep the SLO.")
        else:
            found.append(
                f"An SLO of {words.milliseconds(needed_s)} ms is expected to be within reach, at "
                f"{words.settings(reachable.point)}, for {words.joules(reachable.figures.energy_j)} J/request"
                f"{words.virtual(report.virtual)}. Otherwise offer less load to this board, or serve a faster model."
            )
    return found


def _cures(report: Report) -> list[str]:
    reasons = Counter(t.record.outcome.reason for t in report.trials if isinstance(t.record.outcome, Invalid))
    cures: list[str] = []
    known: set[str] = set()
    for what, (names, cure) in CURES.items():
        found = {name: reasons[name] for name in names if reasons[name]}
        known |= found.keys()
        if found:
            counts = ", ".join(f"{number} x {name}" for name, number in found.items())
            cures.append(f"In {words.count(sum(found.values()), 'trial')} {what} ({counts}): {cure}.")
    if others := [f"{number} x {name}" for name, number in reasons.items() if name not in known]:
        cures.append(f"Other trials were cut off: {', '.join(others)}; `docs/metrics.md` says what each reason means.")
    return cures
