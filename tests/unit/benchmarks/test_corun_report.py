# SPDX-License-Identifier: Apache-2.0
"""What `make bench-corun` says of segments that were played."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import corun_plot, corun_report
from benchmarks.corun_markdown import markdown
from benchmarks.corun_predictor import judge
from benchmarks.corun_report import Compared, cells, compare, resampled, targets
from benchmarks.corun_setup import Setup
from benchmarks.corun_traces import arrivals
from predictor.queueing import replay

REQUESTS = 500
SETUP = Setup(20.0, 0.030, 0.029, 8, {1: (0.010, 0.011, 0.012)})


def row(kind: str, seed: int, repeat: int, arm: str, *, slower: float = 1.0, steps: float = 0.0) -> dict[str, Any]:
    """A segment as a queue would have it, everything `slower` times as slow."""
    at_s = arrivals(kind, SETUP.rate_hz, REQUESTS, seed)
    own = random.Random(f"{kind} {seed} {repeat} {arm}")
    seen_s = [slower * one * own.gauss(1, 0.01) for one in replay(at_s, SETUP.service_times, 8, seed=seed).latencies_s]
    who = {"model": "digits_cnn", "kind": kind, "seed": seed, "repeat": repeat, "arm": arm}
    desk = {"desk": {"duty": 1.0, "stretches_s": [0.001] * 20}} if arm == "ours" else {}
    return (
        who
        | desk
        | {
            "slo_s": SETUP.slo_s,
            "at_s": 1000.0 * repeat + seed,
            "span_s": at_s[-1],
            "latencies_s": seen_s,
            "idle_share": 0.75,
            "steps": steps * at_s[-1],
            "served": [
                [one, one + max(0.0, took_s - 0.011), one + took_s, 1] for one, took_s in zip(at_s, seen_s, strict=True)
            ],
        }
    )


def rows(seeds: int = 1, **slower: float) -> list[dict[str, Any]]:
    """Both repeats of each seed beside nobody, naive training and ours."""
    arms = {"none": 0.0, "naive": 10.0, "ours": 9.0}
    return [
        row(kind, seed, repeat, arm, slower=slower.get(arm, 1.0), steps=steps)
        for kind in ("uniform", "poisson")
        for seed in range(seeds)
        for repeat in range(2)
        for arm, steps in arms.items()
    ]


def of(compared: list[Compared], kind: str, arm: str) -> Compared:
    return next(found for found in compared if (found.kind, found.arm) == (kind, arm))


def test_arms_are_compared_with_no_training_on_the_same_arrivals() -> None:
    """The figures of an arm against the floor are those of the same traces, and the truth lies within the interval."""
    compared = compare(cells(rows(naive=2.0, ours=1.05)))
    naive, ours = of(compared, "poisson", "naive"), of(compared, "poisson", "ours")
    assert naive.requests == ours.requests == 2 * REQUESTS
    assert naive.p99_ratio is not None
    assert naive.p99_ratio.value == pytest.approx(2.0, rel=0.05)
    assert ours.p99_ratio is not None
    assert ours.p99_ratio.low <= 1.05 <= ours.p99_ratio.high
    assert ours.p99_ratio.high - ours.p99_ratio.low < 0.1
    assert ours.over_floor is not None
    assert naive.over_floor is not None
    assert ours.over_floor.value < naive.over_floor.value
    assert ours.harvest_share is not None
    assert ours.harvest_share.value == pytest.approx(0.9)


def test_the_floor_is_compared_with_nothing() -> None:
    """Without training there is no harvest, and no ratio to itself."""
    none = of(compare(cells(rows())), "uniform", "none")
    assert (none.p99_ratio, none.over_floor, none.harvest_share) == (None, None, None)


def test_a_request_that_failed_is_late() -> None:
    """It counts as late and as failed, and leaves every other request's quantile as it was."""
    one = row("uniform", 0, 0, "none")
    one["latencies_s"][0] = None
    found = compare(cells([one]))[0]
    assert found.failed == 1
    assert found.late_share.value >= 1 / REQUESTS
    assert np.isfinite(found.p99_s)


def test_intervals_are_wider_where_less_was_seen() -> None:
    """Four times as many blocks: about half the interval."""
    rng = np.random.default_rng(0)
    few = [rng.exponential(size=50) for _ in range(20)]
    many = few + [rng.exponential(size=50) for _ in range(60)]
    narrow, wide = (resampled(lambda drawn: float(drawn.mean()), side) for side in (many, few))
    assert narrow.high - narrow.low < 0.7 * (wide.high - wide.low)


def test_targets_name_where_they_are_missed() -> None:
    """A trace beside which ours is too slow is named; one without ours counts for nothing."""
    met = targets(compare(cells(rows(naive=2.0))), [])
    assert [aim.met == aim.of == 2 for aim in met[:4]] == [True] * 4
    missed = targets(compare(cells(rows(naive=2.0, ours=1.4))), [])
    assert missed[2].missed == ("digits_cnn uniform", "digits_cnn poisson")


@pytest.mark.parametrize(("late", "met"), [(4, 1), (5, 0)])
def test_half_a_point_is_half_a_point(late: int, met: int) -> None:
    """One request of 200 more than three of them, exactly."""

    def segment(arm: str, count: int) -> dict[str, Any]:
        seen_s = [2 * SETUP.slo_s] * count + [SETUP.slo_s / 2] * (200 - count)
        return row("uniform", 0, 0, arm, steps=10.0) | {"latencies_s": seen_s}

    found = targets(compare(cells([segment("none", 3), segment("naive", 3), segment("ours", late)])), [])
    assert (found[0].met, found[0].of) == (met, 1)


def test_the_predictor_is_judged_beside_a_repeat() -> None:
    """It learns from the first repeat alone, and its error is held against how far two measurements are apart."""
    found = judge("digits_cnn", rows(4, ours=1.1), SETUP)
    assert found is not None
    assert len(found["cells"]) == 4
    assert found["mape"] < 0.10
    assert found["repeat_mape"] < 0.02
    assert found["intervals"] == 16 + 4
    assert found["held_share"] >= 0.85


def test_a_predictor_is_not_judged_by_few_requests() -> None:
    """Quantiles of fewer than 2000 requests judge nobody."""
    assert judge("digits_cnn", rows(1), SETUP) is None


def test_the_predictor_s_target_knows_the_repeat() -> None:
    """Above 10 % it is met within three points of what two repeats are apart."""
    near = {"model": "digits_cnn", "mape": 0.14, "repeat_mape": 0.12, "held_share": 0.95}
    assert [aim.met for aim in targets([], [near])[-2:]] == [1, 1]
    assert [aim.met for aim in targets([], [near | {"repeat_mape": 0.05, "held_share": 0.8}])[-2:]] == [0, 0]


def test_tables_and_picture_show_every_arm(tmp_path: Path) -> None:
    """What a run writes is read back into tables with a line for each cell, and drawn."""
    compared = compare(cells(rows(naive=2.0)))
    predicted: dict[str, Any] = {"model": "digits_cnn", "mape": 0.05, "repeat_mape": 0.03, "nnls_mape": 0.4}
    predicted |= {"held_share": 0.95, "intervals": 40}
    summary = {
        "models": {"digits_cnn": SETUP.json() | {"batch": 64}},
        "cells": [asdict(found) for found in compared],
        "predictor": [predicted],
        "targets": [asdict(aim) for aim in targets(compared, [predicted])],
        "failures": ["digits_cnn adaptive: no answer"],
    }
    text = markdown(json.loads(json.dumps(summary)))
    assert text.count("naive, one thread") == 2
    assert "Failed: digits_cnn adaptive: no answer" in text
    corun_plot.picture(tmp_path / "corun.png", summary["cells"], ["digits_cnn"])  # type: ignore[arg-type]
    assert (tmp_path / "corun.png").stat().st_size > 0


def test_a_block_of_requests_keeps_its_neighbours() -> None:
    """Segments are cut into runs of requests in order, none lost."""
    segment = corun_report.Segment.of(row("poisson", 0, 0, "none"))
    assert np.array_equal(np.concatenate(segment.blocks()), segment.latencies_s)
    assert {len(block) for block in segment.blocks()} == {corun_report.BLOCK}
