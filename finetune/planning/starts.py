# SPDX-License-Identifier: Apache-2.0
"""Where searches begin."""

from __future__ import annotations

import numpy as np

from .gaps import DROP, KEEP, PAGE, Arrays, Gaps, Ints


def starts(arrays: Arrays, gaps: Gaps, run: int) -> Ints:
    """Long gaps dropped or paged, whichever is cheaper by itself, and the others kept."""
    choice = np.full(len(gaps.storage), KEEP, dtype=np.int64)
    ops = len(arrays.energy_j) - 1
    long = 4 if run % 2 == 0 else ops // 10
    for row, storage in enumerate(gaps.storage):
        producer = arrays.producer[storage]
        page_j = arrays.read_j[storage] + arrays.write_j[storage]
        wanted = DROP if gaps.ends[row] == ops or arrays.energy_j[producer] < page_j else PAGE
        if producer >= 0 and gaps.ends[row] - gaps.begins[row] > long and wanted in gaps.allowed[row]:
            choice[row] = wanted
    return choice
