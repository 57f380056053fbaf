# SPDX-License-Identifier: Apache-2.0
"""The judge of every schedule: walks it entry by entry, knows no solver, and is trusted more than any of them.

Under `real` the processor and one storage channel each do one thing at a time, in the order of the list. Neither waits
for the other, but an op for what it reads, and for unfinished writes when their RAM is what it lacks: planned bytes
must fit the budget at every entry whatever the timing, so a late write costs time and never memory. Under `poet`
transfers take no time, no op has a workspace, and the deadline counts computing alone, as in POET's program.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from .errors import ScheduleInvalid
from .problem import Problem
from .schedule import Entry, Schedule, begins_on_storage


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a schedule costs: joules and seconds of the step, bytes of RAM at most and after each entry.

    `overhead_j`: above every op once and nothing else. `carried_bytes`: carried storages that never leave RAM;
    `activation_peak_bytes` is the peak without them. `stored_bytes`: all that is ever on storage.
    """

    energy_j: float
    overhead_j: float
    compute_s: float
    step_time_s: float
    channel_s: float
    peak_bytes: int
    activation_peak_bytes: int
    stored_bytes: int
    planned_bytes: tuple[int, ...]
    starts_s: tuple[float, ...]
    """When each entry begins, transfers on the channel."""


def replay(problem: Problem, schedule: Schedule) -> Replayed:
    """Walk a schedule; raises `ScheduleInvalid` with the first entry that breaks a rule or a limit."""
    for position, entry in enumerate(schedule):
        of = len(problem.graph.ops) if entry.act == "C" else len(problem.graph.storages)
        if not 0 <= entry.number < of:
            raise ScheduleInvalid(position, str(entry), f"there are {of}")
    walk = _Walk(problem, schedule)
    for position, entry in enumerate(schedule):
        walk.step(position, entry)
    return walk.finish()


class _Walk:
    """The state between two entries."""

    def __init__(self, problem: Problem, schedule: Schedule) -> None:
        self.problem, self.graph = problem, problem.graph
        self.timed = problem.semantics == "real"
        self.length = len(schedule)
        self.began = begins_on_storage(self.graph, schedule)
        self.resident = {number for number in self.graph.carried if number not in self.began}
        self.stored = set(self.began)
        self.ever_stored = set(self.began)
        self.updated: set[int] = set()
        self.computed: set[int] = set()
        self.paged = {entry.number for entry in schedule if entry.act in "OI"}
        self.bytes = sum(self.size(number) for number in self.resident)
        self.peak = self.bytes
        self.ready_s: dict[int, float] = {}
        """When a read that was begun ends."""
        self.written_s: dict[int, float] = {}
        """When the last write of a storage ends."""
        self.leaving: deque[tuple[float, int]] = deque()
        """Freed before their write ends: when that is, and bytes."""
        self.processor_s = self.channel_s = self.busy_s = 0.0
        self.joules: list[float] = []
        self.compute: list[float] = []
        self.planned: list[int] = []
        self.starts: list[float] = []

    def size(self, storage: int) -> int:
        return self.graph.storages[storage].size_bytes

    def step(self, position: int, entry: Entry) -> None:
        why = {"C": self._compute, "F": self._free, "O": self._write, "I": self._read}[entry.act](entry.number)
        if why:
            raise ScheduleInvalid(position, str(entry), why)
        self.planned.append(self.bytes)

    def finish(self) -> Replayed:
        """What it came to, or why the step is not done."""
        why = self._unfinished()
        if why:
            raise ScheduleInvalid(self.length, "the end", why)
        graph, costs = self.graph, self.problem.costs
        compute_s = math.fsum(self.compute)
        step_s = max(self.processor_s, self.channel_s) if self.timed else compute_s
        idle_j = costs.idle_w * max(0.0, step_s - compute_s) if self.timed else 0.0
        overhead_j = math.fsum([*self.joules, idle_j])
        deadline_s = self.problem.limits.deadline_s
        if deadline_s is not None and step_s > deadline_s * (1 + 1e-9):
            raise ScheduleInvalid(self.length, "the end", f"takes {step_s:.6g} s, more than {deadline_s:.6g} s")
        fixed = sum(self.size(number) for number in graph.carried if number not in self.paged)
        return Replayed(
            self.problem.base_energy_j + overhead_j,
            overhead_j,
            compute_s,
            step_s,
            self.busy_s,
            self.peak,
            self.peak - fixed,
            sum(self.size(number) for number in self.ever_stored),
            tuple(self.planned),
            tuple(self.starts),
        )

    def _unfinished(self) -> str:
        graph, quota = self.graph, self.problem.limits.quota_bytes
        if quota is not None and (begun := sum(map(self.size, self.began))) > quota:
            return f"{begun} bytes that begin on storage exceed its quota of {quota} bytes"
        for number, op in enumerate(graph.ops):
            if number not in self.computed:
                return f"{op.name} is never computed"
        for number, storage in enumerate(graph.storages):
            carried_in_ram = graph.producers[number] is None and number not in self.began
            if (storage.kept or carried_in_ram) and number not in self.resident:
                return f"{storage.name} is not in RAM"
        for number in sorted(self.began):
            if number in self.resident or number not in self.stored:
                return f"{graph.storages[number].name} does not lie on storage again"
        return ""

    def _compute(self, number: int) -> str:
        op, costs = self.graph.ops[number], self.problem.costs
        again = number in self.computed
        if again and not op.again:
            return f"{op.name} may not be computed again"
        for storage in (*op.inputs, *op.updates):
            if storage not in self.resident:
                return f"{op.name} needs {self.graph.storages[storage].name}, which is not in RAM"
            if storage in self.updated:
                return f"{op.name} would read {self.graph.storages[storage].name} after its update"
        if not again and number and number - 1 not in self.computed:
            return f"{op.name} comes before {self.graph.ops[number - 1].name}, out of order"
        # Outputs that are still in RAM are made once more, and the copy is dropped.
        meanwhile = sum(self.size(storage) for storage in op.outputs)
        meanwhile += costs.workspace_bytes[number] if self.timed else 0
        if self.bytes + meanwhile > self.problem.limits.budget_bytes:
            return f"{op.name} brings RAM to {self.bytes + meanwhile} of {self.problem.limits.budget_bytes} bytes"
        needed_s = max((self.ready_s.get(storage, 0.0) for storage in (*op.inputs, *op.updates)), default=0.0)
        # An update must not change what is still being written.
        needed_s = max([needed_s, *(self.written_s.get(storage, 0.0) for storage in op.updates)])
        start_s = self._room_at(max(self.processor_s, needed_s), self.bytes + meanwhile)
        self.peak = max(self.peak, self.bytes + meanwhile + sum(size for _, size in self.leaving))
        self.processor_s = start_s + costs.time_s[number]
        self.compute.append(costs.time_s[number])
        if again:
            self.joules.append(costs.energy_j[number])
        made = set(op.outputs) - self.resident
        self.resident |= made
        self.bytes += sum(self.size(storage) for storage in made)
        self.stored -= set(op.updates)
        self.updated |= set(op.updates)
        self.computed.add(number)
        self.starts.append(start_s)
        return ""

    def _room_at(self, now_s: float, wanted: int) -> float:
        """The first moment from `now_s` on when unfinished writes leave room for so many bytes."""
        while self.leaving:
            end_s, _ = self.leaving[0]
            if end_s > now_s:
                if wanted + sum(size for _, size in self.leaving) <= self.problem.limits.budget_bytes:
                    break
                now_s = end_s
            self.leaving.popleft()
        return now_s

    def _free(self, storage: int) -> str:
        if storage not in self.resident:
            return f"{self.graph.storages[storage].name} is not in RAM"
        carried = self.graph.producers[storage] is None
        if carried and storage not in self.stored:
            return f"{self.graph.storages[storage].name} would be lost"
        self.resident.remove(storage)
        self.bytes -= self.size(storage)
        # A read that nobody waited for holds its buffer until it ends.
        end_s = max(self.written_s.get(storage, 0.0), self.ready_s.pop(storage, 0.0))
        if end_s > self.processor_s:
            self.leaving.append((end_s, self.size(storage)))
            self.leaving = deque(sorted(self.leaving))
        self.starts.append(self.processor_s)
        return ""

    def _write(self, storage: int) -> str:
        found = self.graph.storages[storage]
        if storage not in self.resident:
            return f"{found.name} is not in RAM"
        if not found.pageable:
            return f"{found.name} may not be paged"
        if storage in self.stored:
            return f"{found.name} is on storage already"
        self.stored.add(storage)
        self.ever_stored.add(storage)
        quota = self.problem.limits.quota_bytes
        if quota is not None and sum(self.size(number) for number in self.ever_stored) > quota:
            return f"{found.name} brings storage over its quota of {quota} bytes"
        costs = self.problem.costs
        self.joules.append(costs.write_j[storage])
        self.written_s[storage] = self._transfer(costs.write_s[storage], self.ready_s.get(storage, 0.0))
        return ""

    def _read(self, storage: int) -> str:
        found = self.graph.storages[storage]
        if storage in self.resident:
            return f"{found.name} is in RAM"
        if storage not in self.stored:
            return f"{found.name} is not on storage"
        if not found.pageable:
            return f"{found.name} may not be paged"
        if self.bytes + found.size_bytes > self.problem.limits.budget_bytes:
            total = self.bytes + found.size_bytes
            return f"reading {found.name} brings RAM to {total} of {self.problem.limits.budget_bytes} bytes"
        costs = self.problem.costs
        self.joules.append(costs.read_j[storage])
        self.ready_s[storage] = self._transfer(costs.read_s[storage], self.written_s.get(storage, 0.0))
        self.resident.add(storage)
        self.bytes += found.size_bytes
        self.peak = max(self.peak, self.bytes)
        return ""

    def _transfer(self, seconds: float, not_before_s: float) -> float:
        """When a transfer begun now ends."""
        if not self.timed:
            self.starts.append(0.0)
            return 0.0
        start_s = max(self.channel_s, self.processor_s, not_before_s)
        self.starts.append(start_s)
        self.channel_s = start_s + seconds
        self.busy_s += seconds
        return self.channel_s
