# SPDX-License-Identifier: Apache-2.0
"""What a report comes to: the answer in a sentence, and the few figures that matter most."""

from __future__ import annotations

from dataclasses import dataclass

from ..points import is_batch
from . import words
from .forecast import Choice
from .report import Answer, Report, Saving


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the figures that matter most."""

    name: str
    value: str
    note: str


def subject_line(report: Report) -> str:
    """What was tuned."""
    subject = report.log.subject
    kind = " (virtual board)" if subject.virtual and "virtual" not in subject.board else ""
    load = f" at {report.log.rate_hz:.3g} requests/s" if report.log.rate_hz else ""
    return f"{' + '.join(subject.models)} on {subject.board}{kind}, {words.promise(subject.slos[0])}{load}"


def notes(report: Report) -> list[str]:
    """What to know of the history before reading on."""
    found = []
    if report.damaged:
        found.append(f"{words.count(report.damaged, 'damaged record')} of this history passed over.")
    subject = report.log.subject
    if len(set(subject.slos)) > 1:
        found.append(
            f"The SLOs, in the order of the models: {', '.join(map(words.promise, subject.slos))}. Latencies are those "
            "of the model nearest its limit, scaled to the first one's."
        )
    if report.log.reopenings:
        last = report.log.reopenings[-1]
        found.append(
            f"After trial {last.trials} the search was opened again ({last.why}): what was tried before measured "
            "another world and is not shown."
        )
    return found


def headline(report: Report) -> str:
    """The answer in one sentence."""
    chosen, number = report.chosen, len(report.trials)
    match report.answer:
        case Answer.EMPTY:
            return "Nothing was tried yet."
        case Answer.UNMEASURED:
            return f"No: none of the {number} trials could be measured."
        case Answer.BROKEN:
            end = "" if report.held_now else " yet"
            return f"No: no point that was tried keeps the SLO{end}."
    if chosen is None:
        raise ValueError("an SLO is kept by some point")
    if report.held_now:
        return f"Held: {words.settings(chosen.point)}"
    return f"Best so far: {words.settings(chosen.point)}"


def figures(report: Report) -> list[Figure]:
    """The figures of the chosen point, or of the fastest trial where no point keeps the SLO."""
    kind, slo = words.virtual(report.virtual), words.limit(report.slo_s)
    chosen, fastest, quantile = report.chosen, report.fastest, report.quantile
    if chosen is None:
        note = f"the SLO is {slo}; at {words.settings(fastest.point)}" if fastest else ""
        lowest = f"{words.milliseconds(fastest.latency_s)} ms" if fastest else "-"
        return [Figure(f"lowest {quantile} seen", lowest, note)] if fastest else []
    trials = f"in {words.count(chosen.trials, 'trial')}"
    if chosen.expected is None:
        energy, energy_note = words.joules(chosen.energy_j), f"measured {trials}"
        latency, latency_note = words.milliseconds(chosen.latency_s), f"{slo} allowed; measured {trials}"
    else:
        energy, latency = words.joules(chosen.expected.energy_j), words.milliseconds(chosen.expected.latency_s)
        doubts = words.within(chosen.expected.energy_deviation), words.within(chosen.expected.latency_deviation)
        tried = f"; {{}} measured {trials}" if chosen.trials else "; not tried itself"
        energy_note = f"expected ±{doubts[0]}{tried.format(words.joules(chosen.energy_j))}"
        latency_note = f"{slo} allowed; expected ±{doubts[1]}{tried.format(words.milliseconds(chosen.latency_s))}"
    found = [Figure("energy", f"{energy} J/request{kind}", energy_note)]
    if report.saving and report.top:
        found.append(_saved(report.saving, report.top, kind))
    found.append(Figure(f"{quantile} latency", f"{latency} ms", latency_note))
    if report.chance is not None:
        found.append(Figure("sure to keep the SLO", _sure(report.chance), "by the fitted surfaces"))
    return found


def _saved(saving: Saving, top: Choice, kind: str) -> Figure:
    """What is saved against maximum clocks: as expected, else as measured."""
    batches = ", ".join(words.setting(knob, top.point[knob]) for knob in words.in_order(top.point) if is_batch(knob))
    against = f"against maximum clocks{f' at {batches}' if batches else ''}"
    if saving.expected is None or top.expected is None:
        share, note = saving.measured or 0.0, f"{against}: {words.joules(top.energy_j)} J/request, measured"
    else:
        share, note = saving.expected, f"{against}: {words.joules(top.expected.energy_j)} J/request, expected"
        note += f"; {100 * saving.measured:.1f}% measured" if saving.measured is not None else ""
    return Figure("saved", f"{100 * share:.1f}%{kind}", note)


def _sure(share: float) -> str:
    return "> 99%" if share > 0.99 else f"{100 * share:.0f}%"
