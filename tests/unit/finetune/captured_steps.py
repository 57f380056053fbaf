# SPDX-License-Identifier: Apache-2.0
"""Small modules with what makes capture hard, and a run of a captured step that can be compared with eager torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finetune.capture import Accumulate, Assign, Call, Captured
from finetune.capturing.operations import Operations


class Residual(nn.Module):
    """Convolutions with batch normalisation, a skip, dropout, in-place activations."""

    def __init__(self, p: float = 0.1625) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(p)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        found = torch.relu_(self.first(image))
        found = self.drop(torch.relu(self.norm(self.second(found)) + found))
        return self.head(found.mean((2, 3)))


class Attention(nn.Module):
    """One layer of attention with tied embeddings, a chunked projection, a mask constant and layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 16)
        self.project = nn.Linear(16, 48)
        self.norm = nn.LayerNorm(16)
        self.out = nn.Linear(16, 11, bias=False)
        self.out.weight = self.tokens.weight
        self.mask = torch.tril(torch.ones(6, 6)).log()
        self.unused = nn.Linear(3, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.tokens(tokens)
        query, key, value = self.project(found).chunk(3, dim=-1)
        weights = (query @ key.transpose(1, 2) + self.mask).softmax(-1)
        found = self.norm(found + nn.functional.dropout(weights, 0.1) @ value)
        return self.out(found).flatten(0, 1)


def flat_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, target.flatten())


def eager(model: nn.Module, loss: nn.Module | object, batch: Sequence[Tensor], seed: int) -> dict[str, Tensor]:
    """Loss, gradients, buffers and random state after one ordinary step."""
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    value = loss(model(*batch[:-1]), batch[-1])  # type: ignore[operator]
    value.backward()
    found = {"loss": value.detach(), "random": torch.get_rng_state()}
    found |= {
        f"grad {name}": parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    return found | {f"buffer {name}": buffer.clone() for name, buffer in model.named_buffers()}


def planned(captured: Captured, seed: int, operations: Operations | None = None) -> dict[str, Tensor]:
    """The same from the captured step, op by op, each storage dropped after its last use."""
    torch.manual_seed(seed)
    graph, operations = captured.graph, operations or Operations(captured)
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for number, op in enumerate(graph.ops):
            match captured.actions[op.name]:
                case Call(node=node):
                    operations.keep(node, operations.call(node))
                case Accumulate(parameter=name, node=node):
                    like = captured.step.get_parameter(name)
                    gradient = torch.zeros_like(like).add_(operations.look(node).view_as(like))
                    found[f"grad {name.removeprefix('model.')}"] = gradient
                case Assign(pairs=pairs):
                    for role, node in pairs:
                        found[f"buffer {role.name.removeprefix('model.')}"] = operations.look(node).clone()
            for storage in graph.touched(number):
                if max((number, *graph.users[storage])) == number and not graph.storages[storage].kept:
                    operations.drop(storage)
        (loss,) = captured.outputs
        return found | {"loss": operations.look(loss), "random": torch.get_rng_state()}
