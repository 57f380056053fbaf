# SPDX-License-Identifier: Apache-2.0
"""The optimizer inside the step: a weight is updated once its gradient is there and nobody needs the old value.

So no gradient outlives its update: a step with an optimizer carries no `.grad` from step to step, and one that sums
gradients over several batches, or clips them by their common norm, is captured without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import GraphInvalid
from ..graph import Graph, Op, Storage

Rule = Literal["sgd", "momentum", "adam"]

STATES: dict[Rule, tuple[str, ...]] = {"sgd": (), "momentum": ("momentum",), "adam": ("mean", "square")}
"""What each rule remembers of every element of a weight, as large as the weight."""

PIECE_BYTES = 1 << 20
"""Larger weights are updated in slices of this: about a millisecond each, and temporaries that stay in the cache."""


@dataclass(frozen=True, slots=True)
class _Update:
    weight: int
    gradient: tuple[int, ...]
    detail: str
    ready: int
    """The last op that needs the old weight or makes the gradient."""


def with_optimizer(graph: Graph, rule: Rule) -> Graph:
    """The same step with one update op per parameter in place of the op that adds up its gradient.

    `update W` reads the gradient that the backward part made, and changes W and its states (`W.momentum`, ...). Raises
    `GraphInvalid` for an unknown rule and for a graph without gradients.
    """
    if rule not in get_args(Rule):
        raise GraphInvalid("optimizer", f"is {rule!r}, known are {', '.join(get_args(Rule))}")
    updates = [_update(graph, number) for number, op in enumerate(graph.ops) if op.target == "accumulate"]
    if not updates:
        raise GraphInvalid(graph.name, "has no gradients")
    dropped = {storage for op in graph.ops if op.target == "accumulate" for storage in op.updates}
    storages = [storage for number, storage in enumerate(graph.storages) if number not in dropped]
    left = [number for number in range(len(graph.storages)) if number not in dropped]
    renumbered = {old: new for new, old in enumerate(left)}
    ops: list[Op] = []
    for number, op in enumerate(graph.ops):
        if op.target != "accumulate":
            ops.append(_moved(op, renumbered))
        for update in updates:
            if update.ready == number:
                weight = graph.storages[update.weight]
                states = range(len(storages), len(storages) + len(STATES[rule]))
                storages += [
                    Storage(f"{weight.name}.{state}", weight.size_bytes, "optimizer") for state in STATES[rule]
                ]
                changed = (renumbered[update.weight], *states)
                read = tuple(renumbered[storage] for storage in update.gradient)
                name, detail = f"update {weight.name}", update.detail
                ops.append(Op(name, rule, read, (), changed, again=False, phase="update", detail=detail))
    return Graph(graph.name, tuple(ops), tuple(storages))


def _update(graph: Graph, position: int) -> _Update:
    accumulate = graph.ops[position]
    name = accumulate.name.removeprefix("accumulate ")
    weight = next(number for number, storage in enumerate(graph.storages) if storage.name == name)
    return _Update(weight, accumulate.inputs, accumulate.detail, max([position, *graph.users[weight]]))


def _moved(op: Op, renumbered: dict[int, int]) -> Op:
    def new(storages: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(renumbered[storage] for storage in storages)

    return Op(op.name, op.target, new(op.inputs), new(op.outputs), new(op.updates), op.again, op.phase, op.detail)
