# SPDX-License-Identifier: Apache-2.0
"""The joule counter: what it counts, what it does not believe, and how wrong it may be."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from itertools import accumulate, pairwise

import pytest

from governor.clockd.energy import GAP_S, RANGE_S, EnergyMeter

STEP_S = 0.05


def counted(samples: list[tuple[float, float | None]], window_s: float = 0.0) -> EnergyMeter:
    meter = EnergyMeter(window_s)
    for at_s, power_w in samples:
        meter.take(at_s, power_w)
    return meter


def every_step(*powers_w: float | None) -> list[tuple[float, float | None]]:
    return [(STEP_S * number, power_w) for number, power_w in enumerate(powers_w)]


class Trace:
    """Power that steps at random times between two bounds, as a sensor with an averaging window sees it."""

    def __init__(self, draw: random.Random, lowest_w: float, highest_w: float, ends_s: float) -> None:
        # Both bounds are seen first, each for long enough to fill any window.
        lengths_s, powers_w = [2.0, 2.0], [lowest_w, highest_w]
        while sum(lengths_s) < ends_s + 2:
            lengths_s.append(draw.choice((0.003, 0.02, 0.05, 0.2, 1.0)) * draw.uniform(0.5, 1.5))
            powers_w.append(draw.choice((lowest_w, highest_w, draw.uniform(lowest_w, highest_w))))
        self._begins_s = [0.0, *accumulate(lengths_s)][:-1]
        self._powers_w = powers_w
        energies_j = (length_s * power_w for length_s, power_w in zip(lengths_s, powers_w, strict=True))
        self._joules = [0.0, *accumulate(energies_j)][:-1]

    def joules(self, at_s: float) -> float:
        """Exactly what was drawn until then."""
        if at_s <= 0:
            return self._powers_w[0] * at_s
        number = bisect_right(self._begins_s, at_s) - 1
        return self._joules[number] + self._powers_w[number] * (at_s - self._begins_s[number])

    def shown_w(self, at_s: float, window_s: float) -> float:
        """The mean over the window that ends then."""
        return (self.joules(at_s) - self.joules(at_s - window_s)) / window_s

    def shown_j(self, begin_s: float, end_s: float, window_s: float) -> float:
        """The exact integral of what is shown: piecewise quadratic, so Simpson between its kinks is exact."""
        kinks = {begin_s, end_s}
        for kink_s in (*self._begins_s, *(begin + window_s for begin in self._begins_s)):
            if begin_s < kink_s < end_s:
                kinks.add(kink_s)
        return math.fsum(
            (right - left) / 6 * sum(
                weight * self.shown_w(at_s, window_s)
                for weight, at_s in ((1, left), (4, (left + right) / 2), (1, right))
            )
            for left, right in pairwise(sorted(kinks))
        )  # fmt: skip


def test_joules_are_the_trapezoid_of_power() -> None:
    """Constant power is power times time; a ramp is its mean times time. The first sample counts for nothing."""
    assert counted([(100.0, 20.0)]).joules == 0
    assert counted([(100.0, 20.0), (100.05, 20.0), (100.1, 20.0)]).joules == pytest.approx(2.0)
    assert counted([(0.0, 10.0), (0.2, 20.0)]).joules == pytest.approx(3.0)


@pytest.mark.parametrize("window_s", [0.0, 0.43])
def test_steady_power_has_no_error(window_s: float) -> None:
    """Nothing can hide between equal samples of a power that never was another."""
    assert counted(every_step(*[15.0] * 100), window_s).error_j == 0


def test_the_error_covers_any_step_between_samples() -> None:
    """Without a window, power that jumped right after, or right before, a sample lies within the bound."""
    meter = counted([(0.0, 10.0), (0.1, 30.0)])
    for truth_j in (10 * 0.1, 30 * 0.1):
        assert abs(truth_j - meter.joules) <= meter.error_j + 1e-12


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("window_s", [0.2, 0.43, 1.0])
def test_the_bound_holds_for_any_power(seed: int, window_s: float) -> None:
    """Over random steps the counter is off from what the sensor showed by no more than its bound grows, always.

    And from what was really drawn by no more than one window times the range besides.
    """
    draw = random.Random(seed)
    lowest_w, highest_w = 9.0, draw.choice((12.0, 30.0, 36.0))
    trace = Trace(draw, lowest_w, highest_w, ends_s=12.0)
    meter, at_s, marks = EnergyMeter(window_s), 0.0, []
    while at_s < 12.0:
        meter.take(at_s, trace.shown_w(at_s, window_s))
        if at_s > 4.0:
            marks.append((at_s, meter.joules, meter.error_j))
        at_s += STEP_S * draw.choice((1.0, 1.0, 1.02, 1.6, 3.0))
    for begin, end in ((marks[0], marks[-1]), *pairwise(marks[::7]), *pairwise(marks)):
        grown_j, counted_j = end[2] - begin[2], end[1] - begin[1]
        assert abs(counted_j - trace.shown_j(begin[0], end[0], window_s)) <= grown_j + 1e-9
        drawn_j = trace.joules(end[0]) - trace.joules(begin[0])
        assert abs(counted_j - drawn_j) <= grown_j + window_s * (highest_w - lowest_w) + 1e-9


def test_the_bound_is_no_larger_than_the_worst_case() -> None:
    """A tent between two equal samples reaches it: samples that only see the ends of a ramp up and down again."""
    window_s, dt_s = 0.4, 0.1
    meter = counted([(0.0, 10.0), (1.0, 30.0), (1.05, 10.0)], window_s)
    before_j = meter.error_j
    meter.take(1.15, 10.0)
    slope = (30.0 - 10.0) / window_s
    assert meter.error_j - before_j == pytest.approx(dt_s / 2 * (slope * dt_s / 2))


@pytest.mark.parametrize("window_s", [0.0, 0.43])
def test_a_gap_is_in_doubt_as_a_whole(window_s: float) -> None:
    """Over half a second without a sample anything between nothing and the highest power may have been drawn."""
    meter = counted([(0.0, 10.0), (0.05, 10.0), (2.05, 10.0)], window_s)
    assert meter.joules == pytest.approx(20.5)
    assert meter.error_j == pytest.approx(20.0)
    assert GAP_S == 0.5


def test_the_counter_never_falls() -> None:
    """Not even if the clock stood still."""
    meter = counted([(5.0, 10.0), (5.0, 30.0), (4.0, 10.0)])
    assert (meter.joules, meter.error_j, meter.missing_s) == (0, 0, 0)


@pytest.mark.parametrize("bad", [None, 0.0, -3.0, math.nan, math.inf], ids=str)
def test_what_cannot_be_true_is_time_without_power(bad: float | None) -> None:
    """It is not counted, is not shown, and the time until the next good reading is in doubt."""
    meter = counted(every_step(10.0, 10.0, bad, bad))
    assert (meter.joules, meter.power_w) == (pytest.approx(0.5), 10.0)
    assert meter.missing_s == pytest.approx(2 * STEP_S)
    meter.take(4 * STEP_S, 10.0)
    assert meter.joules == pytest.approx(2.0)
    assert meter.missing_s == pytest.approx(2 * STEP_S)


def test_a_spike_is_not_believed() -> None:
    """One reading of ten times the power is neither counted nor shown, and makes the bound no larger."""
    meter = counted(every_step(10.0, 10.0, 100.0))
    assert (meter.power_w, meter.joules) == (10.0, pytest.approx(0.5))
    assert meter.take(3 * STEP_S, 10.0)
    assert (meter.joules, meter.error_j) == (pytest.approx(1.5), 0)
    assert meter.missing_s == pytest.approx(STEP_S)


@pytest.mark.parametrize("others", [[100.0, 10.0, 10.0], [100.0, None, 10.0]], ids=["then sound", "then nothing"])
def test_a_spike_at_the_very_beginning_is_not_believed_either(others: list[float | None]) -> None:
    """The first reading waits for the second."""
    assert counted(every_step(*others[:2])).power_w == 0.0
    meter = counted(every_step(*others))
    meter.take(3 * STEP_S, 10.0)
    meter.take(4 * STEP_S, 10.0)
    assert (meter.power_w, meter.error_j) == (10.0, 0)


def test_a_rise_that_stays_is_believed() -> None:
    """Five times the power twice running is a load: counted from the first of the two."""
    assert counted(every_step(10.0, 10.0, 50.0)).power_w == 10.0
    meter = counted(every_step(10.0, 10.0, 50.0, 55.0))
    assert (meter.power_w, meter.missing_s) == (55.0, 0.0)
    assert meter.joules == pytest.approx(STEP_S * (10 + 30 + 52.5))


def test_a_range_is_forgotten_in_minutes() -> None:
    """A sensor that once showed ten times the power, twice running, does not put every later interval in doubt."""
    meter = counted(every_step(10.0, 12.0, 120.0, 120.0, 12.0), window_s=0.43)
    doubtful = STEP_S**2 / (4 * 0.43) * 110
    before_j = meter.error_j
    meter.take(5 * STEP_S, 11.0)
    assert meter.error_j - before_j == pytest.approx(doubtful)
    for number in range(6, round(2.1 * RANGE_S / STEP_S)):
        meter.take(number * STEP_S, 10.0 + number % 2)
    before_j = meter.error_j
    meter.take(number * STEP_S + STEP_S, 10.0)
    assert meter.error_j - before_j == pytest.approx(doubtful / 110, rel=0.01)


def test_every_tenth_reading_a_spike_leaves_the_joules_right() -> None:
    """200 spikes among 2000 readings: none counted, the joules those of the sound ones."""
    powers = [200.0 if number % 10 == 5 else 20.0 for number in range(2001)]
    meter = counted(every_step(*powers))
    assert meter.joules == pytest.approx(20.0 * 2000 * STEP_S)
    assert meter.missing_s == pytest.approx(200 * STEP_S)


def test_the_hardware_s_own_count_is_taken() -> None:
    """Where the board counts joules itself, power only is shown, and sampling hides nothing."""
    meter = EnergyMeter(0.1)
    for number, counted_j in enumerate((5000.0, 5001.0, 5001.0, 5004.5)):
        meter.take(STEP_S * number, 20.0 + number, counted_j)
    assert (meter.joules, meter.error_j, meter.power_w) == (4.5, 0, 23.0)


@pytest.mark.parametrize("broken", [3.0, None, math.nan], ids=["reset", "gone", "no number"])
def test_a_count_that_breaks_off_is_bridged_by_power(broken: float | None) -> None:
    """A driver that was reloaded counts from zero again: that one interval is the trapezoid's."""
    meter = EnergyMeter()
    for number, counted_j in enumerate((100.0, 101.0, broken, broken and broken + 2.0)):
        meter.take(float(number), 10.0, counted_j)
    assert meter.joules == pytest.approx(1.0 + 10.0 + (2.0 if broken == 3.0 else 10.0))
