# SPDX-License-Identifier: Apache-2.0
"""Runs a captured step operation by operation, holding exactly the storages that its graph says.

Views are not held: whoever reads one looks again from the first tensor of its storage, so a storage is gone when its
one tensor is dropped.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ..capture import Accumulate, Assign, Call, Captured
from ..graph import Op

Functions = Mapping[str, Callable[..., Any]]
"""By the name of its node: what computes an operation in pieces, called with what to call between them."""


class Operations:
    """The first tensors of what is in memory, and how to run an operation on them."""

    def __init__(self, captured: Captured, functions: Functions = MappingProxyType({})) -> None:
        self.captured = captured
        self._functions = functions
        self.values: dict[Node, Tensor] = dict(captured.bound)
        """First tensors by their node."""

    def look(self, node: Node) -> Any:
        """The value of a node whose storage is in memory; re-makes the view if it is one."""
        found = self.values.get(node)
        if found is not None:
            return found
        args = torch.fx.node.map_arg(node.args, self.look)
        kwargs = torch.fx.node.map_arg(node.kwargs, self.look)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def call(self, node: Node) -> Any:
        """The result of computing a node, a tensor or a tuple, from what is in memory; in pieces if it has them."""
        args = torch.fx.node.map_arg(node.args, self.look)
        kwargs = torch.fx.node.map_arg(node.kwargs, self.look)
        if node.name in self._functions:
            return self._functions[node.name](_go_on, *args, **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def keep(self, node: Node, result: Any) -> None:
        """Hold the tensors of a result that somebody reads."""
        if isinstance(result, Tensor):
            self.values[node] = result
            return
        for user in node.users:
            if user.target is operator.getitem and user not in self.captured.memory.base:
                self.values[user] = result[user.args[1]]

    def drop(self, storage: int) -> None:
        """Let go of a storage."""
        node = self.captured.primaries.get(self.captured.graph.storages[storage].name)
        if node is not None:
            self.values.pop(node, None)

    def run(self, op: Op, scratch: dict[str, Tensor]) -> Any:
        """Do what an op does, with `scratch` in place of what the step would change."""
        match self.captured.actions[op.name]:
            case Call(node=node):
                return self.call(node)
            case Accumulate(parameter=name, node=node):
                gradient = self.look(node)
                return scratch[name].add_(gradient.view_as(scratch[name]))
            case Assign(pairs=pairs):
                return [scratch[str(role)].copy_(self.look(node)) for role, node in pairs]


def _go_on() -> None:
    """Between two pieces of an operation that nobody interrupts."""
