# SPDX-License-Identifier: Apache-2.0
"""The report's figures follow from the history, and its words from the figures."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
from explaining import (
    CHEAP,
    KNOBS,
    SLO_S,
    SLOW,
    TOP,
    Formula,
    energy_j,
    held,
    latency_s,
    log_of,
    point,
    trial,
)

from governor.explain.opinions import Expected, chance, cheapest, frontier, likely_s, promise
from governor.explain.plain import to_json
from governor.explain.report import Answer, Report, make_report
from governor.explain.sections import sections
from governor.explain.summary import headline
from governor.explain.text import render
from governor.history import REOPEN, RETRACT
from governor.points import Point, Predicted
from governor.trial import Invalid, TrialRecord

Row = TrialRecord | tuple[str, dict[str, object]]

USUAL = (trial(TOP), trial(point(600, 1)), trial(SLOW), trial(CHEAP), held(CHEAP))
"""Four trials, one of which broke the SLO, and the cheapest of the others held."""


def report_of(folder: Path, *rows: Row) -> Report:
    return make_report(log_of(folder, *rows), Formula)


def expected(at: Point, deviation: float = 0.05) -> Expected:
    return Expected(at, Predicted(energy_j(at), latency_s(at), deviation, deviation, 0.5))


def test_the_point_held_comes_with_what_it_saves(tmp_path: Path) -> None:
    """Against maximum clocks at their best batch limit: here as expected, for batch 4, which was not tried."""
    report = report_of(tmp_path, *USUAL)
    assert report.answer is Answer.KEPT
    assert report.held_now
    assert report.chosen is not None
    assert (report.chosen.point, report.chosen.trials) == (CHEAP, 1)
    assert report.chosen.energy_j == pytest.approx(energy_j(CHEAP))
    assert report.chosen.expected is not None
    assert report.chosen.expected.latency_s == pytest.approx(latency_s(CHEAP))
    assert report.top is not None
    assert report.top.point == point(900, 4)
    assert report.saving is not None
    assert report.saving.measured is None
    assert report.saving.expected == pytest.approx(1 - energy_j(CHEAP) / energy_j(point(900, 4)))
    assert headline(report) == "Held: GPU 600 MHz, batch 2"


def test_a_saving_is_measured_once_maximum_clocks_were(tmp_path: Path) -> None:
    """At the batch limit at which they are cheapest; both figures are said."""
    dear = dataclasses.replace(trial(point(900, 4)), energy_j=2 * energy_j(CHEAP))
    report = report_of(tmp_path, dear, *USUAL)
    assert report.saving is not None
    assert report.saving.measured == pytest.approx(0.5)
    assert "; 50.0% measured)" in render(report)


def test_what_was_expected_before_a_trial_knows_the_trials_before_it_alone(tmp_path: Path) -> None:
    """Replayed in order: nothing before the first, and deviations that shrink with every trial told."""
    tried = report_of(tmp_path, *USUAL).trials
    assert [one.number for one in tried] == [1, 2, 3, 4]
    assert tried[0].before is None
    assert [one.before.energy_deviation for one in tried[1:] if one.before] == pytest.approx([0.2, 0.1, 0.2 / 3])
    assert all(one.now and one.now.energy_deviation == pytest.approx(0.05) for one in tried)


def test_a_knob_is_worth_what_its_top_would_cost_more(tmp_path: Path) -> None:
    """With the other knobs where they are."""
    worths = {worth.knob: worth for worth in report_of(tmp_path, *USUAL).worths}
    assert worths.keys() == KNOBS.keys()
    assert (worths["gpu_hz"].value, worths["gpu_hz"].top) == (600e6, 900e6)
    assert worths["gpu_hz"].there.energy_j == pytest.approx(energy_j(point(900, 2)))
    assert worths["batch"].there.latency_s == pytest.approx(latency_s(point(600, 4)))


def test_slices_go_through_the_point_held(tmp_path: Path) -> None:
    """Along each knob, every value once, ascending."""
    along = report_of(tmp_path, *USUAL).slices
    assert [one.point for one in along["gpu_hz"]] == [point(mhz, 2) for mhz in (300, 600, 900)]
    assert [one.point for one in along["batch"]] == [point(600, batch) for batch in (1, 2, 4)]


def test_the_slo_is_priced_at_its_multiples(tmp_path: Path) -> None:
    """The cheapest point that keeps each limit with confidence; without a limit the cheapest of all."""
    report = report_of(tmp_path, *USUAL)
    assert [price.factor for price in report.prices] == [0.8, 0.9, 1.0, 1.1, 1.25, 1.5]
    for price in report.prices:
        within = [at for at in Formula(KNOBS, SLO_S).points if latency_s(at) <= 0.96 * price.limit_s]
        assert price.cheapest is not None
        assert price.cheapest.point == min(within, key=energy_j)
    assert report.free is not None
    assert report.free.point == SLOW
    energies = [price.cheapest.figures.energy_j for price in report.prices if price.cheapest]
    assert energies == sorted(energies, reverse=True)


def test_the_promise_is_that_of_the_best_untried_point(tmp_path: Path) -> None:
    """Larger while a cheaper feasible point is untried, and none once every point was tried."""
    some = report_of(tmp_path / "some", trial(TOP), trial(point(900, 2)), trial(point(600, 1)), held(point(600, 1)))
    assert some.promise is not None
    assert some.promise.expected.point == point(600, 2)
    assert some.promise.share == pytest.approx(math.log(energy_j(point(600, 1)) / energy_j(CHEAP)), rel=0.2)
    every = [trial(at) for at in Formula(KNOBS, SLO_S).points]
    assert report_of(tmp_path / "all", *every).promise is None


def test_before_the_first_trial_there_is_nothing_to_say(tmp_path: Path) -> None:
    """No figure is made up."""
    report = report_of(tmp_path)
    assert report.answer is Answer.EMPTY
    assert (report.chosen, report.top, report.saving, report.fastest) == (None, None, None, None)
    assert (report.worths, report.prices, report.frontier) == ((), (), ())
    assert "Nothing was tried yet." in render(report)


def test_one_trial_has_no_surfaces(tmp_path: Path) -> None:
    """What was measured is told; what is expected is not before three trials."""
    report = report_of(tmp_path, trial(TOP))
    assert report.answer is Answer.KEPT
    assert report.chosen is not None
    assert (report.chosen.energy_j, report.chosen.expected) == (pytest.approx(1.5), None)
    assert (report.worths, report.prices, report.promise, report.chance) == ((), (), None, None)
    text = render(report)
    assert "Best so far: GPU 900 MHz, batch 1" in text
    assert "Too few trials" in text


def test_invalid_trials_alone_say_what_to_mend(tmp_path: Path) -> None:
    """By their reasons, also one that nobody foresaw."""
    reasons = ["throttled", "throttled", "load", "sensor", "clocks", "foreign", "gremlins"]
    report = report_of(tmp_path, *(trial(TOP, Invalid(reason)) for reason in reasons))
    assert report.answer is Answer.UNMEASURED
    text = render(report)
    assert "No: none of the 7 trials could be measured." in text
    assert sections(report)[0].title == "What to do next"
    for word in ("2 x throttled", "1 x load", "1 x sensor", "1 x clocks", "1 x foreign", "1 x gremlins"):
        assert word in text


def test_an_slo_out_of_reach_says_what_would_be_within_it(tmp_path: Path) -> None:
    """The lowest latency seen, and the SLO that the fastest point expected would keep."""
    slow = [point(300, 4), point(300, 2), point(300, 1)]
    report = report_of(tmp_path, *map(trial, slow), held(point(900, 4), feasible=False))
    assert report.answer is Answer.BROKEN
    assert report.chosen is None
    assert report.fastest is not None
    assert report.fastest.point == point(300, 1)
    assert report.reachable is not None
    assert report.reachable.point == TOP
    assert likely_s(report.reachable.figures) == pytest.approx(0.02, rel=0.03)
    assert "Let it go on: GPU 900 MHz, batch 1 is expected to keep the SLO." in render(report)


def test_no_point_fast_enough_names_an_slo_that_one_would_keep(tmp_path: Path) -> None:
    """Instead of sending anybody on a search without end."""
    log = log_of(tmp_path, *map(trial, (point(300, 4), point(300, 2), point(300, 1))))
    slower = {"gpu_hz": (300e6,), "batch": (1.0, 2.0, 4.0)}
    report = make_report(log, lambda _, *rest: Formula(slower, *rest))
    text = render(report)
    assert "The lowest p95 seen is 60.0 ms" in text
    assert "An SLO of 61.4 ms is expected to be within reach, at GPU 300 MHz, batch 1" in text


def test_a_trial_after_the_hold_ends_it(tmp_path: Path) -> None:
    """The report is then about the best so far, and says what was held before."""
    report = report_of(tmp_path, *USUAL, trial(point(900, 4)))
    assert not report.held_now
    text = render(report)
    assert "Best so far: GPU 600 MHz, batch 2" in text
    assert "After trial 4 GPU 600 MHz, batch 2 was held, until another trial was made." in text


def test_what_was_measured_before_a_reopening_is_another_workload(tmp_path: Path) -> None:
    """Its trials are given to the search as such and no longer shown; numbers go on."""
    made: list[Formula] = []

    def make(*arguments: object) -> Formula:
        made.append(Formula(*arguments))  # type: ignore[arg-type]
        return made[-1]

    report = make_report(log_of(tmp_path, *USUAL, (REOPEN, {"why": "load"}), trial(TOP)), make)
    assert [tried.number for tried in report.trials] == [5]
    assert made[0].told == [TOP]
    (table,) = made[0].prior
    assert table["gpu_hz"] == [900e6, 600e6, 300e6, 600e6]
    assert table["energy_j"] == pytest.approx([energy_j(at) for at in (TOP, point(600, 1), SLOW, CHEAP)])
    assert not report.held_now
    assert "After trial 4 the search was opened again (load)" in render(report)


def test_a_retracted_trial_teaches_nothing(tmp_path: Path) -> None:
    """It stays in the table, with its reason."""
    report = report_of(tmp_path, *USUAL[:4], (RETRACT, {"reason": "throttled"}))
    assert report.chosen is not None
    assert report.chosen.point == point(600, 1)
    assert "invalid (throttled)" in render(report)


def test_a_search_that_knows_nothing_spoils_nothing(tmp_path: Path) -> None:
    """Figures that are not finite, or vague, are not shown, and JSON stays JSON."""

    class Vague(Formula):
        def predict(self, points: object) -> list[Predicted]:
            bad = [
                Predicted(math.nan, 0.1, 0.1, 0.1, 0.5),
                Predicted(1.0, math.inf, 0.1, 0.1, 0.5),
                Predicted(1.0, 0.1, 9.0, 0.1, 0.5),
            ]
            return [bad[number % 3] for number, _ in enumerate(points)]  # type: ignore[call-overload]

    report = make_report(log_of(tmp_path, *USUAL), Vague)
    assert report.chosen is not None
    assert report.chosen.expected is None
    assert not report.worths
    assert render(report)
    json.dumps(to_json(report), allow_nan=False)


def test_a_point_that_no_search_offers_is_shown_and_teaches_nothing(tmp_path: Path) -> None:
    """As one of another table of clocks."""
    strange = [trial(point(333, 1)), trial({"gpu_hz": 900e6}), trial({**TOP, "cpu_hz": 1e9})]
    report = report_of(tmp_path, *strange, *USUAL)
    assert [tried.before is None for tried in report.trials] == [True] * 4 + [False] * 3
    assert "333" in render(report)


def test_knobs_that_no_search_takes_are_told_without_surfaces(tmp_path: Path) -> None:
    """As in a history that somebody wrote by hand."""

    def refuse(*_: object) -> Formula:
        raise ValueError("no such knob")

    report = make_report(log_of(tmp_path, *USUAL[:4]), refuse)
    assert report.chosen is not None
    assert (report.chosen.point, report.chosen.expected) == (CHEAP, None)
    assert "Best so far: GPU 600 MHz, batch 2" in render(report)


def test_json_is_si_units_and_null_for_the_unknown(tmp_path: Path) -> None:
    """Every trial, every price, through JSON text."""
    plain = json.loads(json.dumps(to_json(report_of(tmp_path, *USUAL)), allow_nan=False))
    assert (plain["format"], plain["answer"], plain["held"], plain["slo_s"]) == (1, "kept", True, SLO_S)
    assert plain["subject"]["board"] == "virtual:agx-orin"
    assert plain["subject"]["virtual"] is True
    assert plain["subject"]["slos"] == [{"quantile": 0.95, "limit_s": SLO_S, "window_s": 10.0}]
    assert plain["chosen"]["point"] == CHEAP
    assert [one["outcome"] for one in plain["trials"]] == ["feasible", "feasible", "violated", "feasible"]
    assert plain["trials"][0]["expected_before"] is None
    assert plain["trials"][3]["expected_before"]["energy_j"] == pytest.approx(energy_j(CHEAP))
    assert [price["slo_s"] for price in plain["slo_prices"]][2] == SLO_S
    assert {row["knob"] for row in plain["knobs"]} == KNOBS.keys()


def test_the_text_says_virtual_where_it_says_joules(tmp_path: Path) -> None:
    """And every section that an engineer asks for is there."""
    report = report_of(tmp_path, *USUAL)
    text = render(report)
    assert "J/request (virtual)" in text
    assert "1.009 ±2.0%" in text
    assert "42.4 ±10%" in text
    assert [section.title for section in sections(report)] == [
        "Why this point", "Trials", "What each knob is worth", "What the SLO costs", "What remains uncertain",
        "What to do next",
    ]  # fmt: skip
    assert "4 trials: 3 kept the SLO, 1 violated it, 0 could not be trusted." in text


def test_a_frontier_falls(tmp_path: Path) -> None:
    """Slower is only worth it where it is cheaper; a limit buys its cheapest point of those that keep it surely."""
    points = [expected(at) for at in Formula(KNOBS, SLO_S).points]
    front = [(one.figures.latency_s, one.figures.energy_j) for one in frontier(points)]
    assert front == sorted(front)
    assert [energy for _, energy in front] == sorted((energy for _, energy in front), reverse=True)
    assert cheapest(points, 0.001) is None
    assert chance(points[0].figures, points[0].figures.latency_s) == pytest.approx(0.5)
    assert chance(points[0].figures, likely_s(points[0].figures)) == pytest.approx(0.75)
    assert promise([], 1.0) is None


def test_the_page_of_documentation_names_every_key(tmp_path: Path) -> None:
    """In the order of the JSON object, and no other."""
    documentation = (Path(__file__).resolve().parents[3] / "docs" / "explain.md").read_text()
    rows = [line.split("|")[1] for line in documentation.partition("| key | value |")[2].splitlines() if "`" in line]
    assert re.findall(r"`(\w+)`", " ".join(rows)) == list(to_json(report_of(tmp_path, *USUAL)))
