# SPDX-License-Identifier: Apache-2.0
"""The arms: who trains beside inference, and how it keeps out of the way.

All train the same model on the same batch with AdamW and one compute thread, in a process of their own.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import finetune
from finetune.capturing.models import load
from finetune.pacer import ALONE, Gate, Heart, step_aside
from finetune.splitting import LONGEST_S
from telemetry.rundir import RunDir
from telemetry.trainer_page import JobNotice, TrainerPage

BATCHES: Mapping[str, int] = {"digits_cnn": 128, "bert_mini": 8, "efficientnet_b0": 4}
"""Samples of a training step."""
LEARNING_RATE = 1e-4
PREPARING_S = 120.0
"""For how long ours may prepare before anybody governs it."""
JOB, STEPS = "corun", 1_000_000
"""Ours is one job that never ends."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train; `policy`: how the kernel is asked to schedule it."""

    name: str
    policy: str = ""


NONE = Arm("none")
NAIVE = Arm("naive")
NICE = Arm("nice", "nice")
IDLE = Arm("idle", "idle")
ADAPTIVE = Arm("adaptive")
OURS = Arm("ours")
ARMS = (NONE, NAIVE, NICE, IDLE, ADAPTIVE, OURS)


class Trainer(Protocol):
    """A way to run one step."""

    def due(self) -> bool:
        """Whether the next step may begin now."""
        ...

    def step(self) -> None:
        """One step."""
        ...

    def figures(self) -> dict[str, Any]:
        """What it says of itself."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


class Eager:
    """Plain PyTorch."""

    def __init__(self, model: str, samples: int | None = None) -> None:
        self._model, self._loss, self._batch = loaded(model, samples)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), LEARNING_RATE)

    def due(self) -> bool:
        """Always."""
        return True

    def step(self) -> None:
        """Forward, backward, and the optimizer's step."""
        self._optimizer.zero_grad()
        loss = self._loss(self._model(*self._batch[:-1]), self._batch[-1])
        torch.autograd.backward(loss)
        self._optimizer.step()

    def figures(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Nothing is left."""


class Ours:
    """This project's: a compiled step in interruptible pieces that asks the gate, within the governor's limits."""

    def __init__(self, model: str, run_dir: RunDir) -> None:
        module, loss, batch = loaded(model)
        self._model, self._batch = model, batch
        self._page = TrainerPage.create(run_dir.trainer_page)
        self._parent = os.getppid()
        self._gate = Gate(run_dir, self._page, idle=self._look_up)
        self._page.write_limits(ALONE, PREPARING_S)  # nobody governs yet
        optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE)
        self._step = finetune.compile(module, loss, batch, optimizer=optimizer, pacer=self._gate, longest_s=LONGEST_S)
        self._page.write_notice(self._notice())
        self._heart = Heart(self._page)
        self._heart.__enter__()  # before this thread steps aside, as the worker's
        step_aside()

    def due(self) -> bool:
        """Always: the gate is asked inside the step."""
        return True

    def step(self) -> None:
        """One step, however long it must wait."""
        self._step(*self._batch)
        self._page.step_done()
        self._page.write_notice(self._notice())

    def figures(self) -> dict[str, Any]:
        """Seconds waited for inference, and the longest without a look at the gate."""
        report = self._step.report
        return {"waited_s": report.waited_s, "yields": report.yields, "longest_s": report.longest_s}

    def _notice(self) -> JobNotice:
        report = self._step.report
        return JobNotice(JOB, self._model, report.longest_s, steps_left=STEPS, wants=True, mix=report.memory_share)

    def _look_up(self) -> None:
        """A gate that nobody opens any more must not keep this process alive."""
        if os.getppid() != self._parent:
            raise EOFError

    def close(self) -> None:
        """Remove the page."""
        self._heart.__exit__()
        self._gate.close()
        self._step.close()
        self._page.remove()


def loaded(
    name: str, samples: int | None = None
) -> tuple[nn.Module, Callable[[Any, Tensor], Tensor], tuple[Tensor, ...]]:
    """The model, its loss and a batch."""
    model, loss, batch = load(name, samples or BATCHES[name])
    if loss is None:
        raise ValueError(f"{name} has no loss of its own")
    return model, loss, batch


def serve_training(pipe: Connection, make: Callable[[], Trainer], policy: str) -> None:
    """Train from each `"train"` to the `"stop"` after it; the answer tells when each step began and ended."""
    torch.set_num_threads(1)
    with contextlib.closing(make()) as trainer:
        _scheduled(policy)
        pipe.send({"ready": True})
        while pipe.recv() is not None:
            own_s = time.process_time()
            steps = _train(trainer, pipe)
            pipe.recv()
            pipe.send({"steps": steps, "cpu_s": time.process_time() - own_s} | trainer.figures())


def _train(trainer: Trainer, pipe: Connection) -> list[tuple[int, int]]:
    steps = []
    while not pipe.poll():
        if trainer.due():
            begin_ns = time.monotonic_ns()
            trainer.step()
            steps.append((begin_ns, time.monotonic_ns()))
    return steps


def _scheduled(policy: str) -> None:
    """What an operator would do from outside, with `nice -n 19` or `chrt --idle 0`."""
    if policy == "nice":
        os.nice(19)
    elif policy == "idle":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
