# SPDX-License-Identifier: Apache-2.0
"""Dynamic programming over a chain, after rotor (Beaumont et al., 2019) and POFO (NeurIPS 2021).

`best[s][t][m]`: the least cost of the forward and backward pass of blocks s to t in m units of RAM, what enters s being
there from the start. Either block s runs and saves its record, or the pass runs on to some block k without saving, k to
t are solved first, and s to k-1 after them from what entered s. Meanwhile that storage, the record or both may lie on
storage, for the price of a write and a read. On a chain of single layers nothing that keeps what it once saved is
cheaper; on other graphs blocks stand for layers, and inside a block all is saved or nothing.

The programme's own idea of RAM is coarse, so it is solved for every budget up to a tenth more than there is, and the
cheapest answer counts whose schedule the judge accepts. POFO minimises time; where joules are counted, so does this.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from finetune.problem import Problem
from finetune.replay import replay
from finetune.schedule import Entry, Schedule, with_frees

from .chains import Block, blocks, pinned
from .lowering import NoSchedule, bring_back, judged, saved

By = Literal["energy", "time"]
UNITS = 300
BEYOND = 1.1
CHANNEL_SHARES = (0.0, 0.1, 0.3, 1.0)
"""Of a transfer's seconds, how much the programme takes for exposed: it does not see what computing hides."""
Costs = npt.NDArray[np.float64]


def pofo(problem: Problem, by: By = "energy") -> Schedule:
    """The schedule with the least overhead, or with the shortest step, that the judge accepts; `NoSchedule` if none."""
    chain = blocks(problem)
    shares = CHANNEL_SHARES if by == "time" else (1.0,)
    best: tuple[float, Schedule] | None = None
    for share in shares:
        solved = _Solved(problem, chain, by, share)
        found = solved.accepted()
        if found is not None:
            replayed = replay(problem, found)
            figure = replayed.step_time_s if by == "time" else replayed.overhead_j
            if best is None or figure < best[0]:
                best = (figure, found)
    if best is None:
        raise NoSchedule("no budget of the dynamic programme gives a schedule that fits")
    return best[1]


@dataclass(frozen=True, slots=True)
class _Step:
    """What to do with block s: run on without saving to block `on` if there is one; what lies on storage meanwhile."""

    on: int | None
    page_input: bool
    page_record: bool


class _Solved:
    """The programme's table, and the schedules read from it."""

    def __init__(self, problem: Problem, chain: list[Block], by: By, channel_share: float) -> None:
        self.problem, self.chain = problem, chain
        graph, costs = problem.graph, problem.costs
        carried = sum(graph.storages[number].size_bytes for number in graph.carried)
        carried += sum(graph.storages[number].size_bytes for number in pinned(problem))
        free = problem.limits.budget_bytes - carried
        if free <= 0:
            raise NoSchedule("what must stay in RAM exceeds the budget")
        # what is small beside what is planned needs no unit of its own size
        self.unit = free / UNITS
        self.levels = int(UNITS * BEYOND) + 1
        spent = costs.energy_j if by == "energy" else costs.time_s
        write, read = (costs.write_j, costs.read_j) if by == "energy" else (costs.write_s, costs.read_s)
        self.forward = [math.fsum(spent[op] for op in range(block.first, block.last + 1)) for block in chain]
        price = [channel_share * (w + r) for w, r in zip(write, read, strict=True)]
        self.input_price = [0.0 if block.enters is None else price[block.enters] for block in chain]
        self.record_price = [math.fsum(price[s] for s in block.record) for block in chain]
        self.input_units = [self._units([block.enters] if block.enters is not None else []) for block in chain]
        self.record_units = [self._units(block.record) for block in chain]
        wanted = {gap.storage for gap in saved(graph)}
        self.input_saved = [block.enters in wanted for block in chain]
        self.best: dict[tuple[int, int], Costs] = {}
        self.steps: dict[tuple[int, int], tuple[npt.NDArray[Any], list[_Step]]] = {}
        for length in range(len(chain)):
            for s in range(len(chain) - length):
                self._solve(s, s + length)

    def _units(self, storages: Iterable[int]) -> int:
        return round(sum((self.problem.graph.storages[s].size_bytes for s in storages), 0) / self.unit)

    def _solve(self, s: int, t: int) -> None:
        """Fill `best[s, t]` for every level of RAM."""
        chain = self.chain
        gradient = self.input_units[t + 1] if t + 1 < len(chain) else 0
        saving = max(round(chain[s].saving_bytes / self.unit) + gradient, round(chain[s].backward_bytes / self.unit))
        rows: list[Costs] = []
        steps: list[_Step] = []
        if s == t:
            rows.append(self._from(saving, np.full(self.levels, self.forward[s])))
            steps.append(_Step(None, False, False))
        else:
            rest = self.best[s + 1, t]
            for page_input in (False, True):
                for page_record in (False, True):
                    step = _Step(None, page_input, page_record)
                    price = page_input * self.input_price[s] + page_record * self.record_price[s]
                    rows.append(self._from(saving, self._less(rest, self.held(s, step)) + self.forward[s] + price))
                    steps.append(step)
        run, most = 0.0, 0
        for k in range(s + 1, t + 1):
            run += self.forward[k - 1]
            kept = self.input_units[s] if k - 1 > s else 0
            most = max(most, round(chain[k - 1].plain_bytes / self.unit) + kept + gradient)
            for page_input in (False, True):
                step = _Step(k, page_input, False)
                right = self._less(self.best[k, t], self.held(s, step))
                rows.append(self._from(most, right + self.best[s, k - 1] + page_input * self.input_price[s] + run))
                steps.append(step)
        table = np.array(rows)
        chosen = table.argmin(0)
        self.best[s, t] = table[chosen, np.arange(self.levels)]
        self.steps[s, t] = (chosen, steps)

    def held(self, s: int, step: _Step) -> int:
        """Units that block s leaves in RAM: its record, and what entered if it is read or run again."""
        entered = 0 if step.page_input or (step.on is None and not self.input_saved[s]) else self.input_units[s]
        return entered + (0 if step.page_record or step.on is not None else self.record_units[s])

    @staticmethod
    def _less(row: Costs, units: int) -> Costs:
        """A row of costs with so many units taken away."""
        if not units:
            return row
        return np.concatenate([np.full(min(units, len(row)), np.inf), row[: max(0, len(row) - units)]])

    @staticmethod
    def _from(units: int, row: Costs) -> Costs:
        """A row of costs that needs so many units at least."""
        found = row.copy()
        found[: max(0, units)] = np.inf
        return found

    def accepted(self) -> Schedule | None:
        """The cheapest schedule of the table that the judge takes; equal answers are tried once."""
        row = self.best[0, len(self.chain) - 1]
        seen: set[float] = set()
        for level in range(self.levels - 1, -1, -1):
            if not math.isfinite(row[level]):
                return None
            if row[level] in seen:
                continue
            seen.add(row[level])
            try:
                return judged(self.problem, _Emission(self).schedule(level))
            except NoSchedule:
                continue
        return None


class _Emission:
    """Walks a solved table and writes down what is computed, written and read."""

    def __init__(self, solved: _Solved) -> None:
        self.solved, self.graph = solved, solved.problem.graph
        self.made: set[int] = set()
        self.resident: set[int] = set()
        self.stored: set[int] = set()
        self.pinned = pinned(solved.problem)
        self.computed: set[int] = set()
        self.entries: list[Entry] = []

    def schedule(self, level: int) -> Schedule:
        self.solve(0, len(self.solved.chain) - 1, level)
        return with_frees(self.graph, useful(self.graph, self.entries))

    def solve(self, s: int, t: int, level: int) -> None:
        solved, block = self.solved, self.solved.chain[s]
        chosen, steps = solved.steps[s, t]
        step = steps[chosen[level]]
        if step.on is None:
            self.forward(block)
            if s < t:
                away = [*([block.enters] if step.page_input else []), *(block.record if step.page_record else ())]
                self.page([number for number in away if number is not None])
                self.solve(s + 1, t, level - solved.held(s, step))
            self.backward(block)
            return
        enters = [block.enters] if block.enters is not None else []
        for number in range(s, step.on):
            self.forward(solved.chain[number])
            leads = solved.chain[number + 1].enters
            self.drop([*solved.chain[number].record, *self._outputs(solved.chain[number])], {leads, *enters})
            if number > s:
                self.drop([solved.chain[number].enters], set(enters))
            if number == s and step.page_input:
                self.page(enters)
        self.solve(step.on, t, level - solved.held(s, step))
        self.drop([solved.chain[step.on].enters], set())
        self.solve(s, step.on - 1, level)

    def _outputs(self, block: Block) -> list[int]:
        return [s for op in range(block.first, block.last + 1) for s in self.graph.ops[op].outputs]

    def forward(self, block: Block) -> None:
        for op in range(block.first, block.last + 1):
            if op not in self.computed or not self.resident.issuperset(self.graph.ops[op].outputs):
                self.run(op)

    def backward(self, block: Block) -> None:
        for op in block.backward:
            self.run(op)
        self.drop([*block.record, *self._outputs(block)], {block.enters})

    def run(self, op: int) -> None:
        found = self.graph.ops[op]
        absent = self.made - self.resident
        back = bring_back(self.graph, (*found.inputs, *found.updates), absent, self.stored)
        for entry in [*back, Entry("C", op)]:
            outputs = self.graph.ops[entry.number].outputs if entry.act == "C" else (entry.number,)
            self.made.update(outputs)
            self.resident.update(outputs)
            self.entries.append(entry)
        self.computed.add(op)

    def page(self, storages: list[int]) -> None:
        for storage in storages:
            if storage in self.resident and self.graph.storages[storage].pageable:
                if storage not in self.stored:
                    self.entries.append(Entry("O", storage))
                    self.stored.add(storage)
                self.resident.discard(storage)

    def drop(self, storages: list[Any], but: set[Any]) -> None:
        for storage in storages:
            if storage not in but and storage not in self.pinned:
                producer = self.graph.producers[storage] if storage is not None else None
                if producer is not None and (self.graph.ops[producer].again or storage in self.stored):
                    self.resident.discard(storage)


def useful(graph: Any, entries: list[Entry]) -> list[Entry]:
    """The entries without computations that are run again, and reads, whose result nobody uses."""
    first: dict[int, int] = {}
    for position, entry in enumerate(entries):
        if entry.act == "C":
            first.setdefault(entry.number, position)
    needed: set[int] = {number for number, storage in enumerate(graph.storages) if storage.kept}
    found = []
    for position in range(len(entries) - 1, -1, -1):
        entry = entries[position]
        outputs = graph.ops[entry.number].outputs if entry.act == "C" else (entry.number,)
        if entry.act == "C" and first[entry.number] != position and not needed.intersection(outputs):
            continue
        if entry.act == "I" and entry.number not in needed:
            continue
        if entry.act in "CI":
            needed.difference_update(outputs)
        needed.update(
            graph.ops[entry.number].inputs if entry.act == "C" else [entry.number] if entry.act == "O" else []
        )
        found.append(entry)
    return found[::-1]
