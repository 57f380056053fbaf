# SPDX-License-Identifier: Apache-2.0
"""A run of training that is killed and taken up again, as real processes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune.checkpoint import load
from tests.faults.trainer import CHECKPOINT, LOSSES, NAME, lay_out
from tests.faults.zygote import Child, Zygote

STEPS, EVERY, DEADLINE_S = 30, 3, 120.0


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(("tests.faults.warm",)) as made:
        yield made


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    lay_out(folder)
    return folder


def train(zygote: Zygote, folder: Path, *how: str) -> Child:
    return zygote.fork([str(folder), str(STEPS), str(EVERY), *how], folder / "log", main="tests.faults.trainer:main")


def losses(folder: Path) -> list[list[str]]:
    """Step and loss of every step whose note is whole, repeated ones included."""
    path = folder / LOSSES
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def values(found: object) -> Iterator[object]:
    """All that a nested state holds, in the order of its names; tensors as their bytes."""
    match found:
        case Tensor():
            yield str(found.dtype), found.shape, found.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        case dict():
            for key in sorted(found):  # states are in the order of the first updates
                yield key
                yield from values(found[key])
        case list() | tuple():
            for value in found:
                yield from values(value)
        case _:
            yield found


def test_killed_anywhere(zygote: Zygote, laid_out: Path, tmp_path: Path) -> None:
    """However often it is killed, paging or in plain torch, a run comes to the losses and the state of one that is not.

    Nothing of the killed processes is left: no pages, and no half of a checkpoint.
    """
    for name in ("pages", "saved"):
        (tmp_path / name).mkdir()
    whole = train(zygote, tmp_path, "plain")
    assert whole.wait(DEADLINE_S) == 0, whole.said
    curve = dict(losses(tmp_path))
    assert len(curve) == STEPS
    chance, kills = random.Random(5), 0
    while True:
        child = train(zygote, laid_out, *(["plain"] if kills % 4 == 3 else []))
        lines = len(losses(laid_out)) + chance.randint(0, 6)
        while child.running and len(losses(laid_out)) <= lines:
            child.wait(0.001)
        child.wait(0.02 * chance.random())
        if not child.running:
            break
        child.end()
        kills += 1
        assert kills < 100, "it never comes to an end"
    assert (child.code, kills > 3) == (0, True), child.said
    assert {tuple(line) for line in losses(laid_out)} == set(curve.items())
    found, expected = load(laid_out / CHECKPOINT, NAME), load(tmp_path / CHECKPOINT, NAME)
    for name in ("model", "optimizer", "rng", "scheduler", "data", "step"):
        assert list(values(getattr(found, name))) == list(values(getattr(expected, name))), name
    assert list((laid_out / "pages").iterdir()) == []
    assert list((laid_out / "saved").iterdir()) == [laid_out / CHECKPOINT]
