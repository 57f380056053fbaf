# SPDX-License-Identifier: Apache-2.0
"""The co-run model against a simulated device that works otherwise than the model thinks (`tests.faults.beside`)."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from predictor.corun import Band, CoRunModel, Serving, TrainingSlices
from predictor.nnls import CoRun, NnlsPredictor, Work
from predictor.queueing import ServiceTimes, quantile, replay
from predictor.vacations import Vacations
from tests.faults.beside import Truth, bursty, happens, poisson

SERVICES = ServiceTimes({1: (0.009, 0.01, 0.012) * 20, 2: (0.014, 0.015) * 20})
OFTEN = tuple(poisson(20.0, 800, random.Random(5)))
SERVING = Serving(OFTEN, SERVICES, 4)
TRAINING = TrainingSlices((0.002, 0.02))


def test_alone_and_unlearnt_it_is_the_replay() -> None:
    """Nothing is added to the queue before anything was measured; the interval goes around."""
    band = CoRunModel().predict(SERVING, None, 0.95)
    assert band.latency_s == pytest.approx(replay(OFTEN, SERVICES, 4).quantile_s(0.95))
    assert band.low_s < band.latency_s < band.high_s
    assert band.training_share == 0.0
    assert CoRunModel().predict(SERVING, TrainingSlices((0.1,), duty=0.0), 0.95) == band


def test_what_arrivals_alone_would_have_made_is_never_overstated() -> None:
    """What training seems to cost, learnt as whatever term, excuses nothing; a device that proved faster counts."""
    slower, faster = CoRunModel(), CoRunModel()
    alone_s = replay(OFTEN, SERVICES, 4).quantile_s(0.95)
    for _ in range(10):
        slower.observe(SERVING, TRAINING, 0.95, 3 * alone_s, 800)
        faster.observe(SERVING, None, 0.95, 0.7 * alone_s, 800)
    assert slower.predict(SERVING, None, 0.95).latency_s > alone_s
    usual = CoRunModel().late_alone(SERVING, alone_s)
    assert 0 < usual <= 0.05
    assert slower.late_alone(SERVING, alone_s) == usual
    assert faster.late_alone(SERVING, alone_s) < usual
    quicker_s = faster.predict(SERVING, None, 0.95).latency_s
    assert faster.late_alone(SERVING, 1.001 * quicker_s) <= 0.05 <= faster.late_alone(SERVING, 0.999 * quicker_s)


def test_requests_that_wait_for_earlier_ones_would_have_waited_alone() -> None:
    """What came before a window is replayed, and not counted; where nothing came since, nobody is late."""
    burst_s = tuple(0.001 * number for number in range(100))
    later_s = tuple(burst_s[-1] + 0.05 * number for number in range(1, 5))
    both = replace(SERVING, arrivals_s=burst_s + later_s)
    alone = CoRunModel().late_alone(replace(SERVING, arrivals_s=later_s), 0.1)
    assert alone == 0.0
    assert CoRunModel().late_alone(both, 0.1, later_s[0]) > 0.5
    assert CoRunModel().late_alone(both, 0.1, later_s[-1] + 1.0) == 0.0


def test_training_costs_latency_the_more_the_longer_its_stretches() -> None:
    """And takes less of the time as its duty falls."""
    model = CoRunModel()
    bands = [model.predict(SERVING, TrainingSlices((stretch_s,)), 0.95) for stretch_s in (0.001, 0.01, 0.03)]
    assert [band.latency_s for band in bands] == sorted(band.latency_s for band in bands)
    assert bands[0].latency_s > model.predict(SERVING, None, 0.95).latency_s
    less = model.predict(SERVING, replace(TRAINING, duty=0.2), 0.95)
    assert 0 < less.training_share < 0.3 < model.predict(SERVING, TRAINING, 0.95).training_share


def test_clocks_enter_by_their_slowdown() -> None:
    """Twice as slow is the replay of service times twice as long, on less sure ground."""
    model = CoRunModel()
    slow = model.predict(replace(SERVING, slowdown=2.0), None, 0.5)
    assert slow.latency_s == pytest.approx(replay(OFTEN, SERVICES.stretched(2.0), 4).quantile_s(0.5))
    here = model.predict(SERVING, None, 0.5)
    assert slow.high_s / slow.latency_s > here.high_s / here.latency_s


def test_more_requests_are_measured_more_surely() -> None:
    """The interval is for what will be measured, so it narrows with their number."""
    model = CoRunModel()
    widths = [
        band.high_s / band.low_s for band in (model.predict(SERVING, TRAINING, 0.95, many) for many in (30, 300, 3000))
    ]
    assert widths == sorted(widths, reverse=True)


def test_it_learns_from_what_is_measured_for_each_model_apart() -> None:
    """Latencies a fifth longer than thought are predicted after some windows, for that model alone."""
    model = CoRunModel()
    first = model.predict(SERVING, TRAINING, 0.95)
    for _ in range(12):
        said = model.observe(SERVING, TRAINING, 0.95, 1.2 * first.latency_s, 400)
    assert said.latency_s == pytest.approx(1.2 * first.latency_s, rel=0.03)
    assert model.predict(replace(SERVING, name="other"), TRAINING, 0.95) == first
    assert said.high_s / said.low_s < first.high_s / first.low_s


def test_a_device_that_training_keeps_awake_is_learnt_from_few_windows() -> None:
    """Batches are a third shorter after training, and nothing waits for it: the fourth window beside it is foreseen."""
    model, serving = CoRunModel(), replace(SERVING, arrivals_s=poisson(8.0, 400, random.Random(3)))
    awake = Vacations(TRAINING.stretches_s, block=0.0, cold=-0.35)
    alone_s, beside_s = (
        replay(serving.arrivals_s, SERVICES, 4, vacations=vacations, seed=7).quantile_s(0.95)
        for vacations in (None, awake)
    )
    said = []
    for _ in range(6):
        model.observe(serving, None, 0.95, alone_s, 400)
        said.append(model.observe(serving, TRAINING, 0.95, beside_s, 400).latency_s / beside_s)
    assert said[0] > 2.0
    assert said[3:] == pytest.approx([1.0] * 3, abs=0.1)
    assert model.interference()["cold"] < 0


def test_its_error_is_that_of_predictions_made_before_learning() -> None:
    """Mean absolute relative error and share of intervals held; unknown before the first window."""
    model = CoRunModel()
    assert (math.isnan(model.error.mape), model.error.windows) == (True, 0)
    first = model.predict(SERVING, TRAINING, 0.95, 400)
    said = model.observe(SERVING, TRAINING, 0.95, 5 * first.latency_s, 400)
    assert said == first
    assert (model.error.mape, model.error.held_share, model.error.windows) == (pytest.approx(0.8), 0.0, 1)
    model.observe(SERVING, TRAINING, 0.95, model.predict(SERVING, TRAINING, 0.95, 400).latency_s, 400)
    assert (model.error.mape, model.error.held_share) == (pytest.approx(0.4), 0.5)


@pytest.mark.parametrize(("measured_s", "requests"), [(0.0, 10), (math.nan, 10), (math.inf, 10), (0.1, 0)])
def test_what_is_no_measurement_is_refused(measured_s: float, requests: int) -> None:
    """Rather than learnt from."""
    with pytest.raises(ValueError, match="no measurement"):
        CoRunModel().observe(SERVING, None, 0.95, measured_s, requests)


@pytest.mark.parametrize(("wrong", "named"), [({"batch_limit": 0}, "batch_limit"), ({"slowdown": 0.0}, "slowdown")])
def test_loads_that_make_no_sense_are_refused(wrong: dict[str, float], named: str) -> None:
    """With the name of the figure."""
    with pytest.raises(ValueError, match=named):
        replace(SERVING, **wrong)  # type: ignore[arg-type]


def judged(truth: Truth, seed: int, windows: int = 24, requests: int = 700) -> tuple[list[Band], list[float], float]:
    """Bands before each window, what was measured, and the mean relative difference between two repeats."""
    rng, model, bands, measured_s, repeats = random.Random(seed), CoRunModel(), [], [], 0.0
    for _ in range(windows):
        rate_hz, duty, slowdown = rng.choice((10, 20, 30)), rng.choice((0.0, 0.5, 1.0)), rng.choice((1.0, 1.4))
        trace = rng.choice((poisson, bursty))
        services = happens(truth, trace(rate_hz, 400, rng), rng).services
        arrivals_s = trace(rate_hz, requests, rng)
        seen, again = (happens(truth, arrivals_s, rng, duty=duty, slowdown=slowdown) for _ in range(2))
        found_s, other_s = quantile(seen.latencies_s, 0.95), quantile(again.latencies_s, 0.95)
        serving = Serving(arrivals_s, services, truth.batch_limit, slowdown=slowdown)
        training = TrainingSlices(truth.ops_s, duty, slice_s=0.05)
        bands.append(model.observe(serving, training, 0.95, found_s, requests))
        measured_s.append(found_s)
        repeats += abs(other_s / found_s - 1) / windows
    return bands, measured_s, repeats


@pytest.mark.parametrize("truth", [Truth(), Truth(shared=0.05, cold_s=0.0), Truth(shared=0.9, cold_s=0.003)])
def test_a_device_it_was_not_made_for_is_predicted_within_a_tenth(truth: Truth) -> None:
    """Or within three points of what two repeats differ by; and intervals hold."""
    bands, measured_s, repeats = judged(truth, seed=1)
    errors = [abs(band.latency_s / found_s - 1) for band, found_s in zip(bands, measured_s, strict=True)]
    held = [band.low_s <= found_s <= band.high_s for band, found_s in zip(bands, measured_s, strict=True)]
    assert sum(errors) / len(errors) <= max(0.1, repeats + 0.03)
    # 24 windows: nine in ten, less what chance takes in one run of a hundred
    assert sum(held) >= 18


def test_it_beats_least_squares_on_work_alone() -> None:
    """PolyThrottle's predictor, fitted to the first half of the windows, knows neither rate nor clock."""
    truth, rng, model = Truth(), random.Random(3), CoRunModel()
    ours, samples = [], []
    for _ in range(16):
        rate_hz, duty, slowdown = rng.choice((10, 25, 35)), rng.choice((0.0, 1.0)), rng.choice((1.0, 1.4))
        arrivals_s = poisson(rate_hz, 500, rng)
        seen = happens(truth, arrivals_s, rng, duty=duty, slowdown=slowdown)
        found_s = quantile(seen.latencies_s, 0.95)
        serving = Serving(arrivals_s, happens(truth, arrivals_s, rng).services, 4, slowdown=slowdown)
        band = model.observe(serving, TrainingSlices(truth.ops_s, duty, slice_s=0.05), 0.95, found_s, 500)
        ours.append(abs(band.latency_s / found_s - 1))
        samples.append((CoRun(Work(1e9, 20.0), Work(8e9 * duty, 30.0 * duty), 4), found_s))
    fitted = NnlsPredictor.fitted(samples[:8])
    theirs = [abs(fitted.predict_s(setting) / found_s - 1) for setting, found_s in samples[8:]]
    assert sum(ours[8:]) < 0.7 * sum(theirs)
