# SPDX-License-Identifier: Apache-2.0
"""How good choices are: joules above the base, plus what they lack to keep the limits."""

from __future__ import annotations

import numpy as np

from .compiled import compiled
from .decode import Work, decode
from .gaps import Arrays, Gaps, Ints


@compiled
def score(arrays: Arrays, gaps: Gaps, choice: Ints, work: Work) -> tuple[float, float]:
    """What to make small, and the overhead in joules when every limit holds (else infinite)."""
    _, overhead_j, again_s, peak, above, stored_bytes, lost = decode(arrays, gaps, choice, work)
    time_s = arrays.base_s + again_s
    unit = arrays.base_j / len(arrays.energy_j)
    missed = 1000.0 * unit * lost
    if peak > arrays.budget:
        missed += unit * (4.0 * above / arrays.budget + 20.0 + 200.0 * (peak - arrays.budget) / arrays.budget)
    if time_s > arrays.deadline_s:
        missed += 400.0 * unit * (0.02 + (time_s - arrays.deadline_s) / arrays.deadline_s)
    if stored_bytes > arrays.quota:
        missed += unit * (20.0 + 200.0 * (stored_bytes - arrays.quota) / (arrays.quota + 1.0))
    return overhead_j + missed, overhead_j if missed == 0.0 else np.inf
