# SPDX-License-Identifier: Apache-2.0
"""The fast planner: simulated annealing over one choice per gap.

Effort is counted in steps and chance comes from the seed alone, so a problem, a seed and a number of steps give one
schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from finetune.accepted import accept
from finetune.problem import Only, Problem
from finetune.schedule import Entry, Schedule, with_frees

from .chance import State, chance_of, uniform
from .compiled import compiled
from .decode import ACTS, Work, decode, work_for
from .gaps import Arrays, Floats, Gaps, Ints, arrays_of, gaps_of
from .greedy import greedy
from .moves import MOST, move, undo
from .prefetch import Clock, clock_for, order_of, prefetch
from .score import score

RUNS = ((0.1, "fresh", 1.0), (0.3, "best", 1.0), (0.3, "fresh", 1.0), (0.3, "best", 0.25))
"""Share of the steps, where a run begins, and how hot."""
HOT, COLD = 0.1, 0.0002
"""The temperature falls from one share of the overhead at hand to the other."""
DEARER = 5.0
"""How prices rise after a run that kept no limit."""
CHUNK = 2000
"""Steps between two looks at the wall limit."""


def default_steps(problem: Problem) -> int:
    """Steps that cost about two seconds at 100 ops and ten at 1000."""
    return int(300_000 * min(1.0, (150 / max(1, len(problem.graph.ops))) ** 0.3))


def anneal(
    problem: Problem,
    *,
    seed: int = 0,
    steps: int | None = None,
    only: Only = "both",
    start: Schedule | None = None,
    until: Callable[[], bool] = lambda: False,
    progress: Callable[[float], None] = lambda overhead_j: None,
) -> Schedule | None:
    """The schedule of least overhead found that `replay` accepts, or None.

    Once `until()` is true the search ends with what it has. `progress` hears of each better overhead in joules.
    """
    arrays, gaps = arrays_of(problem), gaps_of(problem, only)
    work, chance = work_for(arrays, gaps), chance_of(seed)
    clock = clock_for(work)
    steps = default_steps(problem) if steps is None else steps
    best, best_j = greedy(arrays, gaps, work), math.inf
    price_j = decode(arrays, gaps, best, work).overhead_j or arrays.base_j
    for share, begin, heat in RUNS:
        choice = greedy(arrays, gaps, work) if begin == "fresh" else best.copy()
        now_j, limit_j = score(arrays, gaps, choice, work, clock, price_j)
        if limit_j < best_j:
            best, best_j = choice.copy(), limit_j
        found = np.array([now_j, best_j])
        length = max(1, int(share * steps))
        for done in range(0, length, CHUNK):
            if until() or found[1] == 0.0:
                break
            some = min(CHUNK, length - done)
            if found[1] < price_j:
                price_j = float(found[1])
                found[0], _ = score(arrays, gaps, choice, work, clock, price_j)
            hot_j, cold_j = (price_j * heat * HOT * (COLD / HOT) ** (part / length) for part in (done, done + some))
            _search(arrays, gaps, choice, best, work, clock, chance, found, some, hot_j, cold_j, price_j)
            if found[1] < best_j:
                best_j = float(found[1])
                progress(best_j)
        if best_j == math.inf:
            price_j *= DEARER
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
    found: Floats,
    steps: int,
    hot: float,
    cold: float,
    price_j: float,
) -> None:
    """Some steps from `hot` to `cold`; `found` holds the score of `choice` and the overhead of `best`, in joules."""
    rows, before = np.zeros(MOST, dtype=np.int64), np.zeros(MOST, dtype=np.int64)
    now, best_j = found[0], found[1]
    temperature, rate = hot, (cold / hot) ** (1.0 / steps)
    for _ in range(steps):
        temperature *= rate
        done = move(gaps, choice, chance, rows, before)
        if not done:
            continue
        new, new_j = score(arrays, gaps, choice, work, clock, price_j)
        if new <= now or uniform(chance) < math.exp((now - new) / temperature):
            now = new
            if new_j < best_j:
                best_j = new_j
                best[:] = choice
        else:
            undo(choice, rows, before, done)
    found[0], found[1] = now, best_j
