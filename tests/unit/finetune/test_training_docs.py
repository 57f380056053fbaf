# SPDX-License-Identifier: Apache-2.0
"""What the guide to training shows, run as it stands there, next to plain PyTorch."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from transformers import Trainer

import finetune
from finetune import errors

DOCS = Path(__file__).resolve().parents[3] / "docs"
GUIDE = (DOCS / "training.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))


def imported(name: str) -> Iterator[ModuleType]:
    """An example as a module, for as long as the tests of this file run."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", DOCS / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def plain_loop() -> Iterator[ModuleType]:
    yield from imported("plain_loop")


@pytest.fixture(scope="module")
def hugging_face() -> Iterator[ModuleType]:
    yield from imported("hugging_face")


def same(one: nn.Module, other: nn.Module) -> bool:
    """Bitwise the same weights and buffers."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def test_the_guide_shows_what_the_examples_run() -> None:
    """Every block of code in the guide stands in an example, word for word but for how far it is indented."""
    texts = [path.read_text() for path in EXAMPLES]
    assert len(SNIPPETS) == 6
    for snippet in SNIPPETS:
        indented = [textwrap.indent(snippet, " " * depth) for depth in (0, 4, 8)]
        assert any(found in text for text in texts for found in indented), snippet


def test_the_guide_knows_every_argument_and_every_error() -> None:
    """Each argument of `compile` has a row, and what is said to be raised exists."""
    first = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", GUIDE, flags=re.MULTILINE)
    named = [name for cell in first for name in re.findall(r"\w+", cell)]
    arguments = {name for name in inspect.signature(finetune.compile).parameters if name != "progress"}
    assert arguments <= set(named)
    raised = {name for name in named if name[0].isupper()} - {"ValueError"}
    assert len(raised) >= 10
    for name in raised:
        assert issubclass(getattr(errors, name), errors.FinetuneError)


@pytest.mark.parametrize("half", [False, True])
def test_the_plain_loop_trains_as_plain_torch(plain_loop: ModuleType, tmp_path: Path, half: bool) -> None:
    """In less memory, with a schedule, with and without bfloat16, weights and statistics are bitwise the same."""
    torch.manual_seed(0)
    model, batches = plain_loop.classifier(), plain_loop.pictures(4)
    if half:
        model = plain_loop.Half(model).train()
    plain = copy.deepcopy(model)
    torch.manual_seed(1)
    # bfloat16 convolutions need more workspace here than half the activations.
    report = plain_loop.fine_tune(model, batches, batches[0], tmp_path, "8MB" if half else "50%")
    random = torch.get_rng_state()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
    torch.manual_seed(1)
    for picture, target in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(picture), target).backward()
        optimizer.step()
        schedule.step()
    assert same(model, plain)
    assert torch.equal(random, torch.get_rng_state())
    assert report.steps == 4
    assert list(tmp_path.iterdir()) == []


def test_batches_add_up_and_norms_are_clipped_as_in_plain_torch(plain_loop: ModuleType, tmp_path: Path) -> None:
    """Two batches to an update, a common norm, an optimizer outside of the step: bitwise the same."""
    torch.manual_seed(0)
    model, batches = plain_loop.classifier(), plain_loop.pictures(4)
    plain = copy.deepcopy(model)
    torch.manual_seed(1)
    plain_loop.accumulate(model, batches, batches[0], tmp_path)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(1)
    for number, (picture, target) in enumerate(batches):
        (nn.functional.cross_entropy(plain(picture), target) / 2).backward()
        if number % 2:
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    assert same(model, plain)


def test_a_run_that_stopped_goes_on_with_the_same_bits(plain_loop: ModuleType, tmp_path: Path) -> None:
    """Three updates, and then from the file two more in a model of other weights, are five in one go."""
    torch.manual_seed(0)
    data = (torch.randn(21, 3, 32, 32), torch.randint(0, 10, (21,)))
    first = plain_loop.classifier()
    whole = copy.deepcopy(first)
    torch.manual_seed(1)
    plain_loop.train_on(whole, data, 5, tmp_path / "whole")
    torch.manual_seed(1)
    plain_loop.train_on(first, data, 3, tmp_path / "stopped")
    torch.manual_seed(2)
    second = plain_loop.classifier()
    plain_loop.train_on(second, data, 5, tmp_path / "stopped")
    assert same(second, whole)
    assert not same(first, whole)


class Plain(Trainer):
    """Divides the loss as the example does."""

    loss_is_scaled_for_ga = False


@pytest.mark.parametrize("half", [False, True])
def test_a_trainer_within_a_budget_trains_as_one_without(hugging_face: ModuleType, tmp_path: Path, half: bool) -> None:
    """Accumulation, clipping, a schedule, epochs whose last update has fewer batches, bfloat16: the same bits."""
    torch.manual_seed(0)
    model, data = hugging_face.tiny_bert(), hugging_face.sentences(28)  # seven batches, the last one alone
    plain = copy.deepcopy(model)
    arguments = replace(hugging_face.arguments(tmp_path / "run"), bf16=half)
    pages = tmp_path / "pages"
    pages.mkdir()
    planned = hugging_face.PlannedTrainer(
        model, arguments, train_dataset=data, budget=None if half else "50%", pages=pages
    )
    losses = [planned.train().training_loss, Plain(plain, arguments, train_dataset=data).train().training_loss]
    assert losses[0] == losses[1]
    assert same(model, plain)
    assert planned.compiled.report.steps == 14
