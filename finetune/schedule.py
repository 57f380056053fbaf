# SPDX-License-Identifier: Apache-2.0
"""A schedule: what the step does, one entry after another.

`C op` computes, also again, and makes those outputs anew that are not in RAM. `O storage` begins to write it; it stays
in RAM until `F storage` frees it, or until it is written if that is later. `I storage` begins to read it back; who
needs it waits. A copy on storage stays good until an op updates the storage. A carried storage whose first entry is `I`
lies on storage when the step begins, and must lie there when it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from .graph import Graph

Act = Literal["C", "F", "O", "I"]


class Entry(NamedTuple):
    """One entry: what to do, and to which op (`C`) or storage."""

    act: Act
    number: int

    def __str__(self) -> str:
        return f"{self.act} {self.number}"


Schedule = tuple[Entry, ...]


def schedule_of(rows: Iterable[Sequence[object]]) -> Schedule:
    """The schedule of `[act, index]` rows; raises `ValueError` for anything else."""
    entries = []
    for row in rows:
        match row:
            case ["C" | "F" | "O" | "I" as act, int(index)] if not isinstance(index, bool) and index >= 0:
                entries.append(Entry(act, index))
            case _:
                raise ValueError(f"not an entry of a schedule: {row!r}")
    return tuple(entries)


def keep_everything(graph: Graph) -> Schedule:
    """Every op once, and every storage kept until its last use."""
    return with_frees(graph, [Entry("C", number) for number in range(len(graph.ops))])


def with_frees(graph: Graph, entries: Sequence[Entry]) -> Schedule:
    """The same computations and transfers, each storage freed right after its last use before it is made or read again.

    Frees among the entries are ignored. What must be in RAM when the step ends stays.
    """
    working = [entry for entry in entries if entry.act != "F"]
    paged = begins_on_storage(graph, working)
    needed = {number for number, storage in enumerate(graph.storages) if storage.kept}
    needed |= {number for number in graph.carried if number not in paged}
    found: list[Entry] = []
    for entry in reversed(working):
        touched = [entry.number] if entry.act != "C" else graph.touched(entry.number)
        found += [Entry("F", storage) for storage in reversed(touched) if storage not in needed]
        found.append(entry)
        made = graph.ops[entry.number].outputs if entry.act == "C" else (entry.number,) if entry.act == "I" else ()
        needed = (needed | set(touched)) - set(made)
    return tuple(reversed(found))


def traffic_bytes(graph: Graph, entries: Iterable[Entry]) -> int:
    """Bytes that the computations of a step read, make and change, each as often as it is computed."""
    sizes = [storage.size_bytes for storage in graph.storages]
    return sum(sizes[storage] for act, op in entries if act == "C" for storage in graph.touched(op))


def begins_on_storage(graph: Graph, entries: Iterable[Entry]) -> set[int]:
    """The carried storages that lie on storage when such a step begins."""
    unseen = set(graph.carried)
    found = set()
    for entry in entries:
        touched = graph.touched(entry.number) if entry.act == "C" else [entry.number]
        if entry.act == "I" and entry.number in unseen:
            found.add(entry.number)
        unseen.difference_update(touched)
    return found
