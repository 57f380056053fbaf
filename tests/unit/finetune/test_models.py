# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from finetune.capture import capture
from finetune.capturing.models import load
from finetune.capturing.torch_private import check_torch
from finetune.errors import CaptureRefused, UnsupportedTorch
from model_repository.architectures import UnknownArchitecture

FACTORY = """
import torch
from torch import nn

def step(batch):
    return nn.Linear(4, 3), nn.functional.cross_entropy, (torch.ones(batch, 4), torch.zeros(batch, dtype=torch.long))

def own_loss(batch):
    class Mean(nn.Linear):
        def forward(self, values):
            return super().forward(values).mean()
    return Mean(4, 3), None, [torch.ones(batch, 4)]

def wrong(batch):
    return nn.Linear(4, 3)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a user's module in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_own_step.py").write_text(FACTORY)
    monkeypatch.delitem(sys.modules, "users_own_step", raising=False)
    return "users_own_step"


def test_a_named_model_is_the_same_each_time_and_draws_nothing() -> None:
    """Weights and batch depend on the seed alone; torch's random state is as before."""
    state = torch.get_rng_state()
    (one, loss, batch), (other, _, again) = load("digits_cnn", 3), load("digits_cnn", 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(*pair) for pair in zip(batch, again, strict=True))
    assert one.training
    assert loss is not None
    assert [tuple(tensor.shape) for tensor in batch] == [(3, 1, 8, 8), (3,)]


@pytest.mark.parametrize("factory", ["step", "own_loss"])
def test_a_users_factory_is_found_from_the_working_folder(mine: str, factory: str) -> None:
    """It gives a module, its loss or None, and a batch; the import path is as before."""
    path = list(sys.path)
    model, loss, batch = load(f"{mine}:{factory}", 5)
    assert sys.path == path
    assert len(batch[0]) == 5
    assert capture(model, loss, batch).graph.ops


@pytest.mark.parametrize(("name", "why"), [("wrong", "must return"), ("absent", "absent"), ("step.x", "step.x")])
def test_a_factory_that_is_none_is_refused(mine: str, name: str, why: str) -> None:
    """The error names it."""
    with pytest.raises(CaptureRefused, match=why) as refused:
        load(f"{mine}:{name}", 5)
    assert refused.value.op == f"{mine}:{name}"


def test_unknown_names_are_refused() -> None:
    """A model by the known ones, a module by its name."""
    with pytest.raises(UnknownArchitecture, match="digits_cnn"):
        load("digits_cmn", 1)
    with pytest.raises(CaptureRefused, match="no_such_module"):
        load("no_such_module:step", 1)


@pytest.mark.parametrize("found", ["2.8.0", "2.1.0a0+41361538.nv23.06", "2.130.0", "3.0.0"])
def test_a_torch_that_was_never_seen_to_work_is_refused(found: str) -> None:
    """The error names it and those that are known; the one installed is known."""
    with pytest.raises(UnsupportedTorch, match=r"2\.13") as refused:
        check_torch(found)
    assert refused.value.found == found
    check_torch()
