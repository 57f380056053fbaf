# SPDX-License-Identifier: Apache-2.0
"""The fast planner: simulated annealing over one choice per gap.

Effort is counted in steps and chance comes from the seed alone, so a problem, a seed and a number of steps give one
schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..problem import Only, Problem
from ..schedule import Entry, Schedule, with_frees
from .accepted import accept
from .chance import State, chance_of, uniform
from .compiled import compiled
from .decode import ACTS, Work, decode, work_for
from .gaps import Arrays, Gaps, Ints, arrays_of, gaps_of
from .greedy import greedy
from .moves import MOST, move, undo
from .prefetch import Clock, clock_for, order_of, prefetch
from .score import score

RUNS = ((0.3, 1.0), (0.3, 4.0), (0.4, 1.0))
"""Share of the steps, and how hot. The first run begins with the greedy choice, the others with the best so far."""
HOT, COLD = 0.1, 0.0002
"""The temperature falls from one share of the overhead at hand to the other."""
DEARER = 1.1
"""How prices rise with each chunk of steps until a plan keeps every limit."""
CHUNK = 2000
"""Steps between two looks at the wall limit."""


def default_steps(problem: Problem) -> int:
    """Steps that cost about two seconds at any size up to some thousand ops."""
    return int(300_000 * min(1.0, (150 / max(1, len(problem.graph.ops))) ** 0.9))


def anneal(
    problem: Problem,
    *,
    seed: int = 0,
    steps: int | None = None,
    only: Only = "both",
    until: Callable[[], bool] = lambda: False,
    progress: Callable[[float], None] = lambda overhead_j: None,
) -> Schedule | None:
    """The schedule of least overhead found that `replay` accepts, or None.

    Once `until()` is true the search ends with what it has. `progress` hears of each better overhead in joules.
    """
    arrays, gaps = arrays_of(problem), gaps_of(problem, only)
    work, chance = work_for(arrays, gaps), chance_of(seed)
    clock = clock_for(arrays, work)
    steps = default_steps(problem) if steps is None else steps
    choice, best_j = greedy(arrays, gaps, work), math.inf
    best, dear = choice.copy(), 1.0
    scale_j = decode(arrays, gaps, choice, work).overhead_j or arrays.base_j or 1.0
    for share, heat in RUNS:
        if best_j < math.inf:
            choice[:] = best
        length = max(1, int(share * steps))
        for done in range(0, length, CHUNK):
            scale_j, dear = min(scale_j, best_j), dear * DEARER if best_j == math.inf else 1.0
            price_j = dear * scale_j
            now_j, sound_j = score(arrays, gaps, choice, work, clock, price_j)
            if sound_j < best_j:
                best[:], best_j = choice, sound_j
                scale_j = sound_j
            if until() or best_j == 0.0 or not len(choice):
                break
            some = min(CHUNK, length - done)
            hot_j, cold_j = (scale_j * heat * HOT * (COLD / HOT) ** (part / length) for part in (done, done + some))
            found_j = _search(
                arrays, gaps, choice, best, work, clock, chance, now_j, best_j, some, hot_j, cold_j, price_j
            )
            if found_j < best_j:
                best_j = found_j
                progress(best_j)
    return None if best_j == math.inf else _accepted(problem, arrays, gaps, best, work, clock)


def _accepted(problem: Problem, arrays: Arrays, gaps: Gaps, choice: Ints, work: Work, clock: Clock) -> Schedule | None:
    """The schedule that follows from the choices, if the judges accept it."""
    entries = decode(arrays, gaps, choice, work).entries
    order: Sequence[int] = range(entries)
    if arrays.timed:
        prefetch(arrays, work, clock, entries)
        order = order_of(work, clock, entries)
    # The last entry stands for the end of the step.
    listed = [Entry(ACTS[work.act[entry]], int(work.number[entry])) for entry in order if entry < entries - 1]
    schedule = with_frees(problem.graph, listed)
    return schedule if accept(problem, schedule) else None


@compiled
def _search(
    arrays: Arrays,
    gaps: Gaps,
    choice: Ints,
    best: Ints,
    work: Work,
    clock: Clock,
    chance: State,
    now_j: float,
    best_j: float,
    steps: int,
    hot_j: float,
    cold_j: float,
    price_j: float,
) -> float:
    """Some steps from `hot_j` to `cold_j`, starting at the score `now_j`; the overhead of `best` after them."""
    rows, before = np.zeros(MOST, dtype=np.int64), np.zeros(MOST, dtype=np.int64)
    temperature_j, rate = hot_j, (cold_j / hot_j) ** (1.0 / steps)
    for _ in range(steps):
        temperature_j *= rate
        done = move(gaps, choice, chance, rows, before)
        if not done:
            continue
        new_j, sound_j = score(arrays, gaps, choice, work, clock, price_j)
        if new_j <= now_j or uniform(chance) < math.exp((now_j - new_j) / temperature_j):
            now_j = new_j
            if sound_j < best_j:
                best_j = sound_j
                best[:] = choice
        else:
            undo(choice, rows, before, done)
    return best_j
