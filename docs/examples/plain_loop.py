# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes a small classifier on made-up pictures, with half the memory for activations: `python plain_loop.py`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

import finetune
from finetune.checkpoint import TrainingState, load, save
from finetune.data_order import DataOrder

Batch = tuple[Tensor, Tensor]


def classifier() -> nn.Module:
    """Convolutions with batch normalisation and dropout; ten classes."""
    layers: list[nn.Module] = []
    for width, wider in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(width, wider, 3, padding=1), nn.BatchNorm2d(wider), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).train()


class Half(nn.Module):
    """A model whose products are computed in bfloat16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, picture: Tensor) -> Tensor:
        """As the model's, in float32."""
        with torch.autocast("cpu", torch.bfloat16):
            found: Tensor = self.model(picture)
        return found.float()


def pictures(count: int) -> list[Batch]:
    """Batches of eight, with their classes."""
    return [(torch.randn(8, 3, 32, 32), torch.randint(0, 10, (8,))) for _ in range(count)]


def fine_tune(
    model: nn.Module, batches: Iterable[Batch], example: Batch, pages: Path, budget: str = "50%"
) -> finetune.Report:
    """Every batch once; the optimizer steps inside, weight by weight."""
    loss = nn.functional.cross_entropy
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
    with finetune.compile(model, loss, example, budget, optimizer=optimizer, page_dir=pages) as step:
        for picture, target in batches:
            step(picture, target)
            schedule.step()
        return step.report


def halved(found: Tensor, target: Tensor) -> Tensor:
    """The loss of one of two batches."""
    return nn.functional.cross_entropy(found, target) / 2


def accumulate(model: nn.Module, batches: Iterable[Batch], example: Batch, pages: Path) -> None:
    """Two batches to an update, and the norm of all gradients clipped: plain torch steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with finetune.compile(model, halved, example, "60%", page_dir=pages) as step:
        for number, (picture, target) in enumerate(batches):
            step(picture, target)
            if number % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()


def train_on(model: nn.Module, data: Batch, updates: int, saved: Path, budget: str | None = None) -> None:
    """Up to so many updates, from where the last run was stopped if there was one."""
    picture, target = data
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    order, done = DataOrder(len(target), batch=8, seed=1), 0
    example = (picture[:8], target[:8])
    with finetune.compile(model, nn.functional.cross_entropy, example, budget, optimizer=optimizer) as step:
        if saved.exists():
            state = load(saved, "classifier")
            step.load_state_dict(state.trained())
            order.load_state_dict(state.data or {})
            done = state.step
        while done < updates:
            picked = next(order)
            step(picture[picked], target[picked])
            done += 1
            now = TrainingState.of("classifier", done, model, optimizer, data=order.state_dict())
            save(saved, now, borrow=step.borrowed)


if __name__ == "__main__":
    data = pictures(20)
    with tempfile.TemporaryDirectory() as folder:
        print(fine_tune(classifier(), data, data[0], Path(folder)))
