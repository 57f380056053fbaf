# SPDX-License-Identifier: Apache-2.0
"""The stage-end program: booleans, clauses and linear rows that every schedule satisfies, for any solver.

After the stage-end model of Checkmate and POET, without their bytes per instant: RAM is counted only when a stage's own
op runs for the first time, so the optimum is a lower bound for every schedule in the fixed order. In the letters of the
papers: `S` a storage lies in RAM from one of its events to the next, `R` an op runs again in a stage, `I` a storage is
read in a stage, `O` it is ever written, `Z` it lies on storage when the step begins.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise

from ..problem import Problem
from .booleans import ALWAYS, MOST, Model, Name, Row
from .stages import Stages, channel_binds


class StageEnd:
    """Builds the program of a problem and answers which literal stands for what.

    `unhurried`: RAM is also counted while a write ends and a read begins beside computing, so that schedules stall
    little; its optimum is no bound.
    """

    def __init__(self, problem: Problem, stages: Stages, unit_j: float, *, unhurried: bool = False) -> None:
        self.problem, self.graph, self.stages = problem, problem.graph, stages
        self.model, self.unhurried = Model(unit_j), unhurried
        self.end = len(self.graph.ops)
        self.made = [-1 if producer is None else producer for producer in self.graph.producers]
        self.updated = {storage: number for number, op in enumerate(self.graph.ops) for storage in op.updates}
        self.grain = math.gcd(*(storage.size_bytes for storage in self.graph.storages), *self._workspace()) or 1
        self.edges = [(self.made[number], *events) for number, events in enumerate(stages.events)]
        self._loads()
        self._variables()
        self._clauses()
        self._gap_clauses()
        self.moving = self._moving() if unhurried else {}
        self._rows()

    def _workspace(self) -> tuple[int, ...]:
        return self.problem.costs.workspace_bytes if self.problem.semantics == "real" else (0,) * self.end

    def _kept(self, storage: int) -> bool:
        return self.graph.storages[storage].kept

    def size(self, storage: int) -> int:
        if storage in self.stages.tiny and not self.unhurried:
            return 0
        return self.graph.storages[storage].size_bytes // self.grain

    def stays(self, storage: int) -> list[tuple[int, int]]:
        """The stays (begin, end]: the stages at whose start the storage is in RAM or is not, all alike."""
        return list(pairwise(self.edges[storage]))

    def covered(self, storage: int, begin: int, end: int) -> range:
        """The stages whose memory a stay adds to; what a stage reads or makes is counted there in any case."""
        first = begin + 1 if begin < 0 or begin == self.made[storage] or storage in self.stages.needs[begin] else begin
        return range(max(first, 0), end)

    def _loads(self) -> None:
        """What each stage holds in any case, and which stages can exceed the budget at all."""
        workspace = self._workspace()
        fixed = sum(self.size(storage) for storage in self.stages.fixed)
        self.away = {number for number in self.stages.paged if self.made[number] < 0 and not self._kept(number)}
        """What may lie on storage when the step begins, and must then lie there when it ends."""
        self.load = [fixed + sum(map(self.size, needed)) for needed in self.stages.needs]
        self.load[self.end] -= sum(map(self.size, self.away))
        for number, op in enumerate(self.graph.ops):
            self.load[number] += sum(map(self.size, op.outputs)) + workspace[number] // self.grain
        self.budget = self.problem.limits.budget_bytes // self.grain
        self.most = list(self.load)
        for storage in range(len(self.graph.storages)):
            for begin, end in self.stays(storage) if storage not in self.stages.fixed else ():
                for stage in self.covered(storage, begin, end):
                    self.most[stage] += self.size(storage)
        self.most[self.end] += sum(map(self.size, self.away))
        self.tight = [most > self.budget for most in self.most]
        for stage, load in enumerate(self.load):
            if load > self.budget and not self.model.infeasible:
                name = self.graph.ops[stage].name if stage < self.end else "the end of the step"
                self.model.infeasible = f"{name} needs {load * self.grain} bytes"

    def _variables(self) -> None:
        costs, stages = self.problem.costs, self.stages
        for storage in range(len(self.graph.storages)):
            if storage in stages.fixed:
                continue
            for begin, end in self.stays(storage):
                if self._decided(storage, begin, end):
                    self.model.add(Name("S", storage, begin), 0.0)
        for number, again in enumerate(stages.again):
            for stage in again:
                if any(self.stay(storage, stage) != ALWAYS for storage in self.graph.ops[number].outputs):
                    self.model.add(Name("R", number, stage), costs.energy_j[number])
        for storage in sorted(stages.paged):
            reads = [stage for stage in stages.events[storage] if self.stay(storage, stage) != ALWAYS]
            for stage in reads:
                self.model.add(Name("I", storage, stage), costs.read_j[storage])
            phases = {self._phase(storage, stage) for stage in reads}
            if storage in self.away:
                self.model.add(Name("Z", storage, 0), 0.0)
                phases |= {1} if storage in self.updated else set()
            for phase in sorted(phases):
                self.model.add(Name("O", storage, phase), costs.write_j[storage])

    def _decided(self, storage: int, begin: int, end: int) -> bool:
        """Whether staying is a question: it is not where it costs nothing and the storage is there anyway."""
        if not self.size(storage) or storage in self.stages.tiny:
            return False
        if self.stages.every:
            return True
        if any(self.tight[stage] for stage in self.covered(storage, begin, end)):
            return True
        if begin < 0:
            return storage in self.away
        return begin != self.made[storage] and storage not in self.stages.needs[begin]

    def _phase(self, storage: int, stage: int) -> int:
        """0 before the storage's update, 1 after it: a copy of before is of no use after."""
        return int(stage > self.updated.get(storage, self.end))

    def literal(self, letter: str, number: int, stage: int) -> int | None:
        found = self.model.index.get(Name(letter, number, stage))
        return None if found is None else found + 1

    def stay(self, storage: int, stage: int) -> int | None:
        """The literal "in RAM when the stage begins"."""
        if storage in self.stages.fixed:
            return ALWAYS
        place = bisect_left(self.edges[storage], stage)
        if not 0 < place < len(self.edges[storage]):
            return None
        return self.literal("S", storage, self.edges[storage][place - 1]) or ALWAYS

    def there(self, storage: int, stage: int) -> list[int | None]:
        """The literals of which one must be true for the storage to be in RAM at some moment of the stage."""
        found = [self.stay(storage, stage), self.literal("I", storage, stage)]
        if self.made[storage] >= 0:
            found.append(self.literal("R", self.made[storage], stage))
        return found

    def _clauses(self) -> None:
        model, stages = self.model, self.stages
        for stage, needed in enumerate(stages.needs):
            for storage in sorted(needed):
                excused = self.literal("Z", storage, 0) if stage == self.end and self.made[storage] < 0 else None
                model.clause([*self.there(storage, stage), excused])
        for variable, name in enumerate(list(model.names)):
            if name.letter == "R":
                for storage in self.graph.ops[name.number].inputs:
                    model.clause(self.there(storage, name.stage), [variable + 1])
            elif name.letter == "I":
                phase = self._phase(name.number, name.stage)
                begun = self.literal("Z", name.number, 0) if phase == 0 else None
                model.clause([self.literal("O", name.number, phase), begun], [variable + 1])
            elif name.letter == "S" and name.stage > self.made[name.number]:
                model.clause(self.there(name.number, name.stage), [variable + 1])
            elif name.letter == "Z":
                model.clause((), [variable + 1, self.stay(name.number, 0)])
                # Only what is read is known to have lain there.
                reads = [self.literal("I", name.number, stage) for stage in self.stages.events[name.number]]
                model.clause(reads, [variable + 1])
                if name.number in self.updated:
                    model.clause([self.literal("O", name.number, 1)], [variable + 1])

    def _gap_clauses(self) -> None:
        """What is out of RAM between two uses by first executions comes back by the second, read or made again.

        Implied by the other clauses, and what makes the relaxation tight: without them it reads or makes a storage in
        many stages by a small share each.
        """
        for storage, made in enumerate(self.made):
            edges = self.edges[storage]
            begin = made
            for use in (stage for stage in edges[1:] if storage in self.stages.needs[stage]):
                if use == self.end and made < 0:
                    continue
                phase = self._phase(storage, use)
                back = [self.literal("O", storage, phase)]
                back.append(self.literal("Z", storage, 0) if phase == 0 else None)
                later = [stage for stage in edges if begin < stage <= use] if made >= 0 else []
                for place, stage in enumerate(later[:-1]):
                    again = [self.literal("R", made, one) for one in later[place:]]
                    self.model.clause([self.stay(storage, stage), *back, *again])
                begin = use

    def _rows(self) -> None:
        loads: list[list[tuple[int, int]]] = [[] for _ in self.load]
        free = [0] * len(self.load)
        for storage in range(len(self.graph.storages)):
            if storage in self.stages.fixed:
                continue
            for begin, end in self.stays(storage):
                variable = self.model.index.get(Name("S", storage, begin))
                for stage in self.covered(storage, begin, end):
                    if variable is None:
                        free[stage] += self.size(storage)
                    elif (storage, stage) in self.moving:
                        self.moving[storage, stage].append(variable + 1)
                    else:
                        loads[stage].append((self.size(storage), variable))
        for (storage, stage), literals in self.moving.items():
            self.model.add(Name("W", storage, stage), 0.0)
            occupied = len(self.model.names) - 1
            loads[stage].append((self.size(storage), occupied))
            for literal in literals:
                self.model.clause([occupied + 1], [literal])
        for storage in sorted(self.away):
            loads[self.end].append((-self.size(storage), self.model.index[Name("Z", storage, 0)]))
            free[self.end] += self.size(storage)
        for stage, terms in enumerate(loads):
            if self.tight[stage] and terms:
                self.model.rows.append(Row(tuple(terms), self.budget - self.load[stage] - free[stage]))
        self._time_row()
        self._quota_row()

    def _moving(self) -> dict[tuple[int, int], list[int]]:
        """The storages whose transfer takes longer than the stage beside it, by stage, and the transfers' literals."""
        costs = self.problem.costs
        found: dict[tuple[int, int], list[int]] = {}
        for variable, name in enumerate(self.model.names):
            storage = name.number
            if name.letter == "O" and (name.stage or self.made[storage] >= 0):
                start = self.updated[storage] if name.stage else self.made[storage]
                beside, left_s = range(start + 1, self.end), costs.write_s[storage]
            elif name.letter == "I":
                beside, left_s = range(name.stage - 1, self.made[storage], -1), costs.read_s[storage]
            else:
                continue
            for stage in beside:
                used = storage in self.stages.needs[stage]
                if left_s <= 0 or (used and name.letter == "I"):
                    break
                if self.tight[stage] and not used and self.stay(storage, stage + 1) != ALWAYS:
                    found.setdefault((storage, stage), []).append(variable + 1)
                left_s -= costs.time_s[stage]
            if left_s > 0:
                # There is nothing beside it to hide the rest.
                self.model.costs[variable] += math.floor(min(costs.idle_w * left_s / self.model.unit_j, MOST))
        return found

    def _time_row(self) -> None:
        """Computing, and under `real` the channel too, ends within the deadline."""
        deadline_s = self.problem.limits.deadline_s
        if deadline_s is None:
            return
        costs, unit_s = self.problem.costs, deadline_s / 2**30
        spare = math.floor((deadline_s * (1 + 1e-9) - self.problem.base_time_s) / unit_s * (1 + 1e-9)) + 1
        if spare < 0:
            self.model.infeasible = self.model.infeasible or f"computing alone takes {self.problem.base_time_s:.6g} s"
        again = [(costs.time_s[name.number], v) for v, name in enumerate(self.model.names) if name.letter == "R"]
        channel = [
            (costs.read_s[name.number] if name.letter == "I" else costs.write_s[name.number], v)
            for v, name in enumerate(self.model.names)
            if name.letter in "IO"
        ]
        rows = [(again, spare)]
        if channel_binds(self.problem):
            rows.append((channel, math.floor(2**30 * (1 + 2e-9)) + 1))
        for seconds, limit in rows:
            terms = tuple((math.floor(value / unit_s * (1 - 1e-12)), v) for value, v in seconds)
            terms = tuple((value, v) for value, v in terms if value)
            self.model.at_most(terms, limit)

    def _quota_row(self) -> None:
        """What is ever on storage fits its quota."""
        quota = self.problem.limits.quota_bytes
        if quota is None:
            return
        stored: dict[int, list[int]] = {}
        for variable, name in enumerate(self.model.names):
            if name.letter in "OZ":
                stored.setdefault(name.number, []).append(variable)
        terms = []
        for storage, variables in stored.items():
            occupied = variables[0]
            if len(variables) > 1:
                # Written twice, or there first and written, it occupies its place once.
                self.model.add(Name("Q", storage, 0), 0.0)
                occupied = len(self.model.names) - 1
                for variable in variables:
                    self.model.clause([occupied + 1], [variable + 1])
            terms.append((self.size(storage), occupied))
        self.model.at_most(terms, quota // self.grain)
