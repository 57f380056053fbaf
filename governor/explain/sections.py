# SPDX-License-Identifier: Apache-2.0
"""A report in words: sections of sentences and tables, which `text` and `page` set in type."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median

from ..latency import HOPELESS
from ..trial import Feasible, Invalid, Violated
from . import words
from .advice import advice
from .opinions import Expected
from .report import Report


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


def wordy(grid: Grid, column: int) -> bool:
    """Whether most of a column's cells are words rather than numbers."""
    cells = [row.cells[column] for row in grid.rows]
    return 2 * sum(cell[:1].isalpha() for cell in cells) > len(cells)


def sections(report: Report) -> list[Section]:
    """Everything else, in the order in which an engineer asks; after a no, what to do about it comes first."""
    following = Section("What to do next", tuple(advice(report)))
    parts = [_why(report), _trials(report), _worths(report), _prices(report), _uncertain(report)]
    ordered = [*parts, following] if report.chosen else [following, *parts]
    return [part for part in ordered if part is not None]


def _why(report: Report) -> Section | None:
    chosen, best = report.chosen, report.best
    outcomes = Counter(type(tried.record.outcome) for tried in report.trials)
    kept, violated, invalid = (outcomes[kind] for kind in (Feasible, Violated, Invalid))
    counts = (
        f"{words.count(len(report.trials), 'trial')}: {kept} kept the SLO, {violated} violated it, {invalid} could not "
        "be trusted."
    )
    if chosen is None:
        return Section("Why not", (counts,), figure="pareto") if report.trials else None
    judge = ", by the surfaces, which even out the luck of single trials" if chosen.expected else ""
    sentences = [
        f"{counts} Of the points tried that keep the SLO with confidence, this one needs the fewest joules per request"
        f"{judge}."
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
    chosen, quantile = report.chosen.point if report.chosen else None, report.quantile
    rows = []
    for tried in report.trials:
        record, mark = tried.record, "*" if tried.record.point == chosen else " "
        kind = {Violated: "violated", Invalid: "invalid"}.get(type(record.outcome), "chosen" if mark == "*" else "")
        point = [words.value(knob, record.point[knob]) if knob in record.point else "-" for knob in knobs]
        expected = words.expected_joules(tried.before), words.expected_milliseconds(tried.before)
        hopeless = record.latency_s is not None and record.latency_s >= 0.999 * HOPELESS * report.slo_s
        latency = (">" if hopeless else "") + words.milliseconds(record.latency_s)
        measured = (
            words.measured(words.joules(record.energy_j), record.energy_half_width),
            words.measured(latency, None if hopeless else record.latency_half_width),
        )
        cells = f"{tried.number}{mark}", *point, expected[0], measured[0], expected[1], measured[1]
        rows.append(Row((*cells, words.verdict(record)), kind))
    units = [words.knob_name(knob) + (" MHz" if knob.endswith("_hz") else "") for knob in knobs]
    header = ("#", *units, "expected J", "J/request", f"expected {quantile} ms", f"{quantile} ms", "verdict")
    sentences = [
        "Expected: what the surfaces said before the trial, ± two deviations; - where they knew it no better than "
        f"within a factor of two. {quantile} is at the load offered over the whole run{words.stamp(report.virtual)}."
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
    header = ("knob", "here", "top", "J/request there", "change", f"{report.quantile} ms there")
    sentences = (
        "Expected if that knob alone went back to its top, where it stands without the governor"
        f"{words.stamp(report.virtual)}. Knobs act together: the rows do not add up to the whole saving.",
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
    header = ("SLO ms", "of it", "J/request", "change", f"{report.quantile} ms", "cheapest point expected to keep it")
    sentences = []
    if now and report.free:
        cost_j = now.figures.energy_j - report.free.figures.energy_j
        share = cost_j / now.figures.energy_j
        sentences.append(
            f"The SLO costs {words.joules(cost_j)} J/request{words.virtual(report.virtual)}, {100 * share:.1f}% of the "
            "energy: the cheapest point would need so much less if latency did not matter."
            if share >= 0.001
            else "The SLO costs nothing: the cheapest point expected keeps it."
        )
    sure = "A point counts as keeping an SLO if the surfaces are 75% sure of it, tried or not"
    sentences.append(f"{sure}{words.stamp(report.virtual)}.")
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
        most, unit = report.promise, f" J/request{words.virtual(report.virtual)}"
        sentences.append(
            f"No untried point is expected to be cheaper by more than {_small(most.share)}, its chance to keep the SLO "
            f"counted in. The most promising one: {words.settings(most.expected.point)}, expected "
            f"{words.expected_joules(most.expected.figures, unit)} and "
            f"{words.expected_milliseconds(most.expected.figures, ' ms')}."
        )
    if errors := _errors(report):
        energy, latency, number = errors
        sentences.append(
            f"How well the surfaces foretell: over {words.count(number, 'trial')}, what they expected was off by "
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


def _small(share: float) -> str:
    return f"{100 * share:.1f}%" if share >= 0.001 else "0.1%"
