# SPDX-License-Identifier: Apache-2.0
"""The replay of a batching server, against closed forms and hand-made traces."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.queueing import ServiceTimes, occupied_s, quantile, replay

ONE = ServiceTimes({1: (1.0,)})
FLAT = ServiceTimes(dict.fromkeys((1, 2, 4, 8), (1.0,)))


def poisson(rate_hz: float, number: int, seed: int = 0) -> list[float]:
    rng, now_s, times = random.Random(seed), 0.0, []
    for _ in range(number):
        now_s += rng.expovariate(rate_hz)
        times.append(now_s)
    return times


@pytest.mark.parametrize("busy", [0.3, 0.5, 0.7])
def test_fixed_service_one_by_one_waits_as_pollaczek_and_khinchine_say(busy: float) -> None:
    """M/D/1: the mean wait is rho / (2 (1 - rho)) service times."""
    found = replay(poisson(busy, 60_000), ONE, 1)
    wait_s = sum(found.latencies_s) / len(found.latencies_s) - 1.0
    assert wait_s == pytest.approx(busy / (2 * (1 - busy)), rel=0.06)
    assert found.busy_share == pytest.approx(busy, rel=0.02)
    assert found.mean_batch == 1


def test_an_unhurried_server_adds_nothing() -> None:
    """Arrivals further apart than the service: latency is service time."""
    assert replay([0.0, 2.0, 4.0], ONE, 1).latencies_s == (1.0, 1.0, 1.0)


def test_who_comes_together_waits_in_line() -> None:
    """One by one, three at once take one, two and three service times."""
    assert replay([0.0, 0.0, 0.0], ONE, 1).latencies_s == (1.0, 2.0, 3.0)


def test_times_read_off_a_trace_bring_the_trace_back() -> None:
    """What a late thread added is in them: replayed, the same arrivals are as late as they were."""
    rng = random.Random(7)
    arrivals_s, latencies_s, times_s, free_s = poisson(0.5, 400), [], [], 0.0
    for arrival_s in arrivals_s:
        start_s = max(arrival_s, free_s) + 0.2 * rng.random()
        end_s = start_s + 1.0
        times_s.append(occupied_s(arrival_s, start_s, end_s, free_s))
        latencies_s.append(end_s - arrival_s)
        free_s = end_s
    assert min(times_s) >= 1.0
    found = replay(arrivals_s, ServiceTimes({1: tuple(times_s)}), 1)
    assert found.quantile_s(0.9) == pytest.approx(quantile(latencies_s, 0.9), rel=0.1)


@pytest.mark.parametrize(("limit", "latencies_s"), [(1, (1, 2, 3, 4, 5)), (2, (1, 1, 2, 2, 3)), (8, (1, 1, 1, 1, 1))])
def test_no_batch_exceeds_the_limit(limit: int, latencies_s: tuple[int, ...]) -> None:
    """Five at once, batches that cost the same whatever their size."""
    found = replay([0.0] * 5, FLAT, limit)
    assert found.latencies_s == pytest.approx(latencies_s)
    assert found.mean_batch == 5 / max(latencies_s)


def test_a_batch_takes_only_those_who_are_there() -> None:
    """Who arrives during a service is in the next batch."""
    assert replay([0.0, 0.5, 0.75], FLAT, 8).latencies_s == pytest.approx((1.0, 1.5, 1.25))


def test_waiting_fills_a_batch_and_a_full_one_goes_at_once() -> None:
    """The first of a batch waits for others at most `batch_wait_s`, and not once the batch is full."""
    assert replay([0.0, 0.25], FLAT, 8, batch_wait_s=0.5).latencies_s == pytest.approx((1.5, 1.25))
    assert replay([0.0, 0.25], FLAT, 2, batch_wait_s=0.5).latencies_s == pytest.approx((1.25, 1.0))
    assert replay([0.0, 0.75], FLAT, 2, batch_wait_s=0.5).latencies_s == pytest.approx((1.5, 1.75))


def test_the_same_seed_replays_the_same() -> None:
    """Resampled service times are drawn from the seed, and another seed draws others."""
    services = ServiceTimes({1: (0.5, 1.0, 1.5)})
    arrivals_s = poisson(0.5, 200)
    assert replay(arrivals_s, services, 1, seed=4) == replay(arrivals_s, services, 1, seed=4)
    assert replay(arrivals_s, services, 1, seed=4) != replay(arrivals_s, services, 1, seed=5)


def test_nothing_to_replay_is_an_error() -> None:
    """No arrivals have no latency."""
    with pytest.raises(ValueError, match="no arrivals"):
        replay([], ONE, 1)


def test_sizes_between_those_measured_lie_on_their_line() -> None:
    """Two sizes give a line; beyond them it goes on, never falling with size; one size claims no saving."""
    services = ServiceTimes({2: (2.0, 4.0), 4: (5.0,)})
    assert [services.mean_s(size) for size in (1, 2, 3, 4, 8)] == [2.0, 3.0, 4.0, 5.0, 9.0]
    assert ServiceTimes({2: (4.0,)}).mean_s(6) == 12.0
    assert ServiceTimes({2: (4.0,), 4: (3.0,)}).mean_s(8) >= 3.0
    assert services.of(8) == (9.0,)
    one = ServiceTimes({2: (4.0,)})
    assert [one.stretched(1.0, lean).mean_s(4) for lean in (-1, 0, 1)] == [4.0, 8.0, 8.0]
    assert [one.stretched(0.5, lean).mean_s(1) for lean in (-1, 0, 1)] == [1.0, 1.0, 2.0]
    assert services.of(2) == (2.0, 4.0)


@pytest.mark.parametrize("seconds", [{}, {1: ()}, {1: (0.0,)}, {1: (1.0,), 2: (-1.0,)}])
def test_service_times_must_have_been_measured(seconds: dict[int, tuple[float, ...]]) -> None:
    """None at all, zero and negative ones are refused."""
    with pytest.raises(ValueError, match="service time"):
        ServiceTimes(seconds)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60), st.integers(1, 100))
def test_the_quantile_is_the_smallest_value_that_covers_its_share(values: list[float], percent: int) -> None:
    """By its definition, in exact arithmetic."""
    found = quantile(values, percent / 100)
    assert found == min(
        value for value in values if Fraction(sum(other <= value for other in values), len(values)) * 100 >= percent
    )


def test_quantiles_at_the_edges() -> None:
    """0 is the smallest, 1 the largest, one value is every quantile, none has none."""
    assert (quantile([3.0, 1.0, 2.0], 0.0), quantile([3.0, 1.0, 2.0], 1.0)) == (1.0, 3.0)
    assert quantile([7.0], 0.01) == quantile([7.0], 0.99) == 7.0
    assert quantile([float(number) for number in range(1, 101)], 0.55) == 55.0
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_each_part_of_what_was_measured_is_drawn_once() -> None:
    """A hundred requests that meet nobody take each of a hundred times; another seed, in another order."""
    times_s = tuple(0.01 * (1 + place) for place in range(100))
    arrivals_s = [10.0 * place for place in range(100)]
    first, second = (replay(arrivals_s, ServiceTimes({1: times_s}), 1, seed=seed).latencies_s for seed in (0, 1))
    assert sorted(first) == pytest.approx(times_s)
    assert sorted(second) == pytest.approx(times_s)
    assert first != pytest.approx(second)


def test_luck_belongs_to_a_request_whichever_batch_it_is_in() -> None:
    """Two that come together are one batch or two; who comes later takes as long either way."""
    services = ServiceTimes(dict.fromkeys((1, 2), tuple(0.01 * (1 + place) for place in range(100))))
    arrivals_s = [0.0, 0.0, *(10.0 * place for place in range(1, 99))]
    apart, together = (replay(arrivals_s, services, limit).latencies_s for limit in (1, 2))
    assert together[2:] == apart[2:]
    assert together[:2] != apart[:2]
