# SPDX-License-Identifier: Apache-2.0
"""Whole models: minutes and gigabytes."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from finetune.capture import capture
from finetune.capturing.models import load
from finetune.capturing.torch_private import recording_memory
from finetune.problem import Limits
from finetune.profile import problem_of, profile
from finetune.replay import replay
from finetune.schedule import keep_everything
from tests.unit.finetune.captured_steps import eager, planned

pytestmark = [pytest.mark.external, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    gc.collect()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_b0", "vgg16", "bert_mini", "bert_base"])
def test_the_captured_step_is_bitwise_the_eager_one(name: str) -> None:
    """Loss, gradients, statistics and random state of every named model are eager's to the last bit."""
    model, loss, batch = load(name, 2)
    assert loss is not None
    captured = capture(model, loss, batch, name)
    found = planned(captured, seed=11)
    expected = eager(model, loss, batch, seed=11)
    assert {key for key in expected if key.startswith(("grad", "loss", "random"))} <= set(found)
    for key, value in found.items():
        assert torch.equal(value, expected[key]), key


def test_the_peak_is_what_eager_needs(tmp_path) -> None:
    """The judge's activation peak of ResNet-18, workspaces included, is the allocator's in an ordinary step."""
    model, loss, batch = load("resnet18", 8)
    assert isinstance(model, nn.Module)
    assert loss is not None
    captured = capture(model, loss, batch)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    loss(model(*batch[:-1]), batch[-1]).backward()
    with recording_memory() as events:
        loss(model(*batch[:-1]), batch[-1]).backward()
    live = worst = 0
    for _, _, _, size_bytes in sorted(
        (event for event in events if event[0] == "[memory]"), key=lambda event: event[1]
    ):
        live += size_bytes
        worst = max(worst, live)
    problem = problem_of(captured.graph, profile(captured, tmp_path, repeats=1), Limits(1 << 40))
    found = replay(problem, keep_everything(captured.graph)).activation_peak_bytes
    assert found == pytest.approx(worst, rel=0.01)
