# SPDX-License-Identifier: Apache-2.0
"""Where searches begin: a greedy choice of gaps, the most bytes over the budget per joule first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .decode import Work, decode
from .gaps import DROP, KEEP, PAGE, PAGE_LAZILY, Arrays, Floats, Gaps, Ints

PASSES = 40


def greedy(arrays: Arrays, gaps: Gaps, work: Work) -> Ints:
    """Choices that bring RAM down to the budget, or near it.

    What a choice costs is reckoned by itself; what it comes to together with the others is decoded after each pass.
    """
    choice = np.full(len(gaps.storage), KEEP, dtype=np.int64)
    wanted, cost_j = _cheapest(arrays, gaps)
    for _ in range(PASSES):
        over = _over(arrays, gaps, choice, work)
        if not over.any():
            break
        picked = _pick(arrays, gaps, over, np.where((choice == KEEP) & (wanted != KEEP), cost_j, np.inf))
        if not len(picked):
            break
        choice[picked] = wanted[picked]
    return choice


def _cheapest(arrays: Arrays, gaps: Gaps) -> tuple[Ints, Floats]:
    """For each gap what costs least by itself, and its joules."""
    storage = gaps.storage
    page_j = arrays.read_j[storage] + arrays.write_j[storage]
    producer = arrays.producer[storage]
    drop_j = np.where(gaps.ends == len(arrays.energy_j) - 1, 0.0, arrays.energy_j[producer])
    may_drop = (gaps.allowed == DROP).any(axis=1)
    paged = np.where((gaps.allowed == PAGE).any(axis=1), PAGE, KEEP)
    paged = np.where(gaps.ends <= gaps.begins, PAGE_LAZILY, paged)
    drops = may_drop & ((drop_j <= page_j) | (paged == KEEP))
    return np.where(drops, DROP, paged), np.where(drops, drop_j, page_j)


def _over(arrays: Arrays, gaps: Gaps, choice: Ints, work: Work) -> Floats:
    """Bytes above the budget in each stage at worst."""
    outcome = decode(arrays, gaps, choice, work)
    ops = len(arrays.energy_j) - 1
    ends = work.position[:ops]
    starts = np.concatenate(([0], ends[:-1] + 1))
    at = np.maximum.reduceat(work.bytes_at[: outcome.entries], starts) if outcome.lost == 0 else np.zeros(ops)
    return np.maximum(0.0, at - arrays.budget)


def _pick(arrays: Arrays, gaps: Gaps, over: Floats, cost_j: Floats) -> NDArray[np.intp]:
    """Gaps to open until nothing is over, as far as their bytes tell."""
    size = arrays.size[gaps.storage].astype(np.float64)
    wraps = gaps.ends <= gaps.begins
    left, picked = over.copy(), []
    cost_j = np.maximum(cost_j, 1e-12 * arrays.base_j)
    while len(size) and left.any():
        until = np.concatenate(([0.0], np.cumsum(left > 0)))
        inside = until[gaps.ends] - until[np.minimum(gaps.begins + 1, len(left))] + wraps * until[-1]
        worth = size * np.maximum(0.0, inside) / cost_j
        best = int(np.argmax(worth))
        if worth[best] <= 0.0:
            break
        picked.append(best)
        cost_j[best] = np.inf
        begins, ends = int(gaps.begins[best]) + 1, int(gaps.ends[best])
        spans = [slice(begins, None), slice(0, ends)] if wraps[best] else [slice(begins, ends)]
        for span in spans:
            left[span] = np.maximum(0.0, left[span] - size[best])
    return np.array(picked, dtype=np.intp)
