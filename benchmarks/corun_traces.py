# SPDX-License-Identifier: Apache-2.0
"""Arrivals as PolyThrottle's evaluation has them: evenly spaced, Poisson and in bursts, drawn from a seed alone.

Its third trace is the most variable part of a recording of Twitter. In its place stands a Poisson process whose rate
changes between two levels (a Markov-modulated Poisson process): a fifth of the time at 2.5 times the mean rate.
"""

from __future__ import annotations

import random

from governor.load import draw_arrivals

KINDS = ("uniform", "poisson", "bursty")
BURST_RATE = 2.5
"""Rate within a burst, times the mean rate."""
BURST_TIME = 0.2
"""Share of the time within bursts."""
BURST_REQUESTS = 20
"""Requests that a burst brings on average."""


def arrivals(kind: str, rate_hz: float, requests: int, seed: int) -> tuple[float, ...]:
    """That many arrivals in seconds from the start, ascending; `ValueError` for another kind."""
    match kind:
        case "uniform":
            phase = random.Random(seed).random()
            return tuple((number + phase) / rate_hz for number in range(requests))
        case "poisson":
            return draw_arrivals(rate_hz, seed, requests=requests)
        case "bursty":
            return _bursty(rate_hz, requests, random.Random(seed))
    raise ValueError(f"arrivals are {', '.join(KINDS)}, not {kind!r}")


def _bursty(rate_hz: float, requests: int, rng: random.Random) -> tuple[float, ...]:
    calm = (1.0 - BURST_TIME * BURST_RATE) / (1.0 - BURST_TIME)
    burst_s = BURST_REQUESTS / (BURST_RATE * rate_hz)
    calm_s = burst_s * (1.0 - BURST_TIME) / BURST_TIME
    bursting = rng.random() < BURST_TIME
    found: list[float] = []
    at_s, until_s = 0.0, _stay_s(burst_s if bursting else calm_s, rng)
    while len(found) < requests:
        at_s += rng.expovariate(rate_hz * (BURST_RATE if bursting else calm))
        if at_s > until_s:  # an exponential gap has no memory: draw it anew at the other rate
            at_s, bursting = until_s, not bursting
            until_s += _stay_s(burst_s if bursting else calm_s, rng)
        else:
            found.append(at_s)
    return tuple(found)


def _stay_s(mean_s: float, rng: random.Random) -> float:
    return rng.expovariate(1.0 / mean_s)
