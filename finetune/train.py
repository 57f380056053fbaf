# SPDX-License-Identifier: Apache-2.0
"""Training within a memory budget: three lines in place of forward, backward and step.

step = finetune.compile(model, loss, (inputs, target), budget_bytes="50%", page_dir=folder, optimizer=optimizer)
for inputs, target in batches:
value = step(inputs, target)
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .capture import Accumulate, Loss, capture
from .capturing.operations import Functions
from .capturing.optimizer import with_optimizer
from .errors import NoPlan
from .execute import Execution
from .executing.lower import judged, lower
from .executing.sinks import Accumulating, Optimizing, Sink
from .graph import Graph
from .pacer import Free, Pacer
from .pages import open_pages
from .plan import Plan
from .plan import plan as find_plan
from .plan_file import read_plan
from .planning.limits import ROOMY, limits_of
from .problem import Limits, Only
from .profile import Profile, problem_of
from .profile import profile as measure
from .schedule import keep_everything
from .splitting import make_interruptible


@dataclass(frozen=True, slots=True)
class Report:
    """How training went: bytes of the whole step as planned, seconds as planned and of the mean step, waits apart.

    `longest_s`: the longest time in which inference could not have had the processor, while `longest_op` ran.
    `stalled_s`: waiting for storage; `waited_s`: for inference; both in all steps together.
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


class TrainStep:
    """A compiled training step: called with the batch, target last, it trains and returns the loss.

    With an optimizer the weights are updated and no gradient is left; without, gradients add up in `.grad`. Weights may
    lie on storage between steps: look at them inside `resident()`. Use as a context, or `close()` it.
    """

    def __init__(self, model: nn.Module, plan: Plan, execution: Execution, optimizer: Optimizer | None) -> None:
        self.plan = plan
        self._model, self._execution, self._optimizer = model, execution, optimizer

    def __call__(self, *batch: Tensor) -> Tensor:
        """One step on a batch of the shapes compiled for; the errors are those of `Execution.step`."""
        return self._execution.step(batch)

    def __enter__(self) -> TrainStep:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @contextlib.contextmanager
    def resident(self) -> Iterator[nn.Module]:
        """A scope with the whole model in RAM, to validate or to save it."""
        with self._execution.resident():
            yield self._model

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
                self._optimizer.load_state_dict(state["optimizer"])
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
        )

    def close(self) -> None:
        """Bring the whole model into RAM and remove the pages; the model is plain torch's again."""
        self._execution.close()


def compile(  # noqa: A001 - as `torch.compile`
    model: nn.Module,
    loss: Loss | None,
    example_batch: Sequence[Tensor],
    budget_bytes: int | str | None = None,
    *,
    optimizer: Optimizer | None = None,
    plan: Plan | Path | None = None,
    profile: Profile | None = None,
    pacer: Pacer | None = None,
    page_dir: Path | None = None,
    deadline_s: float | None = None,
    quota_bytes: int | None = None,
    longest_s: float | None = None,
    clip_value: float | None = None,
    sealed: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> TrainStep:
    """The step `loss(model(*batch[:-1]), batch[-1])` as a `TrainStep` within `budget_bytes` of the whole step.

    A budget may be written `"2GiB"`, or `"50%"` of the activations' peak on top of what is carried; None keeps
    everything. `page_dir`: a folder on storage for what leaves RAM, at most `quota_bytes`, encrypted if `sealed`; None
    recomputes only. `plan` and `profile`: made before, here or elsewhere. `longest_s`: operations that take longer are
    computed in pieces, bit for bit. `clip_value`: as `clip_grad_value_` before each update.

    Raises `CaptureRefused`, `NoPlan` (with a budget that is enough), `PlanMismatch`, `OptimizerRefused`,
    `PageStoreFull`, and `ValueError` for limits that cannot be read.
    """
    if torch.is_autocast_enabled(example_batch[-1].device.type):
        raise ValueError("autocast belongs inside the model's forward or the loss, not around the compiled step")
    progress("capture")
    if optimizer is not None:
        _make_resizable(model)
    captured = capture(model, loss, example_batch)
    sink = _sink(optimizer, clip_value)
    sums = [action for action in captured.actions.values() if isinstance(action, Accumulate)]
    sink.check({found.parameter: captured.step.get_parameter(found.parameter) for found in sums})
    graph = _pinned(captured.graph) if sink.rule is None else with_optimizer(captured.graph, sink.rule)
    functions: Functions = {}
    if longest_s is not None:
        progress("pieces")
        functions = make_interruptible(captured, longest_s).functions
    folder = page_dir or Path(tempfile.gettempdir())
    if isinstance(plan, Path):
        plan = read_plan(plan, graph)
    elif plan is None and budget_bytes is None:
        plan = _everything(graph)
    elif plan is None:
        known = profile or measure(captured, folder, functions=functions, progress=progress)
        progress("plan")
        only: Only = "both" if page_dir else "recompute"
        plan = _plan(graph, known, str(budget_bytes), deadline_s, quota_bytes, only)
    if not plan.schedule:
        raise NoPlan(plan.why, plan.budget_bytes, plan.smallest_budget_bytes)
    lowered = lower(captured, graph, plan, functions)
    sizes = {number: graph.storages[number].size_bytes for number in lowered.paged}
    pages = open_pages(folder, sizes, sealed=sealed, quota_bytes=quota_bytes)
    execution = Execution(captured, graph, lowered, plan.budget_bytes, sink, pages, pacer or Free(), functions)
    return TrainStep(model, plan, execution, optimizer)


def _sink(optimizer: Optimizer | None, clip_value: float | None) -> Sink:
    if optimizer is not None:
        return Optimizing(optimizer, clip_value)
    if clip_value is not None:
        raise ValueError("clip_value needs the optimizer in the step; without one clip .grad yourself")
    return Accumulating()


def _plan(
    graph: Graph, known: Profile, budget: str, deadline_s: float | None, quota_bytes: int | None, only: Only
) -> Plan:
    problem = problem_of(graph, known, Limits(ROOMY))
    limits = replace(limits_of(problem, budget), deadline_s=deadline_s, quota_bytes=quota_bytes)
    costs_from = f"measured times; joules: {known.energy_source}"
    return find_plan(replace(problem, limits=limits), only=only, platform=known.machine, costs_from=costs_from)


def _everything(graph: Graph) -> Plan:
    """The plan without a budget: no profile is needed for it."""
    bare = Plan("optimal", "real", graph.digest, "", "", ROOMY, 0.0, keep_everything(graph))
    return replace(bare, peak_bytes=judged(graph, bare).peak_bytes)


def _pinned(graph: Graph) -> Graph:
    """The same graph where nothing carried leaves RAM: the user's own optimizer wants it between steps."""
    storages = (
        storage if graph.producers[number] is not None else replace(storage, pageable=False)
        for number, storage in enumerate(graph.storages)
    )
    return Graph(graph.name, graph.ops, tuple(storages))


def _make_resizable(model: nn.Module) -> None:
    """Give weights that lie in memory of somebody else (a mapped file, numpy) memory that can be given back."""
    for parameter in model.parameters():
        if not parameter.untyped_storage().resizable():
            parameter.data = parameter.data.clone()


def _copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return type(state)((key, _copied(value)) for key, value in state.items())
    return [_copied(value) for value in state] if isinstance(state, list) else state
