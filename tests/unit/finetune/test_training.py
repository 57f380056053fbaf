# SPDX-License-Identifier: Apache-2.0
"""Training recipes, step for step against plain torch."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

import finetune
from finetune.errors import OptimizerRefused

BATCHES = [(torch.randn(6, 12), torch.randint(0, 5, (6,))) for _ in range(4)]


class Small(nn.Module):
    """Batch statistics, dropout and a frozen weight."""

    def __init__(self, autocast: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 5)
        self.norm, self.drop = nn.BatchNorm1d(16), nn.Dropout(0.1625)
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.autocast = autocast

    def forward(self, values: Tensor) -> Tensor:
        scope = torch.autocast("cpu", torch.bfloat16) if self.autocast else contextlib.nullcontext()
        with scope:
            found = self.drop(torch.relu(self.norm(self.first(values))))
            return self.second(self.frozen(found)).float()


def small(autocast: bool = False) -> tuple[Small, Small]:
    """Two models with the same weights."""
    torch.manual_seed(3)
    model = Small(autocast).train()
    return model, copy.deepcopy(model)


def same(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return all(torch.equal(value, right[name]) for name, value in left.items())


def trained(model: nn.Module, step: Callable[..., Tensor], after: Callable[[int], None]) -> tuple[list[Tensor], Tensor]:
    """Losses and random state after all batches; `after` each of which comes the rest of the recipe."""
    torch.manual_seed(7)
    losses = []
    for number, batch in enumerate(BATCHES):
        losses.append(step(*batch).detach().clone())
        after(number)
    return losses, torch.get_rng_state()


def plainly(model: nn.Module, optimizer: Optimizer, finish: Callable[[], None] = lambda: None) -> Callable[..., Tensor]:
    """A whole step of plain torch; `finish` comes between gradients and update."""

    def step(values: Tensor, target: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(values), target)
        loss.backward()
        finish()
        optimizer.step()
        return loss

    return step


def backward(model: nn.Module) -> Callable[..., Tensor]:
    """Plain torch's gradients alone."""

    def step(values: Tensor, target: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(model(values), target)
        loss.backward()
        return loss

    return step


def agree(left: tuple[list[Tensor], Tensor], right: tuple[list[Tensor], Tensor]) -> bool:
    return torch.equal(torch.stack(left[0]), torch.stack(right[0])) and torch.equal(left[1], right[1])


def nothing(number: int) -> None:
    """No rest."""


@pytest.mark.parametrize("make", [Adam, AdamW])
def test_a_schedule_of_rates_and_momenta(make: type[Adam]) -> None:
    """One cycle over two groups: the schedule works on the optimizer's groups, and each update takes what they say."""

    def recipe(model: Small) -> tuple[Optimizer, LRScheduler]:
        groups = [
            {"params": model.first.parameters()},
            {"params": [*model.norm.parameters(), *model.second.parameters()]},
        ]
        optimizer = make(groups, lr=0.1, weight_decay=0.01)
        return optimizer, OneCycleLR(optimizer, max_lr=[0.1, 0.02], total_steps=5)

    model, plain = small()
    optimizer, schedule = recipe(model)
    with finetune.compile(model, nn.functional.cross_entropy, BATCHES[0], optimizer=optimizer) as step:
        ours = trained(model, step, lambda number: schedule.step())
    expected, plain_schedule = recipe(plain)
    assert agree(ours, trained(plain, plainly(plain, expected), lambda number: plain_schedule.step()))
    assert same(model, plain)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_elements_clipped_inside_the_step() -> None:
    """`clip_value` is `clip_grad_value_` between the gradients and the update."""
    model, plain = small()
    optimizer = SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.5, momentum=0.9)
    with finetune.compile(model, nn.functional.cross_entropy, BATCHES[0], optimizer=optimizer, clip_value=0.01) as step:
        ours = trained(model, step, nothing)
    expected = SGD([weight for weight in plain.parameters() if weight.requires_grad], lr=0.5, momentum=0.9)
    clip = lambda: nn.utils.clip_grad_value_(plain.parameters(), 0.01)  # noqa: E731
    assert agree(ours, trained(plain, plainly(plain, expected, clip), nothing))
    assert same(model, plain)


def test_gradients_of_several_batches_with_their_norm_clipped() -> None:
    """Without an optimizer a step is `backward`: gradients add up, and are whatever plain torch makes of them."""

    def recipe(model: Small, step: Callable[..., Tensor]) -> tuple[list[Tensor], Tensor]:
        optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01)
        norms: list[Tensor] = []

        def update(number: int) -> None:
            if number % 2:
                norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.1))
                optimizer.step()
                optimizer.zero_grad(set_to_none=number == 1)

        losses, random = trained(model, step, update)
        return [*losses, *norms], random

    model, plain = small()
    with finetune.compile(model, nn.functional.cross_entropy, BATCHES[0]) as step:
        ours = recipe(model, step)
    assert agree(ours, recipe(plain, backward(plain)))
    assert same(model, plain)


@pytest.mark.parametrize("around", [False, True])
def test_autocast_inside_the_model(around: bool) -> None:
    """bfloat16 products bit for bit; an autocast around the call of a step casts nothing a second time."""
    model, plain = small(autocast=True)
    optimizer = AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.01)
    step = finetune.compile(model, nn.functional.cross_entropy, BATCHES[0], optimizer=optimizer)
    with step, torch.autocast("cpu", torch.bfloat16, enabled=around):
        ours = trained(model, step, nothing)
    expected = AdamW([weight for weight in plain.parameters() if weight.requires_grad], lr=0.01)
    assert agree(ours, trained(plain, plainly(plain, expected), nothing))
    assert same(model, plain)


def test_autocast_around_compile_is_refused() -> None:
    """Plain torch would not run the backward part in it; the message says where it belongs."""
    model, _ = small()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="inside the model's forward"):
        finetune.compile(model, nn.functional.cross_entropy, BATCHES[0])


def test_a_weight_that_nobody_updates_is_refused() -> None:
    """It is named before anything runs; frozen weights need no group."""
    model, _ = small()
    optimizer = SGD([*model.first.parameters(), *model.second.parameters()], lr=0.1)
    with pytest.raises(OptimizerRefused, match=r"norm\.weight"):
        finetune.compile(model, nn.functional.cross_entropy, BATCHES[0], optimizer=optimizer)
