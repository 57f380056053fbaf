# SPDX-License-Identifier: Apache-2.0
"""Schedules with one edit that no rule allows, whatever the schedule was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from finetune.graph import Graph
from finetune.problem import Problem
from finetune.replay import Replayed, replay
from finetune.schedule import Entry, Schedule

Spoilt = tuple[str, Problem, Schedule]
"""What was done; the problem, tighter where that is what was done; the schedule."""


def spoilt(problem: Problem, schedule: Schedule, found: Replayed) -> Iterator[Spoilt]:
    """Every such edit of these kinds; `found` is what the schedule comes to as it is."""
    for at, entry in enumerate(schedule):
        edits = {"C": _computed, "F": _freed, "I": _read, "O": _written}[entry.act](problem.graph, schedule, at)
        yield from ((kind, problem, edited) for kind, edited in edits)
    yield from _limited(problem, schedule, found)


def _limited(problem: Problem, schedule: Schedule, found: Replayed) -> Iterator[Spoilt]:
    """The schedule as it was, under a limit that it breaks."""
    limits = problem.limits
    short = replace(problem, limits=replace(limits, budget_bytes=_needed_bytes(problem, schedule) - 1))
    yield "a byte too little", short, schedule
    late = replace(limits, deadline_s=0.999 * found.step_time_s)
    yield "too late", replace(problem, limits=late), schedule
    if found.stored_bytes:
        yield "over the quota", replace(problem, limits=replace(limits, quota_bytes=found.stored_bytes - 1)), schedule


def _needed_bytes(problem: Problem, schedule: Schedule) -> int:
    """The peak if nothing were ever late: RAM of writes that last can be waited for, and is no part of it."""
    none = (0.0,) * len(problem.graph.storages)
    return replay(replace(problem, costs=replace(problem.costs, write_s=none, read_s=none)), schedule).peak_bytes


def _computed(graph: Graph, schedule: Schedule, at: int) -> Iterator[tuple[str, Schedule]]:
    entry, before, after = schedule[at], schedule[:at], schedule[at + 1 :]
    op = graph.ops[entry.number]
    if Counter(schedule)[entry] == 1:
        yield "an op left out", before + after
    if not op.again:
        yield "an op again that may not be", (*schedule, entry)
    if any(storage in graph.ops[later.number].updates for later in after if later.act == "C" for storage in op.inputs):
        yield "an op again after what it reads was updated", (*schedule, entry)
    yield "an op that is not there", (*before, Entry("C", len(graph.ops)), *after)
    for storage in op.inputs:
        yield "an input freed before its use", (*before, Entry("F", storage), *schedule[at:])
    previous = Entry("C", entry.number - 1)
    if at and schedule[at - 1] == previous and entry not in before and previous not in schedule[: at - 1]:
        yield "ops in the wrong order", (*schedule[: at - 1], entry, previous, *after)


def _freed(graph: Graph, schedule: Schedule, at: int) -> Iterator[tuple[str, Schedule]]:
    yield "freed twice", (*schedule[:at], *schedule[at : at + 1], *schedule[at:])
    yield "a storage that is not there", (*schedule[:at], Entry("F", len(graph.storages)), *schedule[at:])


def _read(graph: Graph, schedule: Schedule, at: int) -> Iterator[tuple[str, Schedule]]:
    yield "a read left out", schedule[:at] + schedule[at + 1 :]
    yield "read twice", (*schedule[: at + 1], *schedule[at:])


def _written(graph: Graph, schedule: Schedule, at: int) -> Iterator[tuple[str, Schedule]]:
    yield "written twice", (*schedule[: at + 1], *schedule[at:])
    if Entry("I", schedule[at].number) in schedule[at + 1 :] and schedule[at] not in schedule[at + 1 :]:
        yield "a write left out", schedule[:at] + schedule[at + 1 :]
