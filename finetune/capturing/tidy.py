# SPDX-License-Identifier: Apache-2.0
"""A traced step made ready: no detaches, no dead nodes, eager's own dropout, and nothing that no plan could run."""

from __future__ import annotations

import operator

import torch
from torch.fx import GraphModule, Node

from ..errors import CaptureRefused
from .dropout import dropout, dropout_backward

aten = torch.ops.aten
OURS = {dropout, dropout_backward}
"""Functions of ours that stand in a tidied step beside torch's operations."""


def tidy(graph_module: GraphModule) -> None:
    """Clean up in place, changing no bit of any result; raises `CaptureRefused` for an operation that mutates."""
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target is aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
    graph_module.graph.eliminate_dead_code()
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target is aten.native_dropout_backward.default and _on_cpu(node):
            _rewrite_backward(node)
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and node.target is aten.native_dropout.default and _on_cpu(node):
            node.target, node.args = dropout, (node.args[0], node.args[1])
        _check(node)
    graph_module.recompile()


def draws_random(node: Node) -> bool:
    """Whether a node takes numbers from torch's generator, so that computing it again needs the state of then."""
    if node.target is dropout:
        return True
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _rewrite_backward(node: Node) -> None:
    """Give the backward operation the p of its forward one; 1 - 1 / scale would not be that number."""
    gradient, mask, _ = node.args
    source = mask.args[0] if isinstance(mask, Node) and mask.target is operator.getitem else None
    if not isinstance(source, Node) or source.target is not aten.native_dropout.default:
        raise CaptureRefused(str(node.target), f"{node.name} uses a mask that no dropout of this step made")
    node.target, node.args = dropout_backward, (gradient, mask, source.args[1])


def _on_cpu(node: Node) -> bool:
    value = node.meta["val"]
    return bool((value[0] if isinstance(value, tuple | list) else value).device.type == "cpu")


def _check(node: Node) -> None:
    if node.op in {"placeholder", "get_attr", "output"} or node.target is operator.getitem or node.target in OURS:
        return
    if not isinstance(node.target, torch._ops.OpOverload):
        raise CaptureRefused(str(node.target), "is not an operation of torch's dispatcher")
    if node.target._schema.is_mutable:
        raise CaptureRefused(str(node.target), "changes its input, so it cannot be computed again")
