# SPDX-License-Identifier: Apache-2.0
"""Training in a process of its own: with the memory meter preloaded, or under a hard limit of memory.

`compare NAME BUDGETS FOLDER` prints how ours differs from eager; `plan NAME BATCH BUDGET FOLDER` leaves a plan;
`train eager|ours NAME BATCH LIMIT FOLDER` prints losses, a line for each step.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

import finetune
from benchmarks.trainers import meter
from benchmarks.trainers.exact import differences, outcome
from benchmarks.trainers.ours import Ours, prepare
from benchmarks.trainers.peers import Eager
from benchmarks.trainers.setting import Setting, open_setting
from finetune.plan_file import write_plan

STEPS = 3


def compare(name: str, budgets: str, folder: str) -> None:
    """Per budget, long operations in pieces: differences from eager's step, the peak, and what was promised."""
    setting = open_setting(name, Path(folder))
    buffers = {key: buffer.clone() for key, buffer in setting.model.named_buffers()}
    expected = {key: tensor.clone() for key, tensor in outcome(setting, Eager(setting), buffers).items()}
    prepare(setting, ["pieces"])
    rows = {}
    for budget in budgets.split(","):
        trainer = Ours(setting, budget, ["pieces"])
        trainer.turn("pieces")
        row = differences(expected, outcome(setting, trainer, buffers))
        row["peak_bytes"] = meter.counting(trainer.step)[1]
        rows[budget] = row | dict(trainer.figures())
        trainer.close()
    print(json.dumps(rows))


def plan(name: str, batch: str, budget: str, folder: str) -> None:
    """Profile and plan a step with its optimizer, as whoever has the memory to keep everything once."""
    setting, optimizer = optimized(name, int(batch), Path(folder))
    page_dir = Path(folder)
    with finetune.compile(
        setting.model, setting.loss, setting.batch, budget, page_dir=page_dir, optimizer=optimizer
    ) as step:
        write_plan(page_dir / "plan.json", step.plan)


def train(how: str, name: str, batch: str, limit: str, folder: str) -> None:
    """Three steps under a limit of bytes that the kernel holds the process to, from before the model is made."""
    if int(limit):
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
    page_dir = Path(folder)
    setting, optimizer = optimized(name, int(batch), page_dir)
    seen = 0

    def eager(*batch: Tensor) -> Tensor:
        nonlocal seen
        loss = setting.loss(setting.model(*batch[:-1]), batch[-1])
        seen = max(seen, data_bytes())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    step: Callable[..., Tensor] = eager
    if how == "ours":
        step = finetune.compile(
            setting.model,
            setting.loss,
            setting.batch,
            plan=Path(folder) / "plan.json",
            page_dir=Path(folder),
            optimizer=optimizer,
        )
    torch.manual_seed(5)
    for _ in range(STEPS):
        loss = step(*setting.batch).item().hex()
        seen = max(seen, data_bytes())
        print(json.dumps({"loss": loss, "data_bytes": seen}), flush=True)


def optimized(name: str, batch: int, folder: Path) -> tuple[Setting, torch.optim.Optimizer]:
    """A model without gradients yet, and its optimizer."""
    setting = open_setting(name, folder, batch)
    setting.model.zero_grad(set_to_none=True)
    return setting, torch.optim.SGD(setting.model.parameters(), lr=0.01, momentum=0.9)


def data_bytes(path: Path = Path("/proc/self/status")) -> int:
    """What the kernel counts against the limit."""
    return 1024 * int(path.read_text().partition("VmData:")[2].split()[0])


COMMANDS: Mapping[str, Callable[..., None]] = {"compare": compare, "plan": plan, "train": train}

if __name__ == "__main__":
    torch.set_num_threads(1)
    COMMANDS[sys.argv[1]](*sys.argv[2:])
