# SPDX-License-Identifier: Apache-2.0
"""On-line calibration: what is believed follows what is measured, and intervals hold."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from predictor.calibrate import WILD, Conformal, Filter, Outlook
from predictor.interference import PRIOR, TERMS, Interference, bounded

NAMES = list(TERMS)


def outlook(*, variance: float = 0.0004, **gradient: float) -> Outlook:
    return Outlook(0.0, tuple(gradient.get(name, 0.0) for name in NAMES), variance)


def test_a_term_converges_to_what_is_measured() -> None:
    """A constant factor of 1.2 is found from noisy windows, and the belief becomes narrower."""
    rng, filtered, look = random.Random(1), Filter(), outlook(bias=1.0)
    before = filtered.variance(look)
    for _ in range(60):
        filtered.learn(look, 0.18 - filtered.terms["bias"] + rng.gauss(0, 0.02))
    assert filtered.terms["bias"] == pytest.approx(0.18, abs=0.03)
    assert filtered.variance(look) < before / 2


def test_terms_are_told_apart_by_the_windows_they_act_in() -> None:
    """The bias is everywhere, what training adds only beside it."""
    filtered = Filter()
    for number in range(200):
        trains = float(number % 2)
        residual = 0.1 + 0.15 * trains - filtered.terms["bias"] - trains * filtered.terms["beside"]
        filtered.learn(outlook(bias=1.0, beside=trains), residual)
    assert filtered.terms["bias"] == pytest.approx(0.1, abs=0.02)
    assert filtered.terms["beside"] == pytest.approx(0.15, abs=0.03)


def test_one_wild_window_teaches_no_more_than_a_few_deviations() -> None:
    """A hundred times as long counts like three standard deviations, or half as many."""
    once, wild = Filter(), Filter()
    look = outlook(bias=1.0)
    once.learn(look, 3 * once.variance(look) ** 0.5)
    wild.learn(look, 4.6)
    assert wild.terms == once.terms


def test_what_changes_is_relearnt() -> None:
    """A hundred windows of one factor do not hold back the next."""
    filtered, look = Filter(), outlook(bias=1.0)
    for truth in (0.1, -0.2):
        for _ in range(100):
            filtered.learn(look, truth - filtered.terms["bias"])
        assert filtered.terms["bias"] == pytest.approx(truth, abs=0.01)


def test_terms_stay_physical() -> None:
    """No stretch withholds more than the device, none less than nothing, and no training makes batches vanish."""
    filtered = Filter()
    for _ in range(100):
        filtered.learn(outlook(block=1.0), 0.5)
    assert filtered.terms["block"] == 1.0
    assert filtered.terms.block(1.0) == 1.0
    least = Interference(bounded([-5.0] * len(TERMS)))
    assert least["block"] == 0.0
    assert least.cold(1.0, 3.0) == least["cold"] > -1.0
    assert PRIOR.cold(0.0, -30.0) == PRIOR["cold"]


def test_what_a_term_at_its_bound_cannot_explain_another_does() -> None:
    """Requests beside training are faster than any stretch explains that withholds nothing: training itself is why."""
    filtered, look = Filter(), outlook(block=0.5, cold=0.5)
    for _ in range(40):
        found = 0.5 * (filtered.terms["block"] - 0.7) + 0.5 * (filtered.terms["cold"] - 0.05)
        filtered.learn(look, -0.5 - found)
    assert filtered.terms["block"] == 0.0
    assert 0.5 * filtered.terms["cold"] == pytest.approx(-0.5 + 0.35 + 0.025, abs=0.01)


def test_a_wild_window_does_not_make_the_belief_as_sure_as_it_would_a_usual_one() -> None:
    """One that is ten times as far off as it may be moves the terms as much, and leaves more to learn."""
    usual, wild, look = Filter(), Filter(), outlook(bias=1.0)
    most = WILD * usual.variance(look) ** 0.5
    usual.learn(look, most)
    wild.learn(look, 10 * most)
    assert wild.terms == usual.terms
    assert wild.variance(replace(look, variance=0.0)) > 2 * usual.variance(replace(look, variance=0.0))


@pytest.mark.parametrize("shape", ["normal", "skewed", "wide", "drifting"])
def test_intervals_hold_as_promised_whatever_the_residuals(shape: str) -> None:
    """Nine in ten, for residuals that are skewed, twice as wide as said, or wander."""
    rng, interval, held = random.Random(2), Conformal(0.9), []
    for number in range(800):
        score = {
            "normal": rng.gauss(0, 1),
            "skewed": rng.expovariate(0.5) - 1,
            "wide": rng.gauss(0, 2),
            "drifting": rng.gauss(number / 400, 1),
        }[shape]
        low, high = interval.bounds
        held.append(low <= score <= high)
        interval.learn(score, held[-1])
    assert sum(held) / len(held) == pytest.approx(0.9, abs=0.03)


def test_a_noisy_host_is_believed_less() -> None:
    """Residuals wider than requests drawn at random would leave move the terms less, and widen the interval."""
    calm, noisy, look = Filter(), Filter(), outlook(bias=1.0)
    for number in range(40):
        calm.learn(look, 0.01 * (-1) ** number)
        noisy.learn(look, 0.3 * (-1) ** number)
    assert noisy.deviation(look) > 2 * calm.deviation(look)
    before = noisy.terms["bias"]
    noisy.learn(look, 0.02)
    assert abs(noisy.terms["bias"] - before) < 0.002


def test_an_interval_is_never_made_of_more_than_the_model_can_know() -> None:
    """Where a gradient says that anything is possible, past residuals decide; one accident does not decide alone."""
    filtered, interval = Filter(), Conformal(0.9)
    assert filtered.deviation(outlook(cold=100.0)) == 0.5
    interval.learn(60.0, held=False)
    assert interval.bounds[1] <= 4.0


def test_bounds_before_anything_was_seen_are_wide_normal_ones() -> None:
    """More than the 1.6 standard deviations to either side of nine in ten, as much to both."""
    low, high = Conformal(0.9).bounds
    assert -low == pytest.approx(high)
    assert 1.7 < high < 2.5
