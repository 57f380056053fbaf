# SPDX-License-Identifier: Apache-2.0
"""From one choice per gap to the list of computations and transfers that follows from it.

Stage t ends with the first run of op t. What op t reads and RAM lacks is fetched: read if a copy lies on storage, else
computed again, and so on for what that reads. Then each gap that begins here is opened as chosen. Nothing is searched:
the choices alone decide. Frees are not listed; each storage goes right after its last use, as in `with_frees`.

Under POET's rules all reads of a stage come first, and what a stage made can be written in the next stage at the
earliest and read in the one after that.

Only stages at which a gap that is not KEEP opens or ends are looked into: the cost grows with the choices that differ
from KEEP, and with the number of ops only by a few additions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..schedule import Act
from .compiled import compiled
from .gaps import DROP_LAZILY, KEEP, PAGE, PAGE_LAZILY, Arrays, Gaps, Ints

COMPUTE, READ, WRITE = range(3)
ACTS: tuple[Act, ...] = ("C", "I", "O")
ENTRIES_PER_OP = 12
"""A list longer than this is given up."""
NONE = -1


class Work(NamedTuple):
    """Room for one decode at a time: the list, and the state on the way."""

    act: Ints
    number: Ints
    bytes_at: Ints
    """RAM at each entry."""
    left_at: Ints
    """For each read: the entry after which RAM last lost what it brings."""
    position: Ints
    """Where each op's first run stands in the list."""
    busy: Ints
    """Stages to look into."""
    opening: Ints
    """The first gap that opens at each stage."""
    next_opening: Ints
    """The next gap that opens where this one does."""
    absent: Ints
    stored: Ints
    readable: Ints
    """The first stage in which the copy on storage may be read."""
    ever_stored: Ints
    lazy: Ints
    """Whether what is absent goes again after it came back for another's sake."""
    made: Ints
    """The stage of its last computation."""
    since: Ints
    """The entry that brought it into RAM; none: its producer's first run."""
    touched: Ints
    """The last entry that used it for another's sake."""
    seen: Ints
    """The last stage in which it was looked for."""
    direct: Ints
    """The last stage looked into whose op uses it."""
    seen_op: Ints
    stack: Ints
    again: Ints
    """The ops to compute again in this stage."""
    fetched: Ints
    """The storages to read in this stage."""
    gone: Ints
    """The entry after which each storage last left RAM."""


class Outcome(NamedTuple):
    """What a decode comes to; `lost` counts what could not be brought back, `above` sums bytes above the budget."""

    entries: int
    overhead_j: float
    time_s: float
    peak: int
    above: int
    stored_bytes: int
    lost: int


def work_for(arrays: Arrays, gaps: Gaps) -> Work:
    """Room for decoding such a problem."""
    ops, storages = len(arrays.energy_j), len(arrays.size)
    entries = (ENTRIES_PER_OP + 1) * ops + 4 * storages + 2
    stack = len(arrays.inputs) + len(arrays.outputs) + storages
    per_entry, per_stage, per_storage = [entries] * 4, [ops, ops + 2, ops + 2], [storages] * 10
    lengths = [*per_entry, *per_stage, len(gaps.storage), *per_storage, ops, stack, ops, storages, storages]
    return Work(*(np.zeros(length, dtype=np.int64) for length in lengths))


@compiled
def _prepare(arrays: Arrays, gaps: Gaps, choice: Ints, work: Work) -> int:
    """The state before the first stage, and which stages to look into; bytes on storage when the step begins."""
    busy, opening, next_opening, stored_bytes = work.busy, work.opening, work.next_opening, 0
    busy[:] = 0
    opening[:] = NONE
    work.seen_op[:] = NONE
    work.bytes_at[0] = 0
    for storage in range(len(arrays.size)):
        work.absent[storage] = work.stored[storage] = work.ever_stored[storage] = 0
        work.since[storage] = work.touched[storage] = work.direct[storage] = work.seen[storage] = NONE
        work.made[storage] = arrays.producer[storage]
    for gap in range(len(choice)):
        if choice[gap] != KEEP:
            storage, begins, ends = gaps.storage[gap], gaps.begins[gap], gaps.ends[gap]
            busy[begins] = busy[ends] = 1
            next_opening[gap] = opening[begins]
            opening[begins] = gap
            if ends <= begins:
                work.absent[storage] = work.stored[storage] = work.ever_stored[storage] = work.lazy[storage] = 1
                work.readable[storage] = 0
                work.gone[storage] = NONE
                stored_bytes += arrays.size[storage]
    return stored_bytes


@compiled
def decode(arrays: Arrays, gaps: Gaps, choice: Ints, work: Work) -> Outcome:
    """The list, into `work`, and what it comes to.

    One long function: it runs some hundred thousand times a second, and a call per step would double its cost.
    """
    act, number, position, bytes_at = work.act, work.number, work.position, work.bytes_at
    busy, opening, next_opening = work.busy, work.opening, work.next_opening
    absent, stored, readable, lazy, made = work.absent, work.stored, work.readable, work.lazy, work.made
    since, touched, direct, ever_stored = work.since, work.touched, work.direct, work.ever_stored
    gone, left_at = work.gone, work.left_at
    again, fetched, stack, seen, seen_op = work.again, work.fetched, work.stack, work.seen, work.seen_op
    inputs, input_start, outputs, output_start = arrays.inputs, arrays.input_start, arrays.outputs, arrays.output_start
    size, energy_j, time_s, producer = arrays.size, arrays.energy_j, arrays.time_s, arrays.producer
    workspace, may_again, timed, changed = arrays.workspace, arrays.again, arrays.timed, arrays.changed
    read_j, write_j = arrays.read_j, arrays.write_j
    ops = len(energy_j) - 1
    room = ENTRIES_PER_OP * ops
    stored_bytes, lost, entries = _prepare(arrays, gaps, choice, work), 0, 0
    overhead_j, again_s = 0.0, 0.0
    for stage in range(ops + 1):
        if not busy[stage]:
            act[entries] = COMPUTE
            number[entries] = stage
            position[stage] = entries
            entries += 1
            bytes_at[entries] = 0
            continue
        top, computing, reading, others = 0, 0, 0, 0
        for place in range(input_start[stage], input_start[stage + 1]):
            storage = inputs[place]
            direct[storage] = stage
            if absent[storage]:
                stack[top] = storage
                top += 1
        if top:
            computing, reading, failed = _missing(
                top,
                stage,
                stack,
                absent,
                stored,
                readable,
                seen,
                seen_op,
                again,
                fetched,
                input_start,
                inputs,
                producer,
                may_again,
                changed,
                timed,
            )
            lost += failed
            if entries + computing + 2 * reading + 2 > room:
                lost += ops + 1 - stage
                break
            for turn in range(reading):
                # Frees of a stage come after its base run, so the order of `fetched` does not matter.
                stack[others] = fetched[turn]
                others += 1
                if not timed:
                    storage = fetched[turn]
                    overhead_j += read_j[storage]
                    absent[storage] = 0
                    since[storage] = touched[storage] = entries
                    act[entries], number[entries], left_at[entries] = READ, storage, gone[storage]
                    entries += 1
                    bytes_at[entries] = 0
        for turn in range(computing + 1):
            op = again[turn] if turn < computing else stage
            if timed and reading:
                for place in range(input_start[op], input_start[op + 1]):
                    storage = inputs[place]
                    if absent[storage]:
                        overhead_j += read_j[storage]
                        absent[storage] = 0
                        since[storage] = touched[storage] = entries
                        act[entries], number[entries], left_at[entries] = READ, storage, gone[storage]
                        entries += 1
                        bytes_at[entries] = 0
            act[entries], number[entries] = COMPUTE, op
            bytes_at[entries + 1] = 0
            if turn < computing:
                overhead_j += energy_j[op]
                again_s += time_s[op]
                meanwhile = workspace[op]
                for place in range(input_start[op], input_start[op + 1]):
                    touched[inputs[place]] = entries
                for place in range(output_start[op], output_start[op + 1]):
                    storage = outputs[place]
                    made[storage] = stage
                    if absent[storage]:
                        absent[storage] = 0
                        since[storage] = touched[storage] = entries
                        stack[others] = storage
                        others += 1
                    else:
                        meanwhile += size[storage]
                bytes_at[entries] += meanwhile
                bytes_at[entries + 1] -= meanwhile
            else:
                position[stage] = entries
            entries += 1
        for turn in range(others):
            storage = stack[turn]
            if lazy[storage] and direct[storage] != stage and not absent[storage]:
                absent[storage] = 1
                gone[storage] = touched[storage]
                bytes_at[since[storage]] += size[storage]
                bytes_at[touched[storage] + 1] -= size[storage]
        gap = opening[stage]
        while gap != NONE:
            following = next_opening[gap]
            storage, chosen = gaps.storage[gap], choice[gap]
            if not absent[storage]:
                last = position[stage]
                if changed[storage] == stage:
                    stored[storage] = 0
                late = False
                if chosen >= PAGE and not stored[storage]:
                    late = not timed and made[storage] == stage
                    if late:
                        busy[stage + 1] = 1
                        next_opening[gap] = opening[stage + 1]
                        opening[stage + 1] = gap
                    else:
                        last = entries
                        act[entries], number[entries] = WRITE, storage
                        entries += 1
                        bytes_at[entries] = 0
                        overhead_j += write_j[storage]
                        stored_bytes += (1 - ever_stored[storage]) * size[storage]
                        stored[storage] = ever_stored[storage] = 1
                        readable[storage] = stage + 2
                if not late:
                    absent[storage] = 1
                    gone[storage] = last
                    lazy[storage] = chosen in (DROP_LAZILY, PAGE_LAZILY)
                    start = since[storage]
                    if start == NONE:
                        start = position[producer[storage]] if producer[storage] >= 0 else 0
                    bytes_at[start] += size[storage]
                    bytes_at[last + 1] -= size[storage]
            gap = following
    peak, above = _measure(arrays, work, entries, lost)
    return Outcome(entries, overhead_j, again_s, peak, above, stored_bytes, lost)


@compiled
def _missing(
    top: int,
    stage: int,
    stack: Ints,
    absent: Ints,
    stored: Ints,
    readable: Ints,
    seen: Ints,
    seen_op: Ints,
    again: Ints,
    fetched: Ints,
    input_start: Ints,
    inputs: Ints,
    producer: Ints,
    may_again: Ints,
    changed: Ints,
    timed: bool,
) -> tuple[int, int, int]:
    """How many ops to compute again (ascending), how many storages to read, and how many cannot be had."""
    computing, reading, lost = 0, 0, 0
    while top:
        top -= 1
        storage = stack[top]
        if seen[storage] == stage:
            continue
        seen[storage] = stage
        if stored[storage] and (timed or readable[storage] <= stage):
            fetched[reading] = storage
            reading += 1
            continue
        op = producer[storage]
        if op < 0 or not may_again[op]:
            lost += 1
            continue
        if seen_op[op] == stage:
            continue
        seen_op[op] = stage
        again[computing] = op
        computing += 1
        for place in range(input_start[op], input_start[op + 1]):
            lost += changed[inputs[place]] < stage
            if absent[inputs[place]]:
                stack[top] = inputs[place]
                top += 1
    for turn in range(1, computing):
        op = again[turn]
        before = turn - 1
        while before >= 0 and again[before] > op:
            again[before + 1] = again[before]
            before -= 1
        again[before + 1] = op
    return computing, reading, lost


@compiled
def _measure(arrays: Arrays, work: Work, entries: int, lost: int) -> tuple[int, int]:
    """The peak, and bytes above the budget summed over the list; turns `bytes_at` from differences into bytes."""
    size, producer, last_use, workspace = arrays.size, arrays.producer, arrays.last_use, arrays.workspace
    bytes_at, position, since, touched, absent = work.bytes_at, work.position, work.since, work.touched, work.absent
    if lost:
        return 0, 0
    for storage in range(len(size)):
        if not absent[storage]:
            start = since[storage]
            if start == NONE:
                start = position[producer[storage]] if producer[storage] >= 0 else 0
            bytes_at[start] += size[storage]
            bytes_at[max(position[last_use[storage]], touched[storage]) + 1] -= size[storage]
    if arrays.timed:
        for op in range(len(workspace)):
            bytes_at[position[op]] += workspace[op]
            bytes_at[position[op] + 1] -= workspace[op]
    held, peak, above = 0, 0, 0
    for entry in range(entries):
        held += bytes_at[entry]
        bytes_at[entry] = held
        peak = max(peak, held)
        if held > arrays.budget:
            above += held - arrays.budget
    return peak, above
