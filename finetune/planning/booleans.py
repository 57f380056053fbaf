# SPDX-License-Identifier: Apache-2.0
"""A minimisation over booleans under clauses and linear rows, for any solver: all costs, sizes and limits are whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

ALWAYS = 0
"""The literal that is true; literal v + 1 is variable v, and -(v + 1) its negation."""


MOST = 2**40
"""Units that one cost counts at most: far above any cap, and sums of them fit 64 bits."""


class Name(NamedTuple):
    """What a variable decides: `S` storage and the stage its stay begins after, `R` op and stage, and so on."""

    letter: str
    number: int
    stage: int


class Row(NamedTuple):
    """Sum of coefficient x variable <= limit."""

    terms: tuple[tuple[int, int], ...]
    limit: int


@dataclass(slots=True)
class Model:
    """A minimisation over booleans. `costs` are whole `unit_j`, each rounded down, so that its optimum is a bound."""

    unit_j: float
    names: list[Name] = field(default_factory=list)
    costs: list[int] = field(default_factory=list)
    clauses: list[tuple[int, ...]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    index: dict[Name, int] = field(default_factory=dict)
    infeasible: str = ""

    def add(self, name: Name, cost_j: float) -> None:
        self.index[name] = len(self.names)
        self.names.append(name)
        self.costs.append(math.floor(min(cost_j / self.unit_j, MOST) * (1 - 1e-12)))

    def at_most(self, terms: Sequence[tuple[int, int]], limit: int, when: int = ALWAYS) -> None:
        """Sum of the terms, none of them negative, <= limit where the literal `when` is true."""
        most = sum(value for value, _ in terms)
        if limit < 0:
            self.clause((), [when])
        elif most > limit and when == ALWAYS:
            self.rows.append(Row(tuple(terms), limit))
        elif most > limit:
            # Where it is false anything may be.
            self.rows.append(Row((*terms, (most - limit, when - 1)), most))

    def clause(self, positive: Iterable[int | None], negative: Iterable[int | None] = ()) -> None:
        """At least one of `positive` true or one of `negative` false; None stands for false, ALWAYS for true."""
        literals: list[int] = []
        for literal in positive:
            if literal == ALWAYS:
                return
            if literal is not None:
                literals.append(literal)
        for literal in negative:
            if literal is None:
                return
            if literal != ALWAYS:
                literals.append(-literal)
        self.clauses.append(tuple(dict.fromkeys(literals)))
