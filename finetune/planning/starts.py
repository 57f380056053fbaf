# SPDX-License-Identifier: Apache-2.0
"""Where searches begin."""

from __future__ import annotations

import numpy as np

from .gaps import DROP, KEEP, PAGE, Arrays, Gaps, Ints

LONG = 5
"""Stages from which a gap counts as long."""


def starts(arrays: Arrays, gaps: Gaps) -> Ints:
    """Long gaps dropped or paged, whichever is cheaper by itself, and the others kept."""
    choice = np.full(len(gaps.storage), KEEP, dtype=np.int64)
    ops = len(arrays.energy_j) - 1
    for row, storage in enumerate(gaps.storage):
        producer = arrays.producer[storage]
        page_j = arrays.read_j[storage] + arrays.write_j[storage]
        wanted = DROP if gaps.ends[row] == ops or arrays.energy_j[producer] < page_j else PAGE
        if producer >= 0 and gaps.ends[row] - gaps.begins[row] >= LONG and wanted in gaps.allowed[row]:
            choice[row] = wanted
    return choice
