# SPDX-License-Identifier: Apache-2.0
"""How much of a step's time memory traffic takes: counted bytes at the measured speed of this memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import finetune
from finetune.graph import Graph, Op, Storage
from finetune.profiling.memory import memory_bytes_per_s, memory_share
from finetune.schedule import keep_everything, schedule_of, traffic_bytes


class Scale(nn.Module):
    """One product per element that is read."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(elements))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.factors


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As fine-tuning beside inference has it; two that wait for each other are slowed at random by neighbours."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    memory_bytes_per_s.cache_clear()
    yield
    memory_bytes_per_s.cache_clear()
    torch.set_num_threads(threads)


def share_of(model: nn.Module, inputs: Tensor) -> float:
    """That of a few real steps."""
    with finetune.compile(model, lambda found, wanted: (found * wanted).sum(), (inputs, inputs[:1])) as step:
        assert step.report.memory_share is None
        for _ in range(4):
            step(inputs, inputs[:1])
        share = step.report.memory_share
    assert share is not None
    return share


def test_what_a_step_touches_is_counted_as_often_as_it_is_computed() -> None:
    """Inputs, results and what is changed in place; nothing for transfers and frees."""
    ops = (Op("a", "f", (0,), (1,)), Op("b", "g", (0, 1), (2,)), Op("c", "h", (2,), (), (0,)))
    graph = Graph("three", ops, (Storage("w", 100), Storage("x", 10), Storage("y", 1)))
    assert traffic_bytes(graph, keep_everything(graph)) == 110 + 111 + 101
    again = schedule_of([["C", 0], ["F", 1], ["C", 0], ["C", 1], ["O", 0], ["C", 2]])
    assert traffic_bytes(graph, again) == 2 * 110 + 111 + 101


@pytest.mark.usefixtures("one_thread")
def test_a_step_of_products_is_bound_by_arithmetic_and_one_of_sums_by_memory() -> None:
    """On this machine, with real steps; neighbours slow both."""
    products, sums = (
        share_of(nn.Linear(1152, 1152), torch.ones(1152, 1152)),
        share_of(Scale(1 << 20), torch.ones(1, 1 << 20)),
    )
    assert products < 0.2
    assert sums > 3 * products


def test_memory_has_one_speed_and_no_share_is_above_all_of_the_time() -> None:
    """Caches make a step look faster than memory; it is bound by it all the same."""
    assert memory_bytes_per_s("cpu") == memory_bytes_per_s("cpu") > 1e8
    assert memory_share(100, 1000.0, 0.4) == pytest.approx(0.25)
    assert memory_share(1000, 1000.0, 0.4) == 1.0
