# SPDX-License-Identifier: Apache-2.0
"""A fine-tuner to be killed: a small network under its smallest budget, paged, saved every few steps, taken up again.

`main([folder, steps, every])` pages in `folder/pages`, goes on from the checkpoint in `folder/saved` if there is one,
and notes each loss in `folder/losses`, bit for bit. What it does depends on nothing but the folder. With `plain` for a
fourth argument it does the same in plain torch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

import finetune
from finetune.capture import capture
from finetune.capturing.optimizer import with_optimizer
from finetune.checkpoint import TrainingState, load, save
from finetune.data_order import DataOrder
from finetune.errors import PagesError
from finetune.executing.lower import judged
from finetune.plan import Plan
from finetune.plan_file import read_plan, write_plan
from finetune.planning.limits import ROOMY
from finetune.planning.paging import page_everything

NAME = "a small network"
CHECKPOINT, LOSSES = Path("saved/checkpoint.safetensors"), Path("losses")
SAMPLES, BATCH = 50, 8
STOPPED = 3
"""The exit code of a run whose pages failed."""
cross_entropy = nn.functional.cross_entropy


def network() -> nn.Module:
    """Convolutions, statistics and dropout."""
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Conv2d(16, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.Linear(16 * 49, 10)),
    )


def pictures() -> tuple[Tensor, Tensor]:
    """`SAMPLES x 1 x 16 x 16`, and what they show."""
    chance = torch.Generator().manual_seed(2)
    return torch.randn(SAMPLES, 1, 16, 16, generator=chance), torch.randint(0, 10, (SAMPLES,), generator=chance)


def lay_out(folder: Path) -> None:
    """Make a folder for `main`; its plan keeps in RAM only what an operation touches, and needs no planner."""
    images, labels = pictures()
    captured = capture(network(), cross_entropy, (images[:BATCH], labels[:BATCH]))
    graph = with_optimizer(captured.graph, "adam")
    roomy = Plan("feasible", "real", graph.digest, "", "", ROOMY, 0.0, page_everything(graph))
    least = judged(graph, roomy).peak_bytes
    write_plan(folder / "plan.json", replace(roomy, budget_bytes=least, peak_bytes=least, energy_j=0.0))
    for name in ("pages", "saved"):
        (folder / name).mkdir()


def laid_out(arguments: Sequence[str]) -> int:
    """`lay_out` as a process."""
    lay_out(Path(arguments[0]))
    return 0


def main(arguments: Sequence[str]) -> int:
    """Train; 0 when all steps are done, `STOPPED` when a page could not be moved."""
    try:
        return _train(arguments)
    except PagesError as error:
        print(f"stopped: {type(error).__name__}: {error}", flush=True)
        return STOPPED


def _train(arguments: Sequence[str]) -> int:
    folder, steps, every = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    torch.set_num_threads(1)
    images, labels = pictures()
    model, order = network(), DataOrder(SAMPLES, BATCH, seed=3)
    optimizer = AdamW(model.parameters(), lr=0.01)
    schedule = CosineAnnealingLR(optimizer, 30)
    torch.manual_seed(4)
    losses = os.open(folder / LOSSES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with _steps(folder, model, optimizer, plainly="plain" in arguments) as step:
        begun = 0
        if (folder / CHECKPOINT).exists():
            state = load(folder / CHECKPOINT, NAME)
            step.load_state_dict(state.trained())
            schedule.load_state_dict(state.scheduler or {})
            order.load_state_dict(state.data or {})
            begun = state.step
        for number in range(begun, steps):
            batch = next(order)
            loss = step(images[batch], labels[batch])
            schedule.step()
            os.write(losses, f"{number} {float(loss).hex()}\n".encode())
            if (number + 1) % every == 0:
                now = TrainingState.of(NAME, number + 1, model, optimizer, schedule, data=order.state_dict())
                _saved(folder / CHECKPOINT, now, step)
    return 0


class Plainly:
    """What a `TrainStep` does, in plain torch."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def __call__(self, *batch: Tensor) -> Tensor:
        loss = cross_entropy(self.model(batch[0]), batch[1])
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def borrowed(self, tensor: Tensor) -> contextlib.AbstractContextManager[Tensor]:
        """It is always in RAM."""
        return contextlib.nullcontext(tensor)

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take a state up."""
        TrainingState(NAME, 0, **state).restore(self.model, self.optimizer)  # type: ignore[arg-type]


@contextlib.contextmanager
def _steps(folder: Path, model: nn.Module, optimizer: Optimizer, *, plainly: bool) -> Iterator[finetune.TrainStep]:
    if plainly:
        yield Plainly(model, optimizer)  # type: ignore[misc]
        return
    images, labels = pictures()
    example, known = (images[:BATCH], labels[:BATCH]), read_plan(folder / "plan.json")
    with finetune.compile(
        model, cross_entropy, example, optimizer=optimizer, plan=known, page_dir=folder / "pages"
    ) as step:
        yield step


def _saved(path: Path, state: TrainingState, step: finetune.TrainStep) -> None:
    """A run need not end with the disk's room: the last checkpoint stays, and the next may find more."""
    try:
        save(path, state, borrow=step.borrowed)
    except OSError as error:
        print(f"no checkpoint of step {state.step}: {error}", flush=True)
