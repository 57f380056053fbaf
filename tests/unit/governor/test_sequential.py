# SPDX-License-Identifier: Apache-2.0
"""The sequential tests keep their promises at every look, on streams whose truth is known."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from governor.sequential import (
    ALPHA,
    BROKEN_ALPHA,
    deviations,
    fit_line,
    half_width,
    sure_to_break,
    unsafe_wait,
)

STREAMS, LOOKS = 2000, 48
Streams = npt.NDArray[np.float64]


def ever_outside(streams: Streams) -> float:
    """Share of the streams whose running mean is ever further from 0 than its half-width."""
    count = np.arange(1, streams.shape[1] + 1)
    mean = streams.cumsum(axis=1) / count
    variance = np.maximum(0.0, (streams**2).cumsum(axis=1) - count * mean**2) / np.maximum(1, count - 1)
    bound = np.array([deviations(int(number)) for number in count])[2:] * np.sqrt(variance / count)[:, 2:]
    return float((np.abs(mean[:, 2:]) > bound).any(axis=1).mean())


@pytest.mark.parametrize("seed", [1, 2])
def test_the_truth_is_rarely_ever_outside(seed: int) -> None:
    """Of 2000 streams looked at after each of 48 values, fewer than `ALPHA` ever exclude their mean."""
    assert ever_outside(np.random.default_rng(seed).normal(size=(STREAMS, LOOKS))) <= ALPHA


def test_a_fixed_interval_would_be_outside_far_more_often() -> None:
    """The same streams under an interval of two standard errors: why the looks have to be paid for."""
    streams = np.random.default_rng(1).normal(size=(STREAMS, LOOKS))
    count = np.arange(1, LOOKS + 1)
    mean = streams.cumsum(axis=1) / count
    assert (np.abs(mean[:, 5:]) > 2.0 / np.sqrt(count[5:])).any(axis=1).mean() > 2 * ALPHA


def test_noise_that_is_not_normal_changes_little() -> None:
    """Uniform and skewed values, as service times are: still fewer than `ALPHA`."""
    rng = np.random.default_rng(3)
    skewed = rng.lognormal(sigma=0.3, size=(STREAMS, LOOKS))
    assert ever_outside(skewed - math.exp(0.3**2 / 2)) <= ALPHA
    assert ever_outside(rng.uniform(-1, 1, size=(STREAMS, LOOKS))) <= ALPHA


def test_the_width_shrinks_with_what_is_known() -> None:
    """Infinite at first, then ever fewer deviations, always more than the fixed interval's."""
    widths = [deviations(count) / math.sqrt(count) for count in range(3, 100)]
    assert [deviations(1), deviations(2, 2)] == [math.inf, math.inf]
    assert widths == sorted(widths, reverse=True)
    assert all(deviations(count) > 1.64 for count in range(2, 100))
    assert all(deviations(count, 2) > deviations(count) for count in range(4, 50))
    assert half_width([1.0]) == math.inf
    assert half_width([1.0, 1.1, 0.9, 1.0] * 6) == pytest.approx(deviations(24) * 0.0722 / math.sqrt(24), rel=0.01)


def test_a_line_knows_itself_best_in_the_middle() -> None:
    """Least squares; wider away from the points, and its truth is rarely ever outside."""
    rng, outside = random.Random(4), 0
    for _ in range(500):
        xs = [rng.random() for _ in range(24)]
        ys = [10 + 20 * x + rng.gauss(0, 1) for x in xs]
        lines = [fit_line(xs[:count], ys[:count]) for count in range(4, 25)]
        outside += any(abs(line.at(0.4) - 18.0) > line.half_width(0.4) for line in lines)
    assert outside / 500 <= ALPHA
    assert lines[-1].half_width(2.0) > lines[-1].half_width(0.5)


def test_a_line_through_what_does_not_vary_is_level() -> None:
    """Equal x, or y that falls: the mean, with the doubt of a mean."""
    level = fit_line([0.3] * 5, [1.0, 2.0, 3.0, 2.0, 1.0])
    assert (level.slope, level.at(9.0)) == (0.0, pytest.approx(1.8))
    assert level.half_width(9.0) == pytest.approx(half_width([1.0, 2.0, 3.0, 2.0, 1.0]))
    assert fit_line([0.1, 0.2, 0.3], [3.0, 2.0, 1.0]).slope == 0.0


@pytest.mark.parametrize("allowed", [0.05, 0.01])
@pytest.mark.parametrize("together", [1, 10])
def test_a_promise_just_kept_is_rarely_taken_for_broken(allowed: float, together: int) -> None:
    """As many late as allowed, one by one or all of a block at once: broken in fewer than `BROKEN_ALPHA`."""
    rng = random.Random(5)

    def blocks() -> Iterator[float]:
        for _ in range(LOOKS):
            yield sum(rng.random() < allowed for _ in range(together)) / together

    assert sum(sure_to_break(blocks(), allowed) for _ in range(STREAMS)) / STREAMS <= BROKEN_ALPHA


@pytest.mark.parametrize(("share", "blocks"), [(1.0, 2), (0.5, 4), (0.3, 8)])
def test_a_promise_broken_for_sure_is_seen_within_a_few_blocks(share: float, blocks: int) -> None:
    """Two blocks of nothing but late requests prove it; one never does."""
    assert sure_to_break([share] * blocks, 0.05)
    assert not sure_to_break([1.0], 0.05)
    assert not sure_to_break([0.0] * 1000, 0.05)


def queue_latencies(rng: random.Random, rate_hz: float, service_s: float, seconds: float) -> list[tuple[float, float]]:
    """When each request of an M/D/1 queue was answered, and after how long."""
    now_s, free_s, rows = 0.0, 0.0, []
    while now_s < seconds:
        now_s += rng.expovariate(rate_hz)
        free_s = max(free_s, now_s) + service_s
        rows.append((free_s, free_s - now_s))
    return rows


def test_in_a_queue_late_requests_come_in_rows_and_deceive_rarely() -> None:
    """A queue busy for 60 % that keeps its p95 to a hair, in blocks of four limits, 24 s: below `BROKEN_ALPHA`."""
    latencies = sorted(latency for _, latency in queue_latencies(random.Random(6), 12.0, 0.05, 20_000.0))
    limit_s = latencies[int(0.95 * len(latencies))]
    rng, false = random.Random(7), 0
    for _ in range(1000):
        blocks: dict[int, list[bool]] = {}
        for end_s, latency_s in queue_latencies(rng, 12.0, 0.05, 24.0):
            blocks.setdefault(int(end_s / (4 * limit_s)), []).append(latency_s > limit_s)
        false += sure_to_break((sum(late) / len(late) for late in blocks.values()), 0.05)
    assert false / 1000 <= BROKEN_ALPHA
    unsafe_s = unsafe_wait(0.95) * limit_s
    assert sum(latency > unsafe_s for latency in latencies) / len(latencies) < 2e-4


def test_an_unsafe_wait_is_a_few_limits() -> None:
    """Nearer the limit the fewer requests may miss it."""
    assert unsafe_wait(0.95) == pytest.approx(3.07, abs=0.01)
    assert unsafe_wait(0.99) == pytest.approx(2.0)
    assert unsafe_wait(0.5) > 10
