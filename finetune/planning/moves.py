# SPDX-License-Identifier: Apache-2.0
"""Small changes to choices, and their undoing."""

from __future__ import annotations

from .chance import State, below
from .compiled import compiled
from .gaps import KEEP, Gaps, Ints

MOST = 8
"""Gaps that one move changes at most."""


@compiled
def move(gaps: Gaps, choice: Ints, chance: State, rows: Ints, before: Ints) -> int:
    """Change some choices; writes which gaps and what they were, and returns how many."""
    count = len(choice)
    kind = below(chance, 10)
    first = below(chance, count)
    if kind < 5:
        return _change(gaps, choice, first, _any(gaps, chance, first), rows, before, 0)
    if kind < 8:
        done = _change(gaps, choice, first, _toggled(gaps, choice, chance, first), rows, before, 0)
        near = max(0, min(count - 1, first + below(chance, 17) - 8))
        other = near if kind < 7 else below(chance, count)
        return _change(gaps, choice, other, _toggled(gaps, choice, chance, other), rows, before, done)
    if kind < 9:
        done, wanted = 0, _any(gaps, chance, first)
        for row in range(first, min(count, first + 2 + below(chance, 4))):
            if wanted in gaps.allowed[row]:
                done = _change(gaps, choice, row, wanted, rows, before, done)
        return done
    other = max(0, min(count - 1, first + below(chance, 9) - 4))
    one, two = choice[first], choice[other]
    if two not in gaps.allowed[first] or one not in gaps.allowed[other]:
        return 0
    done = _change(gaps, choice, first, two, rows, before, 0)
    return _change(gaps, choice, other, one, rows, before, done)


@compiled
def undo(choice: Ints, rows: Ints, before: Ints, done: int) -> None:
    """Take the last move back."""
    for turn in range(done - 1, -1, -1):
        choice[rows[turn]] = before[turn]


@compiled
def _change(gaps: Gaps, choice: Ints, row: int, wanted: int, rows: Ints, before: Ints, done: int) -> int:
    if choice[row] == wanted:
        return done
    rows[done], before[done] = row, choice[row]
    choice[row] = wanted
    return done + 1


@compiled
def _any(gaps: Gaps, chance: State, row: int) -> int:
    return int(gaps.allowed[row, below(chance, gaps.choices[row])])


@compiled
def _toggled(gaps: Gaps, choice: Ints, chance: State, row: int) -> int:
    """KEEP where it is not, and anything else where it is."""
    if choice[row] != KEEP:
        return KEEP
    return int(gaps.allowed[row, 1 + below(chance, gaps.choices[row] - 1)])
