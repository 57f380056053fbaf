# SPDX-License-Identifier: Apache-2.0
"""What every trainer is given: a model in train mode, its loss, a batch, and a folder to page into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from finetune.capturing.models import load

BATCHES: Mapping[str, int] = {"resnet18": 8, "efficientnet_b0": 8, "bert_base": 4}
TOKENS = 30522


@dataclass(frozen=True, slots=True)
class Setting:
    """`loss(model(*batch[:-1]), batch[-1])`; `blocks` are the parts that a checkpoint is set around."""

    name: str
    model: nn.Module
    loss: Callable[[Any, Tensor], Tensor]
    batch: tuple[Tensor, ...]
    blocks: tuple[nn.Module, ...]
    folder: Path

    def forward(self) -> Tensor:
        """The loss of an ordinary forward pass."""
        return self.loss(self.model(*self.batch[:-1]), self.batch[-1])


class Trainer(Protocol):
    """A way to run one step."""

    def step(self) -> Tensor:
        """The loss; gradients were added to every parameter's `.grad`, buffers changed."""
        ...

    def figures(self) -> Mapping[str, Any]:
        """What it says of itself, for the record."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


def open_setting(name: str, folder: Path, samples: int | None = None) -> Setting:
    """One of `BATCHES`, weights and batch drawn from a seed; every `.grad` is there and zero."""
    model, loss, batch = load(name, samples or BATCHES[name])
    if loss is None:
        raise ValueError(f"{name} has no loss of its own")
    if batch[0].dtype == torch.int64:
        drawn = torch.randint(0, TOKENS, batch[0].shape, generator=torch.Generator().manual_seed(1))
        batch = (drawn, *batch[1:])
    zero_gradients(model)
    return Setting(name, model, loss, batch, blocks(name, model), folder)


def blocks(name: str, model: nn.Module) -> tuple[nn.Module, ...]:
    """A model's repeated parts: encoder layers, residual blocks, inverted bottlenecks."""
    inside: Any = model.model
    match name:
        case "bert_base":
            return tuple(inside.bert.encoder.layer)
        case "efficientnet_b0":
            return tuple(inside.efficientnet.encoder.blocks)
        case "resnet18":
            return tuple(block for stage in inside.resnet.encoder.stages for block in stage.layers)
    raise ValueError(f"no blocks are known of {name!r}")


def zero_gradients(model: nn.Module) -> None:
    """Every `.grad` there, and zero."""
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        else:
            parameter.grad.zero_()
