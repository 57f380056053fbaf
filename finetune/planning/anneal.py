# SPDX-License-Identifier: Apache-2.0
"""The fast planner: simulated annealing over one choice per gap.

Effort is counted in steps and chance comes from the seed alone, so a problem, a seed and a number of steps give one
schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from finetune.errors import ScheduleInvalid
from finetune.problem import Only, Problem
from finetune.replay import replay
from finetune.schedule import Entry, Schedule, with_frees

from .chance import State, chance_of, uniform
from .compiled import compiled
from .decode import COMPUTE, READ, Work, decode, work_for
from .gaps import Arrays, Floats, Gaps, Ints, arrays_of, gaps_of
from .moves import MOST, move, undo
from .score import score
from .starts import starts

RUNS = 4
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
    steps = default_steps(problem) if steps is None else steps
    unit = arrays.base_j / len(arrays.energy_j)
    best, best_j = np.zeros(len(gaps.storage), dtype=np.int64), math.inf
    for run in range(RUNS):
        choice = starts(arrays, gaps, run) if run % 3 == 0 or best_j == math.inf else best.copy()
        now, now_j = score(arrays, gaps, choice, work)
        if now_j < best_j:
            best, best_j = choice.copy(), now_j
        hot = unit if run % 3 == 0 else unit / 4
        found = np.array([now, best_j])
        length = max(1, steps // RUNS)
        for done in range(0, length, CHUNK):
            if until():
                break
            some = min(CHUNK, length - done)
            first, last = (0.002 ** (part / length) for part in (done, done + some))
            _search(arrays, gaps, choice, best, work, chance, found, some, hot * first, hot * last)
            if found[1] < best_j:
                best_j = float(found[1])
                progress(best_j)
    return None if best_j == math.inf else _accepted(problem, arrays, gaps, best, work)


def _accepted(problem: Problem, arrays: Arrays, gaps: Gaps, choice: Ints, work: Work) -> Schedule | None:
    entries = decode(arrays, gaps, choice, work).entries - 1
    acts = ["C" if act == COMPUTE else "I" if act == READ else "O" for act in work.act[:entries]]
    listed = [Entry(act, int(number)) for act, number in zip(acts, work.number[:entries], strict=True)]
    schedule = with_frees(problem.graph, listed)
    try:
        replay(problem, schedule)
    except ScheduleInvalid:
        return None
    return schedule


@compiled
def _search(
    arrays: Arrays,
    gaps: Gaps,
    choice: Ints,
    best: Ints,
    work: Work,
    chance: State,
    found: Floats,
    steps: int,
    hot: float,
    cold: float,
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
        new, new_j = score(arrays, gaps, choice, work)
        if new <= now or uniform(chance) < math.exp((now - new) / temperature):
            now = new
            if new_j < best_j:
                best_j = new_j
                best[:] = choice
        else:
            undo(choice, rows, before, done)
    found[0], found[1] = now, best_j
