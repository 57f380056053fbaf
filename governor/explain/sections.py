# SPDX-License-Identifier: Apache-2.0
"""A report in words: sections of sentences and tables, which `text` and `page` set in type."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median

from ..points import is_batch
from ..trial import HOPELESS, Feasible, Invalid, Violated
from . import words
from .opinions import Expected, likely_s
from .report import Answer, Report

SMALL = 0.01
"""A promise below this share is not worth more trials."""


@dataclass(frozen=True, slots=True)
class Row:
    """Cells of a table; `kind` is `chosen`, `violated`, `invalid` or nothing."""

    cells: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table."""

    header: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report; `figure` names the plot that belongs to it."""

    title: str
    sentences: tuple[str, ...]
    grid: Grid | None = None
    figure: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the figures that matter most."""

    name: str
    value: str
    note: str


def wordy(grid: Grid, column: int) -> bool:
    """Whether most of a column's cells are words rather than numbers."""
    cells = [row.cells[column] for row in grid.rows]
    return 2 * sum(cell[:1].isalpha() for cell in cells) > len(cells)


def subject_line(report: Report) -> str:
    """What was tuned."""
    subject = report.log.subject
    kind = " (virtual board)" if subject.virtual and "virtual" not in subject.board else ""
    return f"{' + '.join(subject.models)} on {subject.board}{kind}, {words.promise(subject.slos[0])}"


def notes(report: Report) -> list[str]:
    """What to know of the history before reading on."""
    found = []
    if report.damaged:
        found.append(f"{count(report.damaged, 'damaged record')} of this history passed over.")
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
    kind, slo = _virtual(report), _slo_text(report)
    chosen, fastest, quantile = report.chosen, report.fastest, _quantile(report)
    if chosen is None:
        note = f"the SLO is {slo}; at {words.settings(fastest.point)}" if fastest else ""
        lowest = f"{words.milliseconds(fastest.latency_s)} ms" if fastest else "-"
        return [Figure(f"lowest {quantile} seen", lowest, note)] if fastest else []
    energy = chosen.energy_j or (chosen.expected.energy_j if chosen.expected else None)
    latency = chosen.latency_s or (chosen.expected.latency_s if chosen.expected else None)
    source = f"measured in {count(chosen.trials, 'trial')}" if chosen.trials else "not measured itself"
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


def sections(report: Report) -> list[Section]:
    """Everything else, in the order in which an engineer asks."""
    parts = [_why(report), _trials(report), _worths(report), _prices(report), _uncertain(report), _next(report)]
    return [part for part in parts if part is not None]


def _why(report: Report) -> Section | None:
    chosen, best = report.chosen, report.best
    if chosen is None:
        return None
    outcomes = Counter(type(tried.record.outcome) for tried in report.trials)
    kept, violated, invalid = (outcomes[kind] for kind in (Feasible, Violated, Invalid))
    sentences = [
        f"{count(len(report.trials), 'trial')}: {kept} kept the SLO, {violated} violated it, {invalid} could not be "
        "trusted. Of the points tried that keep the SLO with confidence, this one needs the fewest joules per request."
    ]
    if report.hold is None:
        sentences.append("Nothing is held yet: the search was still under way at the end of this history.")
    elif not report.held_now:
        point = words.settings(report.hold.point)
        sentences.append(f"After trial {report.hold.trials} {point} was held, until another trial was made.")
    if best and best.point != chosen.point:
        sentences.append(
            f"By these trials alone it would be {words.settings(best.point)} "
            f"(expected {words.expected_joules(best.expected, ' J/request')}): the governor judges its trials again as "
            "it learns the load, and may know other workloads."
        )
    return Section("Why this point", tuple(sentences), figure="pareto")


def _trials(report: Report) -> Section | None:
    if not report.trials:
        return None
    knobs = words.in_order(report.log.subject.knobs)
    chosen, quantile = report.chosen.point if report.chosen else None, _quantile(report)
    rows = []
    for tried in report.trials:
        record, mark = tried.record, "*" if tried.record.point == chosen else " "
        kind = {Violated: "violated", Invalid: "invalid"}.get(type(record.outcome), "chosen" if mark == "*" else "")
        point = [words.value(knob, record.point[knob]) if knob in record.point else "-" for knob in knobs]
        expected = words.expected_joules(tried.before), words.expected_milliseconds(tried.before)
        hopeless = record.latency_s is not None and record.latency_s >= 0.999 * HOPELESS * report.slo_s
        measured = words.joules(record.energy_j), (">" if hopeless else "") + words.milliseconds(record.latency_s)
        cells = f"{tried.number}{mark}", *point, expected[0], measured[0], expected[1], measured[1]
        rows.append(Row((*cells, words.verdict(record)), kind))
    units = [words.knob_name(knob) + (" MHz" if knob.endswith("_hz") else "") for knob in knobs]
    header = ("#", *units, "expected J", "J/request", f"expected {quantile} ms", f"{quantile} ms", "verdict")
    sentences = [
        "Expected: what the surfaces said before the trial, ± two deviations; - where they knew it no better than "
        f"within a factor of two. {quantile} is at the load offered over the whole run{_stamp(report)}."
    ]
    return Section("Trials", tuple(sentences), Grid(header, tuple(rows)), "convergence")


def _worths(report: Report) -> Section | None:
    chosen = report.chosen
    if chosen is None or chosen.expected is None or not report.worths:
        return None
    rows = []
    by_knob = {worth.knob: worth for worth in report.worths}
    for knob in words.in_order(by_knob):
        worth = by_knob[knob]
        here, top = words.value(knob, worth.value), words.value(knob, worth.top)
        more = words.percent(worth.there.energy_j / chosen.expected.energy_j - 1)
        there = words.expected_joules(worth.there), more, words.milliseconds(worth.there.latency_s)
        unit = " MHz" if knob.endswith("_hz") else ""
        rows.append(Row((words.knob_name(knob) + unit, here, top, *(("-",) * 3 if here == top else there))))
    header = ("knob", "here", "top", "J/request there", "change", f"{_quantile(report)} ms there")
    sentences = (
        "Expected if that knob alone went back to its top, where it stands without the governor"
        f"{_stamp(report)}. Knobs act together: the rows do not add up to the whole saving.",
    )
    return Section("What each knob is worth", sentences, Grid(header, tuple(rows)), "slices")


def _prices(report: Report) -> Section | None:
    now = next((price.cheapest for price in report.prices if price.factor == 1.0), None)
    if not any(price.cheapest for price in report.prices):
        return None
    rows = []
    for price in report.prices:
        limit = f"{words.milliseconds(price.limit_s)}", f"x {price.factor:g}"
        rows.append(Row((*limit, *_cheapest(price.cheapest, now)), "chosen" if price.factor == 1.0 else ""))
    rows.append(Row(("none", "", *_cheapest(report.free, now))))
    header = ("SLO ms", "of it", "J/request", "change", f"{_quantile(report)} ms", "cheapest point expected to keep it")
    sentences = []
    if now and report.free:
        cost_j = now.figures.energy_j - report.free.figures.energy_j
        share = cost_j / now.figures.energy_j
        sentences.append(
            f"The SLO costs {words.joules(cost_j)} J/request{_virtual(report)}, {100 * share:.1f}% of the energy: the "
            "cheapest point would need so much less if latency did not matter."
            if share >= 0.001
            else "The SLO costs nothing: the cheapest point expected keeps it."
        )
    sentences.append("A point counts as keeping an SLO if the surfaces are 75% sure of it, tried or not.")
    return Section("What the SLO costs", tuple(sentences), Grid(header, tuple(rows)))


def _cheapest(found: Expected | None, now: Expected | None) -> tuple[str, ...]:
    if found is None:
        return "-", "-", "-", "none"
    more = found.figures.energy_j / now.figures.energy_j - 1 if now else None
    figures = words.joules(found.figures.energy_j), "-" if more is None else words.percent(more)
    return *figures, words.milliseconds(found.figures.latency_s), words.settings(found.point)


def _uncertain(report: Report) -> Section | None:
    if report.chosen is None:
        return None
    sentences = []
    if report.promise is None or report.chosen.expected is None:
        sentences.append("Too few trials were measured to say what untried points are like.")
    else:
        most = report.promise
        sentences.append(
            f"No untried point is expected to be cheaper by more than {_small(most.share)}, its chance to keep the SLO "
            f"counted in. The most promising one: {words.settings(most.expected.point)}, expected "
            f"{words.expected_joules(most.expected.figures, ' J/request')} and "
            f"{words.expected_milliseconds(most.expected.figures, ' ms')}."
        )
    if errors := _errors(report):
        energy, latency, number = errors
        sentences.append(
            f"How well the surfaces foretell: over {count(number, 'trial')}, what they expected before was off by "
            f"{100 * energy:.1f}% (J/request) and {100 * latency:.1f}% (latency), as the median."
        )
    return Section("What remains uncertain", tuple(sentences))


def _errors(report: Report) -> tuple[float, float, int] | None:
    """Median relative errors of energy and latency as expected before a trial, and how many trials that were."""
    energies, latencies = [], []
    for tried in report.trials:
        if tried.before and tried.record.energy_j and tried.record.latency_s:
            energies.append(abs(tried.before.energy_j / tried.record.energy_j - 1))
            latencies.append(abs(tried.before.latency_s / tried.record.latency_s - 1))
    return (median(energies), median(latencies), len(energies)) if energies else None


def _next(report: Report) -> Section:
    match report.answer:
        case Answer.EMPTY:
            advice = ["Let `teg run` tune while requests arrive; each finished trial is written to this history."]
        case Answer.UNMEASURED:
            advice = _cures(report)
        case Answer.BROKEN:
            advice = _out_of_reach(report)
        case Answer.KEPT:
            advice = _more_trials(report)
    invalid = sum(isinstance(tried.record.outcome, Invalid) for tried in report.trials)
    if report.answer in (Answer.KEPT, Answer.BROKEN) and invalid * 3 > len(report.trials):
        advice += _cures(report)
    return Section("What to do next", tuple(advice))


def _more_trials(report: Report) -> list[str]:
    if report.promise is None:
        return ["Let `teg run` go on: more trials are needed."]
    if report.promise.share < SMALL:
        return ["Nothing: more trials would hardly pay."]
    more = len(report.trials) + 8
    return [f"More trials may pay: `teg run --trials {more}` goes on from these."]


def _out_of_reach(report: Report) -> list[str]:
    fastest, reachable = report.fastest, report.reachable
    advice = []
    if fastest is not None:
        advice.append(
            f"The lowest {_quantile(report)} seen is {words.milliseconds(fastest.latency_s)} ms, at "
            f"{words.settings(fastest.point)}; the SLO is {_slo_text(report)}."
        )
    if reachable is not None:
        needed_s = likely_s(reachable.figures)
        if needed_s <= report.slo_s:
            advice.append(f"Let it go on: {words.settings(reachable.point)} is expected to keep the SLO.")
        else:
            advice.append(
                f"An SLO of {words.milliseconds(needed_s)} ms is expected to be within reach, at "
                f"{words.settings(reachable.point)} ({words.joules(reachable.figures.energy_j)} J/request"
                f"{_virtual(report)}). Otherwise offer less load to this board, or serve a faster model."
            )
    return advice


def _cures(report: Report) -> list[str]:
    reasons = Counter(t.record.outcome.reason for t in report.trials if isinstance(t.record.outcome, Invalid))
    advice: list[str] = []
    known: set[str] = set()
    for what, (names, cure) in words.CURES.items():
        found = {name: reasons[name] for name in names if reasons[name]}
        known |= found.keys()
        if found:
            counts = ", ".join(f"{number} x {name}" for name, number in found.items())
            advice.append(f"In {count(sum(found.values()), 'trial')} {what} ({counts}): {cure}.")
    if others := [f"{number} x {name}" for name, number in reasons.items() if name not in known]:
        advice.append(f"Other trials were cut off: {', '.join(others)}; `docs/metrics.md` says what each reason means.")
    return advice


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


def _small(share: float) -> str:
    return f"{100 * share:.1f}%" if share >= 0.001 else "0.1%"


def _sure(share: float) -> str:
    return "> 99%" if share > 0.99 else f"{100 * share:.0f}%"


def _quantile(report: Report) -> str:
    return words.quantile(report.log.subject.slos[0])


def _slo_text(report: Report) -> str:
    return f"{report.slo_s * 1e3:g} ms"


def _virtual(report: Report) -> str:
    return " (virtual)" if report.virtual else ""


def _stamp(report: Report) -> str:
    return "; every figure is that of a virtual board" if report.virtual else ""


def count(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
