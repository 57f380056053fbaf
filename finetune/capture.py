# SPDX-License-Identifier: Apache-2.0
"""A module's training step as a `Graph`, and what it takes to run each of its operations.

The step is traced as a whole, loss and backward included, in the operations that eager torch calls. Gradients are added
to `.grad` right after the operation that makes them; buffers get their new values at the end, so that computing an
operation again still reads the old ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from .capturing.assembly import Assembly
from .capturing.captured import Accumulate, Action, Assign, Call, Captured, Loss, Step
from .capturing.storages import find_storages
from .capturing.tidy import tidy
from .capturing.torch_private import Role, has_gradient_hooks, input_role, trace_step
from .errors import CaptureRefused

__all__ = ["Accumulate", "Action", "Assign", "Call", "Captured", "Loss", "Step", "capture"]


def capture(model: nn.Module, loss: Loss | None, example_batch: Sequence[Tensor], name: str = "") -> Captured:
    """The training step `loss(model(*batch[:-1]), batch[-1])`, for batches of this shape, in the model's present mode.

    Without a loss the model itself returns it. Neither weights, buffers nor the random state change. Raises
    `CaptureRefused`, naming the operation, for a step that cannot be planned, and `UnsupportedTorch`.
    """
    step = Step(model, loss)
    for hooked, parameter in step.named_parameters():
        if has_gradient_hooks(parameter):
            raise CaptureRefused(hooked.removeprefix("model."), "has hooks on its gradient, which no plan calls")
    traced = trace_step(step, example_batch)
    tidy(traced)
    roles, bound = _bind(traced, step, example_batch)
    memory = find_storages(traced, bound)
    return Assembly(step, traced, memory, roles, bound).captured(name or type(model).__name__)


def _bind(traced: GraphModule, step: nn.Module, batch: Sequence[Tensor]) -> tuple[dict[Node, Role], dict[Node, Tensor]]:
    """What each placeholder and constant is, and its tensor."""
    owned = dict(step.named_parameters(remove_duplicate=False)) | dict(step.named_buffers(remove_duplicate=False))
    roles: dict[Node, Role] = {}
    bound: dict[Node, Tensor] = {}
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            roles[node] = Role("buffer", name=str(node.target))
            constant = getattr(traced, str(node.target))
            if not isinstance(constant, Tensor):
                raise CaptureRefused(node.name, f"is a {type(constant).__name__} and no tensor")
            bound[node] = constant.detach()
        elif node.op == "placeholder":
            roles[node] = role = input_role(node)
            example = node.meta["val"]
            if not isinstance(example, Tensor):
                raise CaptureRefused(node.name, f"is a {type(example).__name__} and no tensor")
            match role.kind:
                case "parameter" | "buffer":
                    bound[node] = owned[role.name].detach()
                case "batch":
                    bound[node] = batch[role.index].detach()
                case _:
                    bound[node] = torch.ones(example.shape, dtype=example.dtype, device=example.device)
    return roles, bound
