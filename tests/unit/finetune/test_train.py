# SPDX-License-Identifier: Apache-2.0
"""A compiled step trains as plain torch does, to the last bit, whatever its plan pages and computes again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import finetune
from finetune.capture import capture
from finetune.capturing.optimizer import with_optimizer
from finetune.executing.sinks import Optimizing
from finetune.plan import Plan
from tests.unit.finetune.training import (
    MODELS,
    OPTIMIZERS,
    Batches,
    Loss,
    Make,
    assert_equal,
    tight_plan,
    train_compiled,
    train_eagerly,
    trainable,
)


def planned(make: Make, optimizing: str | None, seed: int, share: float) -> Plan:
    model, loss, batches = make()
    graph = capture(model, loss, batches[0]).graph
    if optimizing is not None:
        rule = Optimizing(OPTIMIZERS[optimizing](trainable(model))).rule
        assert rule is not None
        graph = with_optimizer(graph, rule)
    return tight_plan(graph, seed, share)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("optimizing", [None, *sorted(OPTIMIZERS)])
def test_without_a_budget(name: str, optimizing: str | None) -> None:
    """Loss, weights, gradients, buffers, optimizer states and random state are those of the plain loop."""
    make = MODELS[name]
    model, loss, batches = make()
    optimizer = None if optimizing is None else OPTIMIZERS[optimizing](trainable(model))
    with finetune.compile(model, loss, batches[0], optimizer=optimizer) as step:
        found = train_compiled(step, model, batches, optimizer)
    assert_equal(found, train_eagerly(make, None if optimizing is None else OPTIMIZERS[optimizing]))


@pytest.mark.parametrize(
    ("name", "optimizing", "seed"),
    [
        ("residual", "sgd", 0),
        ("residual", "momentum", 1),
        ("residual", "adamw", 2),
        ("attention", "sgd", 3),
        ("attention", "momentum", 4),
        ("attention", "adamw", 5),
    ],
)
def test_at_the_smallest_budget(name: str, optimizing: str, seed: int, tmp_path: Path) -> None:
    """The same where weights, states and activations are paged and computed again as much as can be."""
    make = MODELS[name]
    plan = planned(make, optimizing, seed, 0.0)
    acts = Counter(act for act, _ in plan.schedule)
    assert acts["I"] or acts["C"] > len(set(plan.schedule))
    model, loss, batches = make()
    optimizer = OPTIMIZERS[optimizing](trainable(model))
    with finetune.compile(model, loss, batches[0], plan=plan, optimizer=optimizer, page_dir=tmp_path) as step:
        found = train_compiled(step, model, batches, optimizer)
    assert_equal(found, train_eagerly(make, OPTIMIZERS[optimizing]))
    assert not list(tmp_path.iterdir())


class Turned(nn.Module):
    """Batch normalisation of what is not contiguous: its result lies otherwise than the trace says."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 5)

    def forward(self, found: Tensor) -> Tensor:
        found = torch.tanh(self.norm(self.first(found).transpose(1, 2)))
        return self.head(found.mean(2))


def turned() -> tuple[nn.Module, Loss, Batches]:
    torch.manual_seed(3)
    batches: Batches = [(torch.randn(7, 3, 6), torch.randint(0, 5, (7,))) for _ in range(2)]
    return Turned(), nn.functional.cross_entropy, batches


def test_a_page_comes_back_in_the_layout_it_left_in(tmp_path: Path) -> None:
    """Kernels lay results out as they please; a trace only guesses how."""
    model, loss, batches = turned()
    plan = tight_plan(with_optimizer(capture(model, loss, batches[0]).graph, "sgd"), 0, only="page")
    optimizer = OPTIMIZERS["sgd"](trainable(model))
    with finetune.compile(model, loss, batches[0], plan=plan, optimizer=optimizer, page_dir=tmp_path) as step:
        found = train_compiled(step, model, batches, optimizer)
    assert_equal(found, train_eagerly(turned, OPTIMIZERS["sgd"]))
