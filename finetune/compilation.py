# SPDX-License-Identifier: Apache-2.0
"""From a model to a training step that runs within a budget: capture, pieces, profile, plan, code, pages."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .capture import Accumulate, Captured, Loss, capture
from .capturing.operations import Functions
from .capturing.optimizer import with_optimizer
from .errors import NoPlan
from .execute import Execution
from .executing.lower import judged, lower
from .executing.sinks import Accumulating, Optimizing, Sink
from .graph import Graph
from .pacer import Free, Pacer
from .pages import MemoryPages, Pages, PinnedPages, open_pages
from .plan import Plan
from .plan import plan as find_plan
from .plan_file import read_plan
from .planning.limits import ROOMY, limits_of
from .planning.paging import needs
from .problem import Limits, Only
from .profile import Profile, in_pieces, problem_of
from .profile import profile as measure
from .profiling.memory import memory_bytes_per_s
from .schedule import keep_everything
from .splitting import make_interruptible
from .splitting_rules.cuts import Pause
from .train import TrainStep

SLIM_S = 0.001
"""Length of the pieces of an operation for whose workspace there is no room: short ones need little of it."""


def compile(  # noqa: A001 - as `torch.compile`
    model: nn.Module,
    loss: Loss | None,
    example_batch: Sequence[Tensor],
    budget_bytes: int | str | None = None,
    *,
    optimizer: Optimizer | None = None,
    plan: Plan | Path | Callable[[Graph], Plan | None] | None = None,
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
    recomputes only. `plan` and `profile`: made before, here or elsewhere; a function may look for the graph's plan.
    `longest_s`: operations that take longer are computed in pieces, bit for bit. `pacer`: inference goes first, while
    operations are measured, too. `clip_value`: as `clip_grad_value_` before each update.

    Raises `CaptureRefused`, `NoPlan` (with a budget that is enough), `PlanMismatch`, `OptimizerRefused`,
    `PageStoreFull`, `PageStoreFailed`, and `ValueError` for limits that cannot be read.
    """
    if torch.is_autocast_enabled(example_batch[-1].device.type):
        raise ValueError("autocast belongs inside the model's forward or the loss, not around the compiled step")
    progress("capture")
    if optimizer is not None:
        _make_resizable(model, optimizer)
    captured = capture(model, loss, example_batch)
    pacer = pacer or Free()
    sink = _sink(optimizer, clip_value)
    graph = _graph(captured, sink)
    functions: Functions = {}
    if longest_s is not None:
        progress("pieces")
        functions = make_interruptible(captured, longest_s, pause=pacer.wait).functions
    if isinstance(plan, Path):
        plan = read_plan(plan, graph)
    elif callable(plan):
        plan = plan(graph)
    if plan is None and budget_bytes is None:
        plan = _everything(graph)
    elif plan is None:
        if profile is None:
            folder = page_dir or Path(tempfile.gettempdir())
            profile = measure(captured, folder, functions=functions, sealed=sealed, progress=progress, pause=pacer.wait)
        progress("plan")
        only: Only = "both" if page_dir else "recompute"
        find = partial(
            _plan, graph, budget=str(budget_bytes), deadline_s=deadline_s, quota_bytes=quota_bytes, only=only
        )
        plan, slim = _found(captured, graph, profile, find, pacer.wait)
        functions = {**functions, **slim}
    else:
        functions = {**functions, **_slim(captured, plan, pacer.wait)}
    if not plan.schedule:
        raise NoPlan(plan.why, plan.budget_bytes, plan.smallest_budget_bytes)
    progress("memory")
    pacer.wait()
    memory_bytes_per_s(example_batch[-1].device.type)  # measured while nobody waits for a step
    lowered = lower(captured, graph, plan, functions)
    sizes = {number: graph.storages[number].size_bytes for number in lowered.paged}
    pages = _pages(sizes, example_batch[-1].device, page_dir, sealed, quota_bytes)
    execution = Execution(captured, graph, lowered, plan.budget_bytes, sink, pages, pacer, functions)
    return TrainStep(model, plan, execution, optimizer)


def _graph(captured: Captured, sink: Sink) -> Graph:
    """The step as the sink will have it run; raises `OptimizerRefused`."""
    sums = [action for action in captured.actions.values() if isinstance(action, Accumulate)]
    sink.check({found.parameter: captured.step.get_parameter(found.parameter) for found in sums})
    return _pinned(captured.graph) if sink.rule is None else with_optimizer(captured.graph, sink.rule)


def _sink(optimizer: Optimizer | None, clip_value: float | None) -> Sink:
    if optimizer is not None:
        return Optimizing(optimizer, clip_value)
    if clip_value is not None:
        raise ValueError("clip_value needs the optimizer in the step; without one clip .grad yourself")
    return Accumulating()


def _found(
    captured: Captured, graph: Graph, known: Profile, find: Callable[[Profile], Plan], pause: Pause
) -> tuple[Plan, Functions]:
    """A plan, and what it needs in pieces: operations for which, as they are, the budget has no room."""
    plan = find(known)
    if plan.schedule:
        return plan, {}
    large = needs(problem_of(graph, known, Limits(plan.budget_bytes)))
    names = [found.what for found in large if found.bytes > plan.budget_bytes]
    slim = make_interruptible(captured, SLIM_S, only=names, pause=pause).functions
    again = find(in_pieces(known, captured, slim, pause)) if slim else plan
    return (replace(again, in_pieces=tuple(slim)), slim) if again.schedule else (plan, {})


def _slim(captured: Captured, plan: Plan, pause: Pause) -> Functions:
    """What a plan made before needs in pieces; raises `NoPlan` if this machine has no exact ones."""
    slim = make_interruptible(captured, SLIM_S, only=plan.in_pieces, pause=pause).functions if plan.in_pieces else {}
    if lacking := set(plan.in_pieces) - slim.keys():
        raise NoPlan(f"no exact pieces here of {', '.join(sorted(lacking))}", plan.budget_bytes, None)
    return slim


def _plan(
    graph: Graph, known: Profile, budget: str, deadline_s: float | None, quota_bytes: int | None, only: Only
) -> Plan:
    problem = problem_of(graph, known, Limits(ROOMY))
    limits = replace(limits_of(problem, budget), deadline_s=deadline_s, quota_bytes=quota_bytes)
    costs_from = f"measured times; joules: {known.energy_source}"
    # A schedule is wanted, not how good it is: `teg plan` proves.
    return find_plan(
        replace(problem, limits=limits), effort=0, only=only, platform=known.machine, costs_from=costs_from
    )


def _pages(
    sizes: Mapping[int, int], device: torch.device, folder: Path | None, sealed: bool, quota_bytes: int | None
) -> Pages:
    if not sizes:
        return MemoryPages({})
    if device.type == "cuda":
        return PinnedPages(device, sizes)
    if folder is None:
        raise ValueError(f"the plan pages {sum(sizes.values())} bytes: page_dir must name a folder on storage")
    return open_pages(folder, sizes, sealed=sealed, quota_bytes=quota_bytes)


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


def _make_resizable(model: nn.Module, optimizer: Optimizer) -> None:
    """Give weights and states that lie in memory of others (a mapped file, numpy) memory that can be given back."""
    for parameter in model.parameters():
        if not parameter.untyped_storage().resizable():
            parameter.data = parameter.data.clone()
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor) and not value.untyped_storage().resizable():
                state[name] = value.clone()
