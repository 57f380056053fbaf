# SPDX-License-Identifier: Apache-2.0
"""What `make bench-live` says of a tuning follows from its trials and from the board's formulas."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.live import TARGET, cheapest, judged, paths, read_entry
from benchmarks.oracle import Figure
from benchmarks.tuned import Tuned, chained, offered_hz, traces
from boards.physics import MAXIMUM
from governor.load import LoadReport
from governor.trial import Feasible, Invalid, TrialRecord, Violated
from predictor.queueing import ServiceTimes

LIMIT_S = 0.1
BEST = Figure(MAXIMUM, 1, 2.0, 0.09)


def trial(energy_j: float, outcome: Feasible | Violated | Invalid) -> TrialRecord:
    return TrialRecord({"gpu_hz": energy_j}, outcome, energy_j, LIMIT_S, window_s=2.5)


def tuned(*, failed: int = 0, finished: bool = True) -> Tuned:
    report = LoadReport("resnet18", 100, failed, 10.0, None, None, None, None, None, None)
    return Tuned([], None, report, 60.0, finished)


@pytest.mark.parametrize(
    ("joules", "failed", "finished", "met"),
    [(2.09, 0, True, True), (2.2, 0, True, False), (2.09, 1, True, False), (2.09, 0, False, False)],
)
def test_a_tuning_meets_the_target_near_the_best_point_and_without_failures(
    joules: float, failed: int, finished: bool, met: bool
) -> None:
    """Within 5 % of the best point by formula, no request failed, and it came to an end."""
    found = judged(tuned(failed=failed, finished=finished), Figure(MAXIMUM, 1, joules, 0.08), BEST, LIMIT_S)
    assert found["distance"] == pytest.approx(joules / 2.0 - 1)
    assert found["latency_over_limit"] == pytest.approx(-0.2)
    assert found["met"] is met


def test_nothing_held_is_no_distance() -> None:
    """And misses the target."""
    found = judged(tuned(), None, BEST, LIMIT_S)
    assert (found["distance"], found["met"]) == (None, False)


def test_trials_are_counted_by_what_they_showed_and_by_formula() -> None:
    """Violations by either; the first trial near the best counts only if it keeps the limit by formula."""
    trials = [trial(3.0, Feasible()), trial(1.9, Violated()), trial(2.05, Feasible()), trial(9.0, Invalid("load"))]
    tried = [Figure(MAXIMUM, 1, joules, latency_s) for joules, latency_s in
             [(3.0, 0.05), (1.9, 0.2), (2.0 * (1 + TARGET), 0.1), (9.0, 0.3)]]  # fmt: skip
    found = paths(trials, tried, BEST, LIMIT_S)
    assert (found["trials"], found["violations"], found["violations_by_formula"]) == (4, 1, 2)
    assert (found["trials_to_target"], found["invalid"]) == (3, ["load"])
    assert cheapest(trials) == {"gpu_hz": 2.05}
    assert cheapest([]) is None


def test_the_load_is_a_share_of_the_capacity_and_the_same_every_time() -> None:
    """At the batch size with the highest throughput; traces follow one another without a gap in time."""
    services = ServiceTimes({1: (0.05,), 4: (0.1,)})
    assert offered_hz(services) == pytest.approx(20.0)
    assert offered_hz(services, 0.4) == pytest.approx(16.0)
    parts = traces(20.0, 160)
    assert sum(map(len, parts)) == 160
    assert parts == traces(20.0, 160)
    twice = chained(parts, 2)
    assert len(twice) == 320
    assert list(twice) == sorted(twice)


def test_results_of_other_code_are_measured_again(tmp_path: Path) -> None:
    """A kept result says what made it."""
    path = tmp_path / "entry.json"
    assert read_entry(path) is None
    path.write_text('{"made_by": "something else"}')
    assert read_entry(path) is None
