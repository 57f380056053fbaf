# SPDX-License-Identifier: Apache-2.0
"""Operations for whose workspace there is no room are computed in pieces."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import finetune
from finetune.capture import capture
from finetune.errors import NoPlan, PlanInvalid
from finetune.plan_file import parse_plan, to_json, write_plan
from finetune.profile import Profile, profile
from tests.unit.finetune.training import assert_equal, state_of

pytestmark = pytest.mark.usefixtures("one_thread")
HUGE_BYTES, BUDGET_BYTES = 1 << 28, 1 << 27


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(5)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), *head)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(6)
    return torch.randn(8, 3, 112, 112), torch.arange(8) % 5


def hungry(model: nn.Module, batch: tuple[Tensor, Tensor], target: str, folder: Path) -> tuple[Profile, str]:
    """A profile by which the one op of this kind needs more workspace than there is, and the op's name."""
    captured = capture(model, nn.functional.cross_entropy, batch)
    (name,) = (op.name for op in captured.graph.ops if op.target == target)
    known = profile(captured, folder, repeats=1)
    return replace(known, ops={**known.ops, name: replace(known.ops[name], workspace_bytes=HUGE_BYTES)}), name


def test_what_has_no_room_whole_is_computed_in_pieces(
    model: nn.Module, batch: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    """The plan says which, here and from its file; loss, gradients and statistics are plain torch's bit for bit."""
    loss, plain = nn.functional.cross_entropy, copy.deepcopy(model)
    known, name = hungry(model, batch, "aten.native_batch_norm_backward.default", tmp_path)
    expected = loss(plain(batch[0]), batch[1])
    torch.autograd.backward(expected)
    found = copy.deepcopy(model)
    with finetune.compile(found, loss, batch, BUDGET_BYTES, profile=known, page_dir=tmp_path) as step:
        plan = step.plan
        assert torch.equal(step(*batch), expected.detach())
    assert plan.in_pieces == (name,)
    assert plan.peak_bytes is not None
    assert plan.peak_bytes <= BUDGET_BYTES
    write_plan(tmp_path / "plan.json", plan)
    again = copy.deepcopy(model)
    with finetune.compile(again, loss, batch, plan=tmp_path / "plan.json", page_dir=tmp_path) as step:
        assert step.plan == plan
        assert torch.equal(step(*batch), expected.detach())
    assert_equal([state_of(found, None), state_of(again, None)], [state_of(plain, None)] * 2)


def test_how_short_an_operation_is_does_not_matter_where_it_has_no_room(tmp_path: Path) -> None:
    """One of microseconds, far below what is split for the sake of inference, is computed in pieces all the same."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    batch = torch.randn(8, 3, 12, 12), torch.arange(8)
    known, name = hungry(model, batch, "aten.native_batch_norm_backward.default", tmp_path)
    loss = nn.functional.cross_entropy
    expected = loss(copy.deepcopy(model)(batch[0]), batch[1]).detach()
    with finetune.compile(model, loss, batch, BUDGET_BYTES, profile=known, page_dir=tmp_path) as step:
        assert step.plan.in_pieces == (name,)
        assert torch.equal(step(*batch), expected)


def test_what_has_no_exact_pieces_is_refused_by_name(
    model: nn.Module, batch: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    """An operation too short to be split has no room still; a plan that wants it in pieces is refused."""
    loss = nn.functional.cross_entropy
    known, name = hungry(model, batch, "aten.nll_loss_forward.default", tmp_path)
    with pytest.raises(NoPlan, match=f"{name} alone needs"):
        finetune.compile(model, loss, batch, BUDGET_BYTES, profile=known, page_dir=tmp_path)
    with finetune.compile(model, loss, batch) as step:
        plan = replace(step.plan, in_pieces=(name,))
    with pytest.raises(NoPlan, match=f"no exact pieces here of {name}"):
        finetune.compile(model, loss, batch, plan=plan)


@pytest.mark.parametrize("names", ["relu", [1], {"relu": 1}])
def test_names_that_are_none_are_refused(model: nn.Module, batch: tuple[Tensor, Tensor], names: object) -> None:
    """The field holds names of operations and nothing else."""
    with finetune.compile(model, nn.functional.cross_entropy, batch) as step:
        content = json.loads(json.dumps(to_json(step.plan)))
    with pytest.raises(PlanInvalid, match="in_pieces"):
        parse_plan(content | {"in_pieces": names})
