# SPDX-License-Identifier: Apache-2.0
"""The verdict on one window."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binom

from governor.guard import DOUBT, Slo, Verdict, chance_of_late, judge

P95 = Slo(0.95, 0.1)
OK_S, LATE_S = 0.05, 0.2


def verdict(late: int, total: int, failed: int = 0, slo: Slo = P95) -> Verdict:
    return judge([LATE_S] * late + [OK_S] * (total - late), failed, slo)


@pytest.mark.parametrize(
    ("late", "total", "expected"),
    [(0, 100, Verdict.KEPT), (5, 100, Verdict.KEPT), (9, 100, Verdict.KEPT), (10, 100, Verdict.BROKEN),
     (100, 100, Verdict.BROKEN), (2, 2, Verdict.BROKEN), (1, 2, Verdict.KEPT)],
)  # fmt: skip
def test_only_more_late_requests_than_luck_explains_break_it(late: int, total: int, expected: Verdict) -> None:
    """Of 100 requests whose 0.95 quantile is promised, 5 are expected late and 9 may be; 10 prove it broken."""
    assert verdict(late, total) is expected


def test_a_promise_kept_exactly_is_kept() -> None:
    """A latency equal to the limit is within it."""
    assert judge([P95.limit_s] * 50, 0, P95) is Verdict.KEPT


@pytest.mark.parametrize(("total", "quantile"), [(0, 0.95), (0, 0.99), (1, 0.9), (4, 0.5)])
def test_few_requests_prove_nothing(total: int, quantile: float) -> None:
    """Where even nothing but late requests could be luck, the verdict is unknown, whatever they were."""
    slo = Slo(quantile, 0.1)
    assert verdict(0, total, slo=slo) is Verdict.UNKNOWN
    assert verdict(total, total, slo=slo) is Verdict.UNKNOWN


def test_unknown_ends_where_all_late_would_be_proof() -> None:
    """At the median four late requests may be luck (1 in 16), five may not (1 in 32)."""
    median = Slo(0.5, 0.1)
    assert verdict(4, 4, slo=median) is Verdict.UNKNOWN
    assert verdict(5, 5, slo=median) is Verdict.BROKEN
    assert verdict(0, 5, slo=median) is Verdict.KEPT


def test_a_failed_request_is_a_late_one() -> None:
    """Failing fast does not keep a promise."""
    assert verdict(0, 90, failed=10) is Verdict.BROKEN
    assert verdict(0, 0, failed=10) is Verdict.BROKEN


@given(st.integers(1, 400) | st.integers(1, 100_000), st.floats(0.0, 1.0), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@example(2000, 0.6, 0.95)
@example(100_000, 0.05, 0.95)
def test_the_chance_is_the_binomial_tail(total: int, fraction: float, quantile: float) -> None:
    """Against scipy's survival function, for any count: of a busy server's, too, of which most are late."""
    late = round(fraction * total)
    assert chance_of_late(late, total, 1 - quantile) == pytest.approx(binom.sf(late - 1, total, 1 - quantile), abs=1e-9)


def test_a_kept_promise_is_called_broken_no_oftener_than_doubt_allows() -> None:
    """Exactly at its quantile, a system is accused in at most one window of twenty."""
    for total in (20, 100, 250):
        fewest = next(late for late in range(total + 1) if verdict(late, total) is Verdict.BROKEN)
        assert binom.sf(fewest - 1, total, 0.05) < DOUBT


@pytest.mark.parametrize(("quantile", "limit_s", "window_s"), [(0.0, 1, 1), (1.0, 1, 1), (0.9, 0, 1), (0.9, 1, -1)])
def test_an_objective_must_make_sense(quantile: float, limit_s: float, window_s: float) -> None:
    """A quantile outside (0, 1) and times that are not positive are refused."""
    with pytest.raises(ValueError, match="must"):
        Slo(quantile, limit_s, window_s)
