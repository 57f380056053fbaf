# SPDX-License-Identifier: Apache-2.0
"""How good choices are: joules above the base, plus a price for each limit that they miss."""

from __future__ import annotations

import numpy as np

from .compiled import compiled
from .decode import Work, decode
from .gaps import Arrays, Gaps, Ints
from .prefetch import Clock, prefetch, step_seconds

MISSED, PEAK, AREA, LATE, FULL = 0.2, 10.0, 0.02, 20.0, 10.0
"""Prices in units of the overhead at hand: of any limit missed, and per budget, entry and budget, deadline and quota
by which it is missed. Low enough that a search may cross from one good plan to another through a bad one.
"""
IMPOSSIBLE = 1e6
TICK_S = 1e-9


@compiled
def score(arrays: Arrays, gaps: Gaps, choice: Ints, work: Work, clock: Clock, price_j: float) -> tuple[float, float]:
    """What to make small, and the overhead in joules when every limit holds (else infinite)."""
    entries, overhead_j, again_s, peak, above, stored_bytes, lost = decode(arrays, gaps, choice, work)
    time_s = arrays.base_s + again_s
    # Without idle power and a deadline nobody asks how long transfers take.
    if arrays.timed and not lost and (arrays.idle_w > 0.0 or arrays.deadline_s < np.inf):
        prefetch(arrays, work, clock, entries)
        step_s = step_seconds(arrays, work, clock, entries)
        overhead_j += arrays.idle_w * max(0.0, step_s - time_s)
        time_s = step_s
    missed = IMPOSSIBLE * lost
    if peak > arrays.budget:
        missed += MISSED + (AREA * above + PEAK * (peak - arrays.budget)) / (arrays.budget + 1.0)
    if time_s > arrays.deadline_s * (1.0 + 5e-10):
        missed += MISSED + LATE * (time_s - arrays.deadline_s) / (arrays.deadline_s + TICK_S)
    if stored_bytes > arrays.quota:
        missed += MISSED + FULL * (stored_bytes - arrays.quota) / (arrays.quota + 1.0)
    return overhead_j + price_j * missed, overhead_j if missed == 0.0 else np.inf
