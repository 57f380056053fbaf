# SPDX-License-Identifier: Apache-2.0
"""When a list runs under `real`: reads hoisted so that they overlap computing, and the seconds that the step takes.

A read may begin as early as RAM has room for it from there to its use, and after its storage left RAM. Hoisting goes
no further than hides the transfer, from the last read to the first, so that reads do not wait for one another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compiled import compiled
from .decode import COMPUTE, NONE, READ, Work
from .gaps import Arrays, Floats, Ints


class Clock(NamedTuple):
    """Room for timing one list."""

    reached_s: Floats
    """When the processor would reach each entry if it never waited."""
    wait_s: Floats
    """When what an entry computes from has been read."""
    use: Ints
    """The computation that each read is for."""
    first_read: Ints
    """The first read that is begun right before each entry, and for each read the next one begun there."""
    next_read: Ints
    written_s: Floats
    """When the last write of each storage ends."""
    end_s: Floats
    """Writes whose RAM is wanted: when they end, and their bytes."""
    leaving: Ints


def clock_for(arrays: Arrays, work: Work) -> Clock:
    """Room for timing what is decoded into `work`."""
    entries = len(work.act)
    use, first, following, leaving = (np.zeros(entries, dtype=np.int64) for _ in range(4))
    written_s = np.zeros(len(arrays.size))
    return Clock(np.zeros(entries), np.zeros(entries), use, first, following, written_s, np.zeros(entries), leaving)


@compiled
def prefetch(arrays: Arrays, work: Work, clock: Clock, entries: int) -> None:
    """Hoist the reads: where each is begun, into `clock`; the bytes along the list, into `work`."""
    act, number, bytes_at, left_at = work.act, work.number, work.bytes_at, work.left_at
    reached_s, use, first_read = clock.reached_s, clock.use, clock.first_read
    time_s, read_s, size = arrays.time_s, arrays.read_s, arrays.size
    now_s = 0.0
    for entry in range(entries):
        reached_s[entry] = now_s
        first_read[entry] = NONE
        if act[entry] == COMPUTE:
            now_s += time_s[number[entry]]
    following, channel_s = entries - 1, np.inf
    for entry in range(entries - 1, -1, -1):
        if act[entry] == COMPUTE:
            following = entry
        if act[entry] != READ:
            continue
        storage = number[entry]
        use[entry] = following
        latest_s = min(channel_s, reached_s[following]) - read_s[storage]
        room = arrays.budget - size[storage]
        begin = entry
        while begin > left_at[entry] + 1 and reached_s[begin] > latest_s and bytes_at[begin - 1] <= room:
            begin -= 1
            bytes_at[begin] += size[storage]
        channel_s = max(latest_s, reached_s[begin])
        clock.next_read[entry] = first_read[begin]
        first_read[begin] = entry


def order_of(work: Work, clock: Clock, entries: int) -> list[int]:
    """The entries with each read where it is begun."""
    order = []
    for entry in range(entries):
        read = clock.first_read[entry]
        while read != NONE:
            order.append(int(read))
            read = clock.next_read[read]
        if work.act[entry] != READ:
            order.append(entry)
    return order


@compiled
def step_seconds(arrays: Arrays, work: Work, clock: Clock, entries: int) -> float:
    """Seconds of the step, reckoned as `replay` does."""
    act, number, bytes_at = work.act, work.number, work.bytes_at
    wait_s, end_s, leaving, first_read = clock.wait_s, clock.end_s, clock.leaving, clock.first_read
    written_s, size = clock.written_s, arrays.size
    processor_s, channel_s, in_flight = 0.0, 0.0, 0
    head, tail = 0, 0
    written_s[:] = 0.0
    wait_s[:entries] = 0.0
    for entry in range(entries):
        read = first_read[entry]
        while read != NONE:
            storage = number[read]
            channel_s = max(channel_s, processor_s, written_s[storage]) + arrays.read_s[storage]
            wait_s[clock.use[read]] = channel_s
            read = clock.next_read[read]
        if act[entry] == COMPUTE:
            start_s = max(processor_s, wait_s[entry])
            while head < tail and (end_s[head] <= start_s or bytes_at[entry] + in_flight > arrays.budget):
                start_s = max(start_s, end_s[head])
                in_flight -= leaving[head]
                head += 1
            processor_s = start_s + arrays.time_s[number[entry]]
        elif act[entry] != READ:
            storage = number[entry]
            channel_s = max(channel_s, processor_s) + arrays.write_s[storage]
            written_s[storage] = end_s[tail] = channel_s
            leaving[tail] = size[storage]
            in_flight += size[storage]
            tail += 1
    return max(processor_s, channel_s)
