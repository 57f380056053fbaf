# SPDX-License-Identifier: Apache-2.0
"""A training step as a graph: operations in a fixed order, and the storages that they read, make and change.

The storage, not the tensor, is what occupies memory: views share one. An operation may make several (a dropout makes
its output and its mask). Storages without a producer are there before the step and after it: parameters, buffers,
gradients, optimizer state, the batch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Literal

from .errors import GraphInvalid

Kind = Literal["activation", "parameter", "buffer", "gradient", "optimizer", "input", "output"]
Phase = Literal["forward", "backward", "update"]


@dataclass(frozen=True, slots=True)
class Op:
    """One operation; `inputs` it reads, `outputs` it makes and `updates` it changes in place, all storage indices.

    `target` and `detail` (shapes, constants) say what it computes; `again` whether it may be computed a second time.
    """

    name: str
    target: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    updates: tuple[int, ...] = ()
    again: bool = True
    phase: Phase = "forward"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Storage:
    """A piece of memory. `kept`: it must be in RAM when the step ends; `pageable`: it may leave RAM meanwhile."""

    name: str
    size_bytes: int
    kind: Kind = "activation"
    kept: bool = False
    pageable: bool = True


@dataclass(frozen=True)
class Graph:
    """Operations in the order of their first execution. Raises `GraphInvalid` for one that cannot run in that order."""

    name: str
    ops: tuple[Op, ...]
    storages: tuple[Storage, ...]
    producers: tuple[int | None, ...] = field(init=False)
    """The op that makes each storage; None for one that is carried from step to step."""
    users: tuple[tuple[int, ...], ...] = field(init=False)
    """The ops that read or change each storage, ascending."""

    def __post_init__(self) -> None:
        producers: list[int | None] = [None] * len(self.storages)
        users: list[list[int]] = [[] for _ in self.storages]
        for number, op in enumerate(self.ops):
            for storage in (*op.inputs, *op.updates, *op.outputs):
                if not 0 <= storage < len(self.storages):
                    raise GraphInvalid(op.name, f"names storage {storage} of {len(self.storages)}")
            for storage in op.outputs:
                if producers[storage] is not None:
                    raise GraphInvalid(op.name, f"makes {self.storages[storage].name}, which another op makes")
                if users[storage]:
                    raise GraphInvalid(op.name, f"makes {self.storages[storage].name} after it was read")
                producers[storage] = number
            for storage in sorted({*op.inputs, *op.updates}):
                if storage in op.outputs:
                    raise GraphInvalid(op.name, f"reads {self.storages[storage].name}, which it makes")
                users[storage].append(number)
        for found in self.storages:
            if found.size_bytes < 0:
                raise GraphInvalid(found.name, f"has {found.size_bytes} bytes")
        object.__setattr__(self, "producers", tuple(producers))
        object.__setattr__(self, "users", tuple(map(tuple, users)))

    @property
    def carried(self) -> tuple[int, ...]:
        """Storages that are there before the step."""
        return tuple(number for number, producer in enumerate(self.producers) if producer is None)

    def touched(self, op: int) -> list[int]:
        """The storages that an op reads, makes or changes, ascending."""
        found = self.ops[op]
        return sorted({*found.inputs, *found.outputs, *found.updates})

    @property
    def digest(self) -> str:
        """SHA-256 over ops, shapes and edges; what a plan is bound to."""
        ops = [[op.target, op.detail, op.inputs, op.outputs, op.updates] for op in self.ops]
        storages = [[storage.size_bytes, storage.kind] for storage in self.storages]
        return hashlib.sha256(json.dumps([ops, storages], separators=(",", ":")).encode()).hexdigest()
