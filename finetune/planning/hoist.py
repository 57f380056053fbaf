# SPDX-License-Identifier: Apache-2.0
"""Reads begun early enough to hide behind computing, where RAM has room, in a schedule that reads on demand."""

from __future__ import annotations

from ..problem import Problem
from ..schedule import Entry, Schedule, begins_on_storage
from .accepted import Accepted, accept

MARGINS = (1.0, 2.0, 5.0)
"""How much longer than itself a read is begun before its use: writes share the channel, so several are tried."""


def best_hoisted(problem: Problem, schedule: Schedule) -> Accepted | None:
    """The schedule as it is or with its reads hoisted, whichever has the least overhead of those accepted."""
    found = accept(problem, schedule)
    if problem.semantics == "poet" or all(entry.act != "I" for entry in schedule):
        return found
    for margin in MARGINS:
        tried = accept(problem, hoisted(problem, schedule, margin))
        if tried and (found is None or tried.replayed.overhead_j < found.replayed.overhead_j):
            found = tried
    return found


def hoisted(problem: Problem, schedule: Schedule, margin: float = 1.0) -> Schedule:
    """The same entries with each read moved up until its transfer, times `margin`, ends before its use.

    From the last read to the first, each no further than RAM allows, past no entry that names its storage and not ahead
    of an earlier read.
    """
    graph, costs, budget_bytes = problem.graph, problem.costs, problem.limits.budget_bytes
    bytes_at, reached_s = _walk(problem, schedule)
    begun: dict[int, list[Entry]] = {}
    needed_s: dict[int, float] = {}
    channel_s = float("inf")
    for place in range(len(schedule) - 1, -1, -1):
        entry = schedule[place]
        if entry.act == "C":
            for storage in (*graph.ops[entry.number].inputs, *graph.ops[entry.number].updates):
                needed_s[storage] = reached_s[place]
        if entry.act != "I":
            continue
        storage, size_bytes = entry.number, graph.storages[entry.number].size_bytes
        latest_s = min(channel_s, needed_s.get(storage, reached_s[-1])) - margin * costs.read_s[storage]
        begin = place
        while begin and reached_s[begin] > latest_s and bytes_at[begin - 1] + size_bytes <= budget_bytes:
            if schedule[begin - 1].act != "C" and schedule[begin - 1].number == storage:
                break
            if schedule[begin - 1].act == "C" and storage in graph.touched(schedule[begin - 1].number):
                break
            begin -= 1
            bytes_at[begin] += size_bytes
        channel_s = max(latest_s, reached_s[begin])
        begun.setdefault(begin, []).append(entry)
    found: list[Entry] = []
    for place, entry in enumerate(schedule):
        found += reversed(begun.get(place, ()))
        if entry.act != "I":
            found.append(entry)
    return tuple(found)


def bytes_along(problem: Problem, schedule: Schedule) -> list[int]:
    """Bytes in RAM while each entry runs, whatever the budget."""
    return _walk(problem, schedule)[0]


def _walk(problem: Problem, schedule: Schedule) -> tuple[list[int], list[float]]:
    """Bytes in RAM while each entry runs, and when the processor would reach it if it never waited."""
    graph, costs = problem.graph, problem.costs
    held = set(graph.carried) - begins_on_storage(graph, schedule)
    used = sum(graph.storages[storage].size_bytes for storage in held)
    now_s, bytes_at, reached_s = 0.0, [], []
    for entry in schedule:
        reached_s.append(now_s)
        made = graph.ops[entry.number].outputs if entry.act == "C" else (entry.number,) if entry.act == "I" else ()
        workspace = costs.workspace_bytes[entry.number] if entry.act == "C" else 0
        bytes_at.append(used + workspace + sum(graph.storages[storage].size_bytes for storage in made))
        used += sum(graph.storages[storage].size_bytes for storage in made if storage not in held)
        held.update(made)
        if entry.act == "F":
            held.remove(entry.number)
            used -= graph.storages[entry.number].size_bytes
        now_s += costs.time_s[entry.number] if entry.act == "C" else 0.0
    return bytes_at, reached_s
