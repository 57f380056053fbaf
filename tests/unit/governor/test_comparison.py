# SPDX-License-Identifier: Apache-2.0
"""A version is taken back for what it did worse than the one before it, and for nothing else."""

from __future__ import annotations

import random

import pytest

from governor.comparison import Answered, worse
from governor.guard import Slo
from telemetry.instance_page import Sample, Status

SLO = Slo(0.99, 0.05)
NOBODY = Answered(())


def answered(on_time: int, late: int = 0, **others: int) -> Answered:
    """So many requests within the limit, above it, and of other ends by the status's name."""
    samples = [sample(0.01)] * on_time + [sample(0.2)] * late
    for status, count in others.items():
        samples += [sample(0.01, Status[status.upper()])] * count
    return Answered.of(samples)


def sample(latency_s: float, status: Status = Status.OK) -> Sample:
    return Sample(0, 0, round(latency_s * 1e9), 1, status)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (answered(300), answered(300), ""),
        (answered(300), answered(297, late=3), ""),
        (answered(300), answered(280, late=20), "20 of 300 requests took over 50 ms"),
        (answered(280, late=20), answered(278, late=22), ""),
        (answered(280, late=20), answered(200, late=100), "100 of 300 requests took over 50 ms"),
        (answered(300), answered(298, failed=2), "2 of 300 requests failed"),
        (answered(300), answered(299, failed=1), ""),
        (answered(290, failed=10), answered(290, failed=10), ""),
        (answered(300), answered(200, rejected=100), "100 of 300 requests took over 50 ms"),
        (answered(300), answered(280, invalid=200, cancelled=50), ""),
        (NOBODY, answered(0, late=9), ""),
        (NOBODY, answered(0, late=10), "10 of 10 requests took over"),
        (NOBODY, NOBODY, ""),
    ],
)
def test_what_counts_as_worse(before: Answered, after: Answered, words: str) -> None:
    """More late or failed requests than the objective allows and luck explains, and than the version before had."""
    found = worse(before, after, SLO)
    assert found.startswith(words) if words else found == ""


def test_without_an_objective_only_failures_count() -> None:
    """A model that promises nothing is not late."""
    assert worse(NOBODY, answered(0, late=100), None) == ""
    assert worse(NOBODY, answered(50, failed=50), None).startswith("50 of 100 requests failed")


def test_a_version_as_good_as_the_last_is_hardly_ever_blamed() -> None:
    """At the promised share of late requests luck takes back at most one version in 20, however often it is asked."""
    rng, blamed = random.Random(1), 0
    for _ in range(300):
        late = [rng.random() < 0.01 for _ in range(200)]
        looks = [answered(count - sum(late[:count]), sum(late[:count])) for count in range(20, 201, 20)]
        early = any(worse(NOBODY, look, SLO, final=False) for look in looks)
        blamed += early or bool(worse(NOBODY, looks[-1], SLO))
    assert blamed / 300 <= 0.07
