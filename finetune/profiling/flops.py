# SPDX-License-Identifier: Apache-2.0
"""How many operations each op of a captured step takes, for platforms known by their rates alone.

Products and convolutions by torch's own formulas (two per multiply-add), everything else one per element made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils.flop_counter import flop_registry

from ..capture import Call, Captured
from ..graph import Graph, Op

ELEMENT_BYTES = 4
PER_ELEMENT = {"sgd": 2.0, "momentum": 4.0, "adam": 12.0}
"""Of an optimizer's update, per element of the weight."""


def flops_of(captured: Captured, graph: Graph) -> tuple[float, ...]:
    """Operations of each op of the captured graph, or of the same with an optimizer in it."""
    return tuple(_flops(captured, graph, op) for op in graph.ops)


def _flops(captured: Captured, graph: Graph, op: Op) -> float:
    action = captured.actions.get(op.name)
    if isinstance(action, Call):
        return _call(action.node)
    elements = sum(graph.storages[storage].size_bytes for storage in op.updates) / ELEMENT_BYTES
    if op.target in PER_ELEMENT:
        return PER_ELEMENT[op.target] * graph.storages[op.updates[0]].size_bytes / ELEMENT_BYTES
    return elements


def _call(node: Node) -> float:
    packet = getattr(node.target, "overloadpacket", None)
    made = node.meta["val"]
    if packet in flop_registry:
        args = torch.fx.node.map_arg(node.args, _value)
        kwargs = torch.fx.node.map_arg(node.kwargs, _value)
        return float(flop_registry[packet](*args, **kwargs, out_val=made))
    tensors: Sequence[Any] = made if isinstance(made, tuple | list) else (made,)
    return float(sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor)))


def _value(node: Node) -> Any:
    return node.meta["val"]
