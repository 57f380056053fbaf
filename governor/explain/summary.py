# SPDX-License-Identifier: Apache-2.0
"""What a report comes to: the answer in a sentence, and the few figures that matter most."""

from __future__ import annotations

from dataclasses import dataclass

from ..points import is_batch
from . import words
from .report import Answer, Report


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
    return f"{' + '.join(subject.models)} on {subject.board}{kind}, {words.promise(subject.slos[0])}"


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
    energy = chosen.energy_j or (chosen.expected.energy_j if chosen.expected else None)
    latency = chosen.latency_s or (chosen.expected.latency_s if chosen.expected else None)
    source = f"measured in {words.count(chosen.trials, 'trial')}" if chosen.trials else "not measured itself"
    expected_j = f", expected {words.expected_joules(chosen.expected)}" if chosen.expected else ""
    expected_ms = f", expected {words.expected_milliseconds(chosen.expected)}" if chosen.expected else ""
    found = [Figure("energy", f"{words.joules(energy)} J/request{kind}", source + expected_j)]
    if report.saving and report.top:
        found.append(Figure("saved", f"{100 * report.saving.share:.1f}%{kind}", _saving_note(report)))
    note = f"{slo} allowed; {source}{expected_ms}"
    found.append(Figure(f"{quantile} latency", f"{words.milliseconds(latency)} ms", note))
    if report.chance is not None:
        found.append(Figure("sure to keep the SLO", _sure(report.chance), "by the fitted surfaces"))
    return found


def _saving_note(report: Report) -> str:
    top = report.top
    if top is None or report.saving is None:
        return ""
    energy_j = top.energy_j if report.saving.measured else top.expected.energy_j if top.expected else None
    batches = ", ".join(words.setting(knob, top.point[knob]) for knob in words.in_order(top.point) if is_batch(knob))
    where = f"maximum clocks{f' at {batches}' if batches else ''}"
    return (
        f"against {where}: {words.joules(energy_j)} J/request, {'measured' if report.saving.measured else 'expected'}"
    )


def _sure(share: float) -> str:
    return "> 99%" if share > 0.99 else f"{100 * share:.0f}%"
