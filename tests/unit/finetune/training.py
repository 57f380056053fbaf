# SPDX-License-Identifier: Apache-2.0
"""Small models with their batches, plans of every mixture of paging and computing again, and runs to compare."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from finetune.graph import Graph
from finetune.plan import Plan, plan
from finetune.planning.limits import ROOMY, plain_step
from finetune.planning.smallest import smallest_budget
from finetune.problem import Costs, Limits, Only, Problem
from finetune.train import TrainStep
from tests.unit.finetune.captured_steps import Attention, Residual, flat_cross_entropy

Loss = Callable[..., Tensor]
Batches = list[tuple[Tensor, ...]]
Make = Callable[[], tuple[nn.Module, Loss, Batches]]
MakeOptimizer = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]


def residual() -> tuple[nn.Module, Loss, Batches]:
    torch.manual_seed(1)
    batches: Batches = [(torch.randn(4, 3, 12, 12), torch.randint(0, 5, (4,))) for _ in range(4)]
    return Residual(), nn.functional.cross_entropy, batches


def attention() -> tuple[nn.Module, Loss, Batches]:
    torch.manual_seed(2)
    batches: Batches = [(tokens := torch.randint(0, 11, (3, 6)), tokens) for _ in range(4)]
    return Attention(), flat_cross_entropy, batches


MODELS: dict[str, Make] = {"residual": residual, "attention": attention}

OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


def random_problem(graph: Graph, seed: int) -> Problem:
    """The graph at random costs, so that plans mix paging and computing again differently for each seed."""
    chance = random.Random(seed)
    ops, storages = len(graph.ops), len(graph.storages)
    columns = [
        tuple(chance.random() for _ in range(count)) for count in (ops, ops, storages, storages, storages, storages)
    ]
    times, joules, write_s, write_j, read_s, read_j = columns
    return Problem(graph, Costs(times, joules, (0,) * ops, write_s, write_j, read_s, read_j, 0.1), Limits(ROOMY))


def tight_plan(graph: Graph, seed: int, share: float = 0.0, only: Only = "both") -> Plan:
    """A plan whose budget is this share of the way from the least that the search can do with to keeping everything."""
    problem = random_problem(graph, seed)
    most = plain_step(problem).peak_bytes
    least = smallest_budget(problem, seed, only) or most
    budget_bytes = int(least + share * (most - least))
    return plan(replace(problem, limits=Limits(budget_bytes)), seed=seed, steps=100, effort=0, only=only)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """Every weight, buffer, gradient and optimizer state, and the random state."""
    found = {name: value.clone() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"{name}.grad"] = parameter.grad.clone()
        if optimizer is not None:
            state = optimizer.state.get(parameter, {})
            found |= {f"{name}.{key}": value.clone() for key, value in state.items() if isinstance(value, Tensor)}
    return found | {"random": torch.get_rng_state()}


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Those that the step touches; one layer of `Attention` is unused."""
    return [parameter for name, parameter in model.named_parameters() if not name.startswith("unused")]


def train_eagerly(make: Make, optimizing: MakeOptimizer | None) -> list[dict[str, Tensor]]:
    """What plain torch comes to after each batch."""
    model, loss, batches = make()
    optimizer = None if optimizing is None else optimizing(trainable(model))
    torch.manual_seed(7)
    found = []
    for batch in batches:
        value = loss(model(*batch[:-1]), batch[-1])
        value.backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        found.append({"loss": value.detach(), **state_of(model, optimizer)})
    return found


def train_compiled(
    step: TrainStep, model: nn.Module, batches: Batches, optimizer: torch.optim.Optimizer | None
) -> list[dict[str, Tensor]]:
    """The same from a compiled step."""
    torch.manual_seed(7)
    found = []
    for batch in batches:
        value = step(*batch)
        with step.resident():
            found.append({"loss": value, **state_of(model, optimizer)})
    return found


def assert_equal(found: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    """To the last bit, step by step."""
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.keys() == theirs.keys()
        different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
        assert not different, f"step {number}: {different}"
