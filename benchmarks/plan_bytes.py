# SPDX-License-Identifier: Apache-2.0
"""A schedule in as few bytes as it takes: what differs from running every op once, and nothing that follows from it.

First computations come in order, and storages are freed after their last use, so only repeated computations, writes and
reads are written down: how many first computations lie before each, and what it is, as variable-length integers.
"""

from __future__ import annotations

from finetune.graph import Graph
from finetune.schedule import Act, Entry, Schedule, with_frees

ACTS: tuple[Act, ...] = ("C", "O", "I")


def packed(schedule: Schedule) -> bytes:
    """The bytes of a schedule whose frees are those that follow."""
    found = bytearray()
    frontier, since = 0, 0
    for entry in schedule:
        if entry.act == "C" and entry.number == frontier:
            frontier, since = frontier + 1, since + 1
        elif entry.act != "F":
            found += _integer(since) + _integer(entry.number * len(ACTS) + ACTS.index(entry.act))
            since = 0
    return bytes(found)


def unpacked(graph: Graph, text: bytes) -> Schedule:
    """The schedule of such bytes."""
    values = _integers(text)
    entries: list[Entry] = []
    frontier = 0
    for since, what in zip(values[::2], values[1::2], strict=True):
        entries += [Entry("C", frontier + number) for number in range(since)]
        frontier += since
        entries.append(Entry(ACTS[what % len(ACTS)], what // len(ACTS)))
    entries += [Entry("C", number) for number in range(frontier, len(graph.ops))]
    return with_frees(graph, entries)


def _integer(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _integers(text: bytes) -> list[int]:
    found, value, shift = [], 0, 0
    for byte in text:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            found.append(value)
            value, shift = 0, 0
    return found
