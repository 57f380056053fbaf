# SPDX-License-Identifier: Apache-2.0
"""A compiled step trains as plain torch does, to the last bit, whatever its plan pages and computes again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import finetune
from finetune.capture import capture
from finetune.capturing.optimizer import with_optimizer
from finetune.executing.sinks import Optimizing
from finetune.plan import Plan
from tests.unit.finetune.training import (
    MODELS,
    OPTIMIZERS,
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
