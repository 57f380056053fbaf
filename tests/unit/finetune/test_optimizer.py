# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from finetune.capture import Accumulate, Call, Captured, capture
from finetune.capturing.operations import Operations
from finetune.capturing.optimizer import STATES, Rule, with_optimizer
from finetune.errors import GraphInvalid
from finetune.executing.sinks import Optimizing
from finetune.graph import Graph, Op, Storage
from tests.unit.finetune.captured_steps import Attention, flat_cross_entropy

BATCH = (torch.arange(12).view(2, 6) % 11, (torch.arange(12).view(2, 6) * 5) % 11)
TORCH = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=1e-3),
    "momentum": lambda weights: torch.optim.SGD(weights, lr=1e-3, momentum=0.9),
    "adam": lambda weights: torch.optim.Adam(weights, lr=1e-3),
}


@pytest.fixture(scope="module")
def traced() -> tuple[nn.Module, Captured]:
    torch.manual_seed(4)
    model = Attention()
    return model, capture(model, flat_cross_entropy, BATCH)


def train(captured: Captured, graph: Graph, rule: Rule, sink: Optimizing) -> None:
    """One step of a graph with updates in it, on the model's own weights, each storage dropped after its last use."""
    operations = Operations(captured)
    gradients = {
        action.parameter.removeprefix("model."): action
        for action in captured.actions.values()
        if isinstance(action, Accumulate)
    }
    with torch.no_grad():
        for number, op in enumerate(graph.ops):
            if op.target == rule:
                found = gradients[graph.storages[op.updates[0]].name]
                weight = captured.step.get_parameter(found.parameter)
                sink.take(found.parameter, weight, operations.look(found.node), lambda: None)
            else:
                action = captured.actions[op.name]
                assert isinstance(action, Call)
                operations.keep(action.node, operations.call(action.node))
            for storage in graph.touched(number):
                made = graph.producers[storage] is not None
                if made and graph.users[storage][-1:] <= (number,) and not graph.storages[storage].kept:
                    operations.values.pop(captured.primaries.get(graph.storages[storage].name), None)


@pytest.mark.parametrize("rule", sorted(TORCH))
def test_updates_inside_the_step_are_torchs_after_it(traced: tuple[nn.Module, Captured], rule: Rule) -> None:
    """Three steps with each weight updated as early as it can be leave the weights that torch.optim leaves, bitwise."""
    model, captured = traced
    plain = copy.deepcopy(model)
    optimizer = TORCH[rule](plain.parameters())
    graph = with_optimizer(captured.graph, rule)
    sink = Optimizing(TORCH[rule](model.parameters()))
    for step in (1, 2, 3):
        torch.manual_seed(step)
        optimizer.zero_grad()
        flat_cross_entropy(plain(BATCH[0]), BATCH[1]).backward()
        optimizer.step()
        torch.manual_seed(step)
        train(captured, graph, rule, sink)
    expected = dict(plain.named_parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(weight, expected[name]), name


def small_step() -> Graph:
    """A weight that is still needed after its gradient is there."""
    storages = (
        Storage("weight", 40, "parameter"),
        Storage("made", 8),
        Storage("gradient", 40),
        Storage("back", 8),
        Storage("weight.grad", 40, "gradient"),
    )
    ops = (
        Op("forward", "made up", (0,), (1,)),
        Op("gradient", "made up", (1,), (2,), phase="backward"),
        Op("accumulate weight", "accumulate", (2,), (), (4,), again=False, phase="backward"),
        Op("input gradient", "made up", (0, 2), (3,), phase="backward"),
    )
    return Graph("small", ops, storages)


def test_a_weight_is_updated_after_its_last_reader() -> None:
    """The update waits for whoever needs the old value, and nothing carries the gradient over."""
    graph = with_optimizer(small_step(), "sgd")
    assert [op.name for op in graph.ops] == ["forward", "gradient", "input gradient", "update weight"]
    assert [storage.name for storage in graph.storages] == ["weight", "made", "gradient", "back"]
    assert graph.ops[-1].updates == (0,)
    assert not graph.ops[-1].again


@pytest.mark.parametrize("rule", sorted(STATES))
def test_states_are_as_large_as_their_weight(rule: Rule) -> None:
    """Momentum remembers once a weight, Adam twice."""
    graph = with_optimizer(small_step(), rule)
    states = [storage for storage in graph.storages if storage.kind == "optimizer"]
    assert [storage.name for storage in states] == [f"weight.{state}" for state in STATES[rule]]
    assert all(storage.size_bytes == 40 for storage in states)
    changed = [graph.storages[storage].name for storage in graph.ops[-1].updates]
    assert changed == ["weight", *(storage.name for storage in states)]


def test_an_unknown_rule_is_refused() -> None:
    """So is a graph without gradients."""
    with pytest.raises(GraphInvalid, match="adamw"):
        with_optimizer(small_step(), "adamw")  # type: ignore[arg-type]
    with pytest.raises(GraphInvalid, match="no gradients"):
        with_optimizer(with_optimizer(small_step(), "sgd"), "sgd")
