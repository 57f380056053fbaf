# SPDX-License-Identifier: Apache-2.0
"""The judges of rows 11 and 12: windows of served requests, and surfaces whose truth is known."""

from __future__ import annotations

import pytest

from governor.guard import Slo
from telemetry.instance_page import Sample, Status
from tests.faults.explored import Stay
from tests.faults.promises import broken_windows, plain_s
from tests.faults.surface import BAD, GOOD, MARGIN, TABLE, RandomSurface, clocks

SLO = Slo(0.95, 0.1, 10.0)


def served(latencies_s: list[float], from_s: float = 0.0) -> list[Sample]:
    """Ten requests a second, each answered after its latency, in order of their ends."""
    begun = [(from_s + 0.1 * number, latency_s) for number, latency_s in enumerate(latencies_s)]
    samples = [
        Sample(round(1e9 * at_s), round(1e9 * at_s), round(1e9 * (at_s + latency_s)), 1, Status.OK)
        for at_s, latency_s in begun
    ]
    return sorted(samples, key=lambda sample: sample.end_ns)


def test_windows_are_judged_one_after_the_other() -> None:
    """A window in which a fifth is late is in breach, its neighbours are not; what is left over is no window."""
    samples = served([0.05] * 100 + [0.05, 0.05, 0.05, 0.05, 0.2] * 20 + [0.05] * 150)
    assert broken_windows(samples, SLO, 0.0, 34.9) == [False, True, False]


def test_failed_requests_break_a_window() -> None:
    """They count as late ones do."""
    failed = [Sample(0, 0, round(1e9 * (0.1 + 0.1 * number)), 1, Status.FAILED) for number in range(10)]
    assert broken_windows(failed, SLO, 0.0, 10.0) == [True]


def plain(samples: list[Sample], stay: Stay) -> float | None:
    return plain_s(samples, [sample.end_ns / 1e9 for sample in samples], SLO, stay)


def test_a_breach_is_plain_once_a_whole_window_proves_it() -> None:
    """Half of all late for good: seen at the end of the first window, and not if the point is left before."""
    samples = served([0.05, 0.2] * 100)
    at_s = plain(samples, Stay({}, 0.0, 20.0))
    assert at_s == pytest.approx(10.0, abs=0.3)
    assert plain(samples, Stay({}, 0.0, 9.0)) is None


def test_luck_is_no_plain_breach() -> None:
    """Where one in twenty may be late, one in sixteen is luck."""
    assert plain(served(([0.05] * 15 + [0.2]) * 20), Stay({}, 0.0, 30.0)) is None


def test_what_arrived_before_a_stay_is_not_its_fault() -> None:
    """Requests that waited since before the point was asked for are late because of the one before."""
    samples = served([0.5] * 130 + [0.05] * 300)
    assert plain(samples, Stay({}, 0.0, 20.0)) is not None
    assert plain(samples, Stay({}, 13.0, 40.0)) is None


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_surface_knows_which_points_break_its_objective(seed: int) -> None:
    """Good points keep the objective with a margin, bad ones break it, and the safe one is neither."""
    surface = RandomSurface(seed)
    assert 0 < len(surface.good) <= GOOD
    assert len(surface.bad) == BAD
    assert all(surface.replayed_s(point) <= MARGIN * surface.limit_s for point in [*surface.good, surface.safe])
    assert all(surface.replayed_s(point) > surface.limit_s for point in surface.bad)
    assert surface.safe not in surface.good + surface.bad
    assert all(TABLE.offers(clocks(point)) for point in surface.good + surface.bad)


def test_a_surface_of_a_peak_is_judged_at_the_peak() -> None:
    """With three times the load in mind, requests arrive at a third of the rate."""
    usual, peak = RandomSurface(1), RandomSurface(1, peak=3.0)
    assert peak.rate_hz == pytest.approx(usual.rate_hz / 3)
    assert peak.limit_s == pytest.approx(usual.limit_s)
