# SPDX-License-Identifier: Apache-2.0
"""Training in the gaps of a queue, against closed forms."""

from __future__ import annotations

import random

import pytest

from predictor.queueing import ServiceTimes, replay
from predictor.vacations import LOOKS_S, Vacations

ONE = ServiceTimes({1: (1.0,)})


def poisson(rate_hz: float, number: int, seed: int = 0) -> list[float]:
    rng, now_s, times = random.Random(seed), 0.0, []
    for _ in range(number):
        now_s += rng.expovariate(rate_hz)
        times.append(now_s)
    return times


def mean_s(arrivals_s: list[float], vacations: Vacations | None, limit: int = 1) -> float:
    found = replay(arrivals_s, ONE, limit, vacations=vacations)
    return sum(found.latencies_s) / len(found.latencies_s)


@pytest.mark.parametrize("stretches_s", [(0.4,), (0.1, 1.5), (0.02, 0.02, 0.02, 2.0)])
def test_the_wait_grows_by_the_mean_residual_stretch(stretches_s: tuple[float, ...]) -> None:
    """M/G/1 with vacations: E[V^2] / (2 E[V]) on top of the wait without them [Doshi, 1986]."""
    arrivals_s = poisson(0.4, 40_000)
    mean, square = (sum(length**power for length in stretches_s) / len(stretches_s) for power in (1, 2))
    grown_s = mean_s(arrivals_s, Vacations(stretches_s)) - mean_s(arrivals_s, None)
    assert grown_s == pytest.approx(square / (2 * mean), rel=0.06)


def test_training_takes_its_duty_of_the_idle_time() -> None:
    """Without any rest all of it but the looks at the gate, else its share."""
    arrivals_s = poisson(0.3, 4_000)
    idle = 1 - replay(arrivals_s, ONE, 1).busy_share
    shares = [
        replay(arrivals_s, ONE, 1, vacations=Vacations((0.002,), duty, 0.02)).training_share / idle
        for duty in (1.0, 0.5, 0.1)
    ]
    assert shares == pytest.approx([1.0, 0.5, 0.1], rel=0.05)
    assert 0 < 1 - shares[0] < 10 * LOOKS_S


def test_who_arrives_while_training_rests_pays_nothing() -> None:
    """At a duty of a tenth, nine in ten of those who find the server idle take as long as without training."""
    arrivals_s = poisson(0.01, 5_000)
    found = replay(arrivals_s, ONE, 1, vacations=Vacations((0.5,), 0.1, 0.5))
    spared = sum(latency_s == pytest.approx(1.0) for latency_s in found.latencies_s) / len(arrivals_s)
    assert spared == pytest.approx(0.9, abs=0.02)
    assert max(found.latencies_s) > 1.3


def test_no_request_waits_longer_than_the_longest_stretch() -> None:
    """Alone on an idle server: service time plus what is left of one stretch."""
    arrivals_s = [100.0 * number for number in range(1, 400)]
    latencies_s = replay(arrivals_s, ONE, 1, vacations=Vacations((0.05, 0.3))).latencies_s
    assert 1.0 < max(latencies_s) <= 1.3 + 1e-9
    assert min(latencies_s) >= 1.0


def test_a_stretch_that_withholds_half_the_device_slows_a_batch_while_it_lasts() -> None:
    """At half speed a short batch takes twice as long, and loses half of what is left of the stretch at most."""
    arrivals_s = [100.0 * number for number in range(400)]
    short = replay(arrivals_s, ONE, 1, vacations=Vacations((0.8,), block=0.5)).latencies_s
    assert 1.3 < max(short) <= 1.4
    long = replay(arrivals_s, ONE, 1, vacations=Vacations((50.0,), block=0.5)).latencies_s
    assert max(long) == pytest.approx(2.0)
    assert replay(arrivals_s, ONE, 1, vacations=Vacations((50.0,), block=0.0)).latencies_s == pytest.approx([1.0] * 400)


def test_only_the_first_batch_after_training_is_cold() -> None:
    """Who was waiting while another was served finds warm caches."""
    vacations = Vacations((1e-6,), block=0.0, cold=0.25)
    assert replay([0.0, 10.0, 10.0], ONE, 1, vacations=vacations).latencies_s == pytest.approx([1.0, 1.25, 2.25])


def test_a_device_that_training_kept_awake_serves_the_first_batch_sooner() -> None:
    """Who comes while nobody trained, or right behind another, gains nothing."""
    vacations = Vacations((1e-6,), block=0.0, cold=-0.25)
    assert replay([0.0, 10.0, 10.0], ONE, 1, vacations=vacations).latencies_s == pytest.approx([1.0, 0.75, 1.75])
    with pytest.raises(ValueError, match="cold"):
        Vacations((1e-6,), cold=-1.0)


def test_a_request_that_waits_for_others_waits_for_training_meanwhile() -> None:
    """The rest of a stretch that is over when its batch is full costs nothing."""
    arrivals_s = [100.0 * number for number in range(1, 200)]
    found = replay(arrivals_s, ONE, 8, 0.5, Vacations((0.4,)))
    assert found.latencies_s == pytest.approx([1.5] * len(arrivals_s))


def test_the_same_service_times_are_drawn_with_training() -> None:
    """What training costs is told apart from the luck of the draw."""
    services = ServiceTimes({1: (0.5, 1.0, 1.5)})
    arrivals_s = poisson(0.1, 500)
    alone = replay(arrivals_s, services, 1).latencies_s
    assert replay(arrivals_s, services, 1, vacations=Vacations((1.0,), duty=0.0)).latencies_s == alone
    beside = replay(arrivals_s, services, 1, vacations=Vacations((1e-9,))).latencies_s
    assert beside == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"stretches_s": ()}, "stretches"),
        ({"stretches_s": (0.1, 0.0)}, "stretches"),
        ({"stretches_s": (float("inf"),)}, "stretches"),
        ({"duty": 1.1}, "duty"),
        ({"slice_s": 0.0}, "slice_s"),
        ({"slice_s": float("inf")}, "slice_s"),
    ],
)
def test_figures_that_make_no_sense_are_refused(wrong: dict[str, object], named: str) -> None:
    """With the name of the figure."""
    with pytest.raises(ValueError, match=named):
        Vacations(**{"stretches_s": (0.1,), **wrong})  # type: ignore[arg-type]
