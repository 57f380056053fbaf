# SPDX-License-Identifier: Apache-2.0
"""What `make demo-finetune` claims follows from what was seen: spans, steps, joules, points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.demo_finetune_record import Look, Record, idle_share, span
from benchmarks.demo_finetune_report import Story, points, summarise_run, trained
from benchmarks.demo_finetune_world import Labelled
from governor.load import LoadReport
from telemetry.instance_page import Sample, Status

SERVING_W, TRAINING_W, LIMIT_S = 20.0, 35.0, 0.010
QUIET, ASKED_S, FIRST_S, LAST_S, DONE_S = (10.0, 20.0), 30.0, 40.0, 60.0, 70.0
TUNED, ROOMY = {"gpu_hz": 6e8, "batch": 4.0}, {"gpu_hz": 9e8, "batch": 2.0}


def look(at_s: float) -> Look:
    """Ten steps a second between the first and the last, half of the time in them."""
    worked_s = min(max(at_s - FIRST_S, 0.0), LAST_S - FIRST_S)
    energy_j = SERVING_W * at_s + (TRAINING_W - SERVING_W) * worked_s
    return Look(at_s, energy_j, 0.0, (None,) * 5, int(10 * worked_s + 1e-6), worked_s / 2, None)


def sample(at_s: float, latency_s: float) -> Sample:
    return Sample(int(at_s * 1e9), int(at_s * 1e9), int((at_s + latency_s) * 1e9), 1, Status.OK)


@pytest.fixture
def record() -> Record:
    """A hundred seconds: one request in ten is late while training runs, one in fifty otherwise."""
    seen = Record(looks=[look(tenth / 10) for tenth in range(1001)])
    for number in range(1000):
        at_s = number / 10
        late = number % (10 if FIRST_S <= at_s <= LAST_S else 50) == 0
        seen.samples.append(sample(at_s, 2 * LIMIT_S if late else LIMIT_S / 2))
    seen.standings = [
        (1.0, standing({"gpu_hz": 1.3e9, "batch": 8.0}, "measuring")),
        (9.0, standing(TUNED, "holding", "idle")),
        (15.0, standing(TUNED, "holding", "thinking")),
        (35.0, standing(ROOMY, "holding", "paced")),
        (36.0, standing({}, "waiting")),
        (71.0, standing(TUNED, "holding", "idle")),
    ]
    return seen


def standing(point: dict[str, float], phase: str, training: str = "") -> dict[str, Any]:
    return {"point": point, "phase": phase, "training": {"phase": training} if training else None}


@pytest.fixture
def story() -> Story:
    job = {"state": "done", "reason": "", "step": 200, "steps": 200, "step_s": 0.05, "longest_s": 0.001}
    job |= {"waited_s": 10.0, "version": 2, "budget_bytes": 1000, "peak_bytes": 900}
    report = LoadReport("digits_cnn", 500, 1, 50.0, None, None, None, None, None, None)
    return Story(
        "digits_cnn", 10.0, 0.95, LIMIT_S, 2.5, 0.97, 0.1, 0.95, tuned_s=8.5, shifted_s=9.5, asked_s=ASKED_S,
        done_s=DONE_S, returned_s=71.0, tuned_point=TUNED, job=job, quiet=[QUIET], loads=[report, report],
    )  # fmt: skip


def test_a_span_counts_what_arrived_in_it(record: Record) -> None:
    """Requests by arrival, those beyond the limit among them, joules by the counter's growth."""
    found = span(record, [QUIET], LIMIT_S)
    assert found.requests == 101
    assert found.violation_share == pytest.approx(3 / 101)
    assert found.energy_j == pytest.approx(SERVING_W * 10)
    assert (found.steps, found.trained_s) == (0, 0.0)


def test_spans_add_up(record: Record) -> None:
    """Two spans together: the seconds, joules and requests of both, one quantile of all latencies."""
    first, second = span(record, [QUIET], LIMIT_S), span(record, [(45.0, 50.0)], LIMIT_S)
    both = span(record, [QUIET, (45.0, 50.0)], LIMIT_S)
    assert both.seconds == pytest.approx(first.seconds + second.seconds)
    assert both.energy_j == pytest.approx(first.energy_j + second.energy_j)
    assert both.requests == first.requests + second.requests
    assert both.steps == second.steps


def test_a_span_that_nobody_saw_has_no_figures(record: Record) -> None:
    """No look at the board, or no request: an error in place of a made-up figure."""
    with pytest.raises(ValueError, match="tell nothing"):
        span(record, [(200.0, 210.0)], LIMIT_S)


def test_the_time_without_requests_is_what_training_could_have_had() -> None:
    """Requests that overlap count once, and only for the part that lies in the span."""
    seen = Record(
        samples=[sample(9.0, 2.0), sample(10.5, 1.0), sample(10.6, 0.1), sample(19.0, 5.0), sample(30.0, 1.0)]
    )
    assert idle_share(seen, 10.0, 20.0) == pytest.approx(1 - (1.5 + 1.0) / 10)


def test_training_lasts_from_its_first_step_to_its_last(record: Record, story: Story) -> None:
    """Capture, planning and the watch over the new version are no training."""
    begin_s, end_s = trained(record, story)
    assert begin_s == pytest.approx(FIRST_S, abs=0.2)
    assert end_s == pytest.approx(LAST_S, abs=0.2)


def test_a_run_without_a_step_is_told(record: Record, story: Story) -> None:
    """A job that never trained has no figures."""
    record.looks = [look(tenth / 10) for tenth in range(350)]
    with pytest.raises(ValueError, match="no training step"):
        trained(record, story)


def test_the_summary_holds_what_was_seen(record: Record, story: Story) -> None:
    """Violations of the job's whole life beside those without it; what a step costs comes on top of serving."""
    found = summarise_run(story, record)
    assert found["virtual"] is True
    assert found["train_steps"] == pytest.approx(200, abs=3)
    assert found["harvest_share"] == pytest.approx(0.5, abs=0.02)
    assert found["j_per_request"] == pytest.approx(SERVING_W / 10, rel=0.02)
    assert found["j_per_train_step"] == pytest.approx((TRAINING_W - SERVING_W) / 10, rel=0.03)
    assert found["floor_violation_share"] < 0.03 < 0.05 < found["slo_violation_share"] < 0.1
    assert found["failed_requests"] == 2
    assert (found["budget_bytes"], found["peak_bytes"]) == (1000, 900)


def test_the_points_are_told_once_each_in_order(record: Record, story: Story) -> None:
    """From the tuned one on, when it was taken up and what training stood at; moments without any are passed over."""
    found = points(record, story)
    assert [entry["point"] for entry in found] == [TUNED, ROOMY, TUNED]
    assert [entry["training"] for entry in found] == ["idle", "paced", "idle"]
    assert found[1]["at_s"] == pytest.approx(26.5)


def test_a_turned_digit_is_the_same_digit_on_its_side() -> None:
    """A quarter turn moves the corner, keeps labels and ink, and four of them change nothing."""
    images = np.zeros((1, 1, 8, 8), np.float32)
    images[0, 0, 0, 0] = 1.0
    seen = Labelled(images, np.array([3]))
    turned = seen.turned()
    assert turned.images[0, 0, 7, 0] == 1.0
    assert turned.images.sum() == 1.0
    assert turned.labels.tolist() == [3]
    again = turned.turned().turned().turned()
    assert np.array_equal(again.images, images)
