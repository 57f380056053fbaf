# SPDX-License-Identifier: Apache-2.0
"""The promise to inference, and the verdict on one window of traffic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

DOUBT = 0.05
"""A window is broken when a system that keeps its promise would show so many late requests less often than this."""

NEGLIGIBLE = 1e-17
"""Share of a sum that double precision does not hold."""


@dataclass(frozen=True, slots=True)
class Slo:
    """The `quantile` of server-side latency stays at or below `limit_s`, judged over windows of `window_s` seconds."""

    quantile: float
    limit_s: float
    window_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile must lie between 0 and 1, got {self.quantile}")
        if not (self.limit_s > 0 and self.window_s > 0):
            raise ValueError(f"limit_s and window_s must be positive, got {self.limit_s} and {self.window_s}")


class Verdict(Enum):
    """What one window says about the promise."""

    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "unknown"
    """Too few requests to tell."""


def judge(latencies_s: Sequence[float], failed: int, slo: Slo) -> Verdict:
    """The verdict on a window: `failed` requests count as late.

    Broken: the share of late requests exceeds `1 - quantile` beyond doubt (one-sided binomial test at `DOUBT`).
    Unknown: even a window of nothing but late requests could not prove it.
    """
    late, total = counted(latencies_s, failed, slo)
    share = 1 - slo.quantile
    if total == 0 or share**total >= DOUBT:
        return Verdict.UNKNOWN
    return Verdict.BROKEN if beyond_doubt(late, total, slo) else Verdict.KEPT


def beyond_doubt(late: int, total: int, slo: Slo) -> bool:
    """Whether so many late requests of `total` prove a broken promise (one-sided binomial test at `DOUBT`)."""
    return chance_of_late(late, total, 1 - slo.quantile) < DOUBT


def counted(latencies_s: Sequence[float], failed: int, slo: Slo) -> tuple[int, int]:
    """Late requests, the `failed` ones among them, of so many."""
    return failed + sum(latency_s > slo.limit_s for latency_s in latencies_s), failed + len(latencies_s)


def late_over_allowed(latencies_s: Sequence[float], failed: int, slo: Slo) -> float:
    """Late requests of a window over as many as may be late; above 1 only where it is broken beyond doubt."""
    late, total = counted(latencies_s, failed, slo)
    if not total:
        return 0.0
    ratio = late / total / (1 - slo.quantile)
    return max(ratio, 1.01) if judge(latencies_s, failed, slo) is Verdict.BROKEN else min(ratio, 1.0)


def chance_of_late(late: int, total: int, share: float) -> float:
    """Probability of at least `late` late requests among `total` when each is late with probability `share`."""
    if late <= 0 or share >= 1:
        return float(late <= total)
    if late > total or share <= 0:
        return 0.0
    # from the middle outwards terms only fall: few are needed, however many requests there were
    if late > share * total:
        return _terms(late, total, share)
    return 1.0 - _terms(total - late + 1, total, 1 - share)


def _terms(first: int, total: int, share: float) -> float:
    """The binomial terms from `first` on, which lies beyond the mean; in logarithms, for the factors overflow."""
    ways = math.lgamma(total + 1) - math.lgamma(first + 1) - math.lgamma(total - first + 1)
    term = math.exp(ways + first * math.log(share) + (total - first) * math.log1p(-share))
    found = 0.0
    for count in range(first, total + 1):
        found += term
        term *= (total - count) / (count + 1) * share / (1 - share)
        if term <= NEGLIGIBLE * found:
            break
    return found
