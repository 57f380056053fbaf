# SPDX-License-Identifier: Apache-2.0
"""RAM while an op runs again inside a stage, counted for every order in which the stage may do its work.

At such a moment each other recomputation and read of the stage comes before or after it, which is a question of its own
(`P`, `Y`). A storage lies in RAM then (`H`) if it came before and is wanted after: what these rows ask of an answer,
every schedule fulfils. It may also leave and come back within the stage (`L`), and if it had come in the same way
before, at that price once more (`B`). The program must let storages come and go in every stage.
"""

from __future__ import annotations

from dataclasses import dataclass

from .booleans import ALWAYS, Name
from .model import StageEnd


@dataclass(frozen=True, slots=True)
class Moment:
    """An op that runs again in a stage; `stage` ends with the first run of the op of that number."""

    stage: int
    op: int


def count_at(program: StageEnd, moment: Moment) -> None:
    """Add the rows of a moment; none if the program does not let the op run there."""
    runs = program.literal("R", moment.op, moment.stage)
    if runs is not None:
        _Counted(program, moment, runs).rows()


class _Counted:
    """The rows of one moment."""

    def __init__(self, program: StageEnd, moment: Moment, runs: int) -> None:
        self.runs = runs
        self.program, self.model, self.graph = program, program.model, program.graph
        self.stage, self.op = moment.stage, moment.op
        self.key = moment.stage * (program.end + 1) + moment.op
        self.earlier = {
            other: self._before("P", other, program.literal("R", other, moment.stage))
            for other in range(moment.stage)
            if other != moment.op and program.literal("R", other, moment.stage) is not None
        }
        """Whether each op that runs again in the stage does so before the moment."""
        self.read = {
            storage: self._before("Y", storage, program.literal("I", storage, moment.stage))
            for storage in program.stages.paged
            if program.literal("I", storage, moment.stage) is not None
        }
        """The same for reads."""

    def rows(self) -> None:
        """All that must hold."""
        for storage in self.graph.ops[self.op].inputs:
            self.model.clause(self._came(storage), [self.runs])
        for other, before in self.earlier.items():
            for storage in self.graph.ops[other].inputs:
                self.model.clause(self._came(storage), [self._again(other), before])
        around = {*self.graph.ops[self.op].inputs, *self.graph.ops[self.op].outputs}
        terms = []
        for storage in range(len(self.graph.storages)):
            if storage not in around and storage not in self.program.stages.fixed and self.program.size(storage):
                held = self._held(storage)
                terms += [] if held is None else [(self.program.size(storage), held - 1)]
        self.model.at_most(terms, self.program.budget - occupied(self.program, self.op), self.runs)

    def _new(self, letter: str, number: int, cost_j: float = 0.0) -> int:
        """The literal of a new variable of this moment."""
        self.model.add(Name(letter, number, -1 - self.key), cost_j)
        return len(self.model.names)

    def _before(self, letter: str, number: int, done: int | None) -> int:
        """The literal "is done in the stage, before the moment"."""
        before = self._new(letter, number)
        self.model.clause([done], [before])
        return before

    def _again(self, op: int) -> int | None:
        return self.program.literal("R", op, self.stage)

    def _came(self, storage: int) -> list[int | None]:
        """Literals of which one is true if the storage has been in RAM by then."""
        found = [self.program.stay(storage, self.stage), self.read.get(storage), self.earlier.get(self._maker(storage))]
        return [ALWAYS] if storage in self.program.stages.fixed else found

    def _maker(self, storage: int) -> int:
        return self.program.made[storage]

    def _held(self, storage: int) -> int | None:
        """The variable "in RAM then", None where it cannot be."""
        wanted = (
            ALWAYS if storage in self.program.stages.needs[self.stage] else self.program.stay(storage, self.stage + 1)
        )
        users = [user for user in self.graph.users[storage] if user in self.earlier]
        maker, stayed = self._maker(storage), self.program.stay(storage, self.stage)
        ways: list[tuple[int | None, int]] = []
        if storage in self.read:
            ways.append((self.program.literal("I", storage, self.stage), self.read[storage]))
        if maker in self.earlier:
            ways.append((self._again(maker), self.earlier[maker]))
        if (wanted is None and not users) or (stayed is None and not ways):
            return None
        held, later = self._new("H", storage), [self._later(storage, *way) for way in ways]
        came: list[tuple[list[int | None], list[int | None]]] = [([stayed], [*later])]
        came += [
            ([*way], [*later[:place], *later[place + 1 :], self._twice(storage)]) for place, way in enumerate(ways)
        ]
        for before, excuses in came:
            self.model.clause([held, *excuses], [*before, wanted])
            for user in users:
                self.model.clause([held, *excuses, self.earlier[user]], [*before, self._again(user)])
        return held

    def _later(self, storage: int, done: int | None, before: int) -> int:
        """The literal "is brought in this way in the stage, after the moment"."""
        later = self._new("L", storage)
        self.model.clause([done], [later])
        self.model.clause([], [later, before])
        return later

    def _twice(self, storage: int) -> int:
        """The literal "is brought into RAM twice in this stage in the same way"."""
        name = Name("B", storage, self.stage)
        if name not in self.model.index:
            costs, maker = self.program.problem.costs, self._maker(storage)
            ways = [costs.read_j[storage]] * (storage in self.program.stages.paged)
            ways += [costs.energy_j[maker]] * (maker >= 0)
            self.model.add(name, min(ways, default=float("inf")))
        return self.model.index[name] + 1


def occupied(program: StageEnd, op: int) -> int:
    """What RAM holds in any case while the op runs."""
    found = program.graph.ops[op]
    fixed = sum(map(program.size, {*found.inputs, *found.outputs, *program.stages.fixed}))
    if program.problem.semantics == "real":
        fixed += program.problem.costs.workspace_bytes[op] // program.grain
    return fixed
