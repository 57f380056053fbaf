# SPDX-License-Identifier: Apache-2.0
"""A compiled training step, in place of forward, backward and the optimizer's step.

step = finetune.compile(model, loss, (inputs, target), budget_bytes="50%", page_dir=folder, optimizer=optimizer)
for inputs, target in batches:
value = step(inputs, target)
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .execute import Execution
from .plan import Plan
from .planning.limits import ROOMY
from .profiling.memory import memory_bytes_per_s, memory_share
from .schedule import traffic_bytes


@dataclass(frozen=True, slots=True)
class Report:
    """How training went: bytes of the whole step as planned, seconds as planned and of the mean step, waits apart.

    `longest_s`: the longest time in which inference could not have had the processor, while `longest_op` ran.
    `stalled_s`: waiting for storage; `waited_s`: for inference; both in all steps together. `memory_share`: of a step's
    time, what its traffic takes at the speed of this memory; 0 while arithmetic binds it, 1 if memory does.
    """

    steps: int
    planned_peak_bytes: int
    budget_bytes: int | None
    planned_step_s: float | None
    step_s: float | None
    yields: int
    waited_s: float
    stalled_s: float
    longest_s: float
    longest_op: str
    written_bytes: int
    read_bytes: int
    memory_share: float | None = None


class TrainStep:
    """A compiled training step: called with the batch, target last, it trains and returns the loss.

    With an optimizer the weights are updated and no gradient is left; without, gradients add up in `.grad`. Weights may
    lie on storage between steps: look at them inside `resident()`. Use as a context, or `close()` it.
    """

    def __init__(self, model: nn.Module, plan: Plan, execution: Execution, optimizer: Optimizer | None) -> None:
        self.plan = plan
        self._model, self._execution, self._optimizer = model, execution, optimizer
        self._traffic_bytes = traffic_bytes(execution.graph, plan.schedule)

    def __call__(self, *batch: Tensor) -> Tensor:
        """One step on a batch of the shapes compiled for; the errors are those of `Execution.step`."""
        return self._execution.step(batch)

    def __enter__(self) -> TrainStep:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @contextlib.contextmanager
    def resident(self) -> Iterator[nn.Module]:
        """A scope with the whole model in RAM, to validate it or to change it."""
        with self._execution.resident():
            yield self._model

    def borrowed(self, tensor: Tensor) -> AbstractContextManager[Tensor]:
        """A scope with one weight or state of the optimizer in RAM, to be read; for `save`, which takes one by one."""
        return self._execution.borrowed(tensor)

    def state_dict(self) -> dict[str, Any]:
        """`model`, `optimizer` (None without one) and `rng` as plain torch has them; copies where the plan pages."""
        with self._execution.resident():
            model = self._model.state_dict()
            optimizer = None if self._optimizer is None else self._optimizer.state_dict()
            if self._execution.parked:
                model, optimizer = _copied(model), _copied(optimizer)
        return {"model": model, "optimizer": optimizer, "rng": torch.get_rng_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state up, from here or from plain torch; a torn step may run again."""
        with self._execution.resident():
            self._model.load_state_dict(state["model"])
            if self._optimizer is not None and state["optimizer"] is not None:
                # torch keeps the tensors that it is given, and ours may leave RAM
                self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
            if self._optimizer is None:
                self._model.zero_grad(set_to_none=True)
            torch.set_rng_state(state["rng"])
            self._execution.restored()

    @property
    def report(self) -> Report:
        """What the steps so far came to."""
        execution, tally, plan = self._execution, self._execution.runtime.tally, self.plan
        return Report(
            execution.steps,
            plan.peak_bytes or 0,
            None if plan.budget_bytes == ROOMY else plan.budget_bytes,
            plan.step_time_s,
            execution.busy_s / execution.steps if execution.steps else None,
            tally.yields,
            tally.waited_s,
            tally.stalled_s,
            tally.longest_s,
            tally.longest_op,
            tally.written_bytes,
            tally.read_bytes,
            self._memory_share(),
        )

    def _memory_share(self) -> float | None:
        execution = self._execution
        if not execution.steps:
            return None
        speed = memory_bytes_per_s(execution.runtime.device.kind)
        return memory_share(self._traffic_bytes, speed, execution.busy_s / execution.steps)

    def close(self) -> None:
        """Bring the whole model into RAM and remove the pages; the model is plain torch's again."""
        self._execution.close()


def _copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return type(state)((key, _copied(value)) for key, value in state.items())
    return [_copied(value) for value in state] if isinstance(state, list) else state
