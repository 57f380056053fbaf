# SPDX-License-Identifier: Apache-2.0
"""Limits as people write them: bytes or a share of the activations' peak, seconds or a multiple of the plain step."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from ..problem import Limits, Problem
from ..replay import Replayed, replay
from ..schedule import keep_everything

ROOMY = 1 << 62
"""A budget that nothing exceeds."""
UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def plain_step(problem: Problem) -> Replayed:
    """What the step comes to when every op runs once and everything is kept until its last use."""
    return replay(replace(problem, limits=Limits(ROOMY)), keep_everything(problem.graph))


def limits_of(problem: Problem, budget: str, deadline: str | None = None, quota: str | None = None) -> Limits:
    """The limits for a step; `50%` is a share of its activations' peak on top of what is fixed, `1.3x` of its time.

    Raises `ValueError` naming what cannot be read.
    """
    plain = plain_step(problem)
    fixed_bytes = plain.peak_bytes - plain.activation_peak_bytes
    share = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", budget.strip())
    if share:
        budget_bytes = fixed_bytes + math.floor(plain.activation_peak_bytes * float(share[1]) / 100)
    else:
        budget_bytes = bytes_of(budget)
    deadline_s = None if deadline is None else seconds_of(deadline, plain.step_time_s)
    return Limits(budget_bytes, deadline_s, None if quota is None else bytes_of(quota))


def bytes_of(text: str) -> int:
    """`64MiB`, `200 MB` or `3000000` in bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if not found or found[2] not in UNITS:
        raise ValueError(f"{text!r} is not a number of bytes (units: {', '.join(filter(None, UNITS))})")
    return math.floor(float(found[1]) * UNITS[found[2]])


def seconds_of(text: str, plain_s: float) -> float:
    """`0.25` seconds, or `1.3x` of the plain step."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(x?)", text.strip())
    if not found:
        raise ValueError(f"{text!r} is neither seconds nor a multiple such as 1.3x")
    return float(found[1]) * (plain_s if found[2] else 1.0)
