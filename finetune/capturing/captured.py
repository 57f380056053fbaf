# SPDX-License-Identifier: Apache-2.0
"""A captured step: its graph, and what it takes to run each of its operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ..graph import Graph
from .storages import Memory
from .torch_private import Role

Loss = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Call:
    """Run a node of the traced step."""

    node: Node


@dataclass(frozen=True, slots=True)
class Accumulate:
    """Add the gradient that `node` holds to the `.grad` of a parameter of the step."""

    parameter: str
    node: Node


@dataclass(frozen=True, slots=True)
class Assign:
    """Copy the values that nodes hold into buffers, or into inputs that the step changes in place."""

    pairs: tuple[tuple[Role, Node], ...]


Action = Call | Accumulate | Assign


@dataclass(frozen=True)
class Captured:
    """A graph and what its names mean: the action of each op, the node with the first tensor of each storage.

    `step` owns the parameters and buffers and is called with the batch; `bound` holds the real tensors of the traced
    step's placeholders and constants, as `roles` says which. A storage that nobody reads has no entry in `primaries`.
    """

    graph: Graph
    step: nn.Module
    traced: GraphModule
    memory: Memory
    actions: dict[str, Action]
    primaries: dict[str, Node]
    bound: dict[Node, Tensor]
    roles: dict[Node, Role]
    outputs: tuple[Node, ...]


class Step(nn.Module):
    """A model and its loss as one module: called with the batch, the target last, it returns the loss."""

    def __init__(self, model: nn.Module, loss: Loss | None) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.train(model.training)

    def forward(self, *batch: Tensor) -> Tensor:
        """The loss, a scalar; without a loss of its own the model is given the whole batch and returns it."""
        if self.loss is None:
            found: Tensor = self.model(*batch)
            return found
        return self.loss(self.model(*batch[:-1]), batch[-1])
