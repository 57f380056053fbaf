# SPDX-License-Identifier: Apache-2.0
"""What each operation of a captured step costs on this machine: seconds, workspace, joules; and what paging costs.

The step runs as it is planned: one operation at a time, each storage dropped after its last use. Times are medians.
With one torch thread they are the thread's own CPU time, so that neighbours on a shared machine do not count.
"""

from __future__ import annotations

import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .capture import Accumulate, Assign, Call, Captured
from .capturing.operations import Functions, Operations
from .capturing.optimizer import Rule
from .capturing.torch_private import recording_memory
from .capturing.updates import UpdateCost, measure_updates
from .errors import GraphInvalid
from .graph import Graph, Op
from .problem import Costs, Limits, Problem, Semantics
from .profiling.channel import PIECE_BYTES, PagingFile, Speeds, measure_speeds
from .profiling.energy import ASSUMED, Counter, Meter, Power
from .profiling.machine import machine_name
from .splitting_rules.cuts import Pause

REPEATS = 5
METERED_SHARE = 0.01
"""Operations with at least this share of the step get a power of their own; the others the mean of those."""


@dataclass(frozen=True, slots=True)
class OpCost:
    """Seconds, joules, workspace and output bytes of one op; `counted`: its power was read from the joule counter."""

    time_s: float
    energy_j: float
    workspace_bytes: int
    output_bytes: int
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """Costs of a captured step on one machine: `ops` by name, `updates` by optimizer, `speeds` of the paging folder."""

    graph_digest: str
    machine: str
    torch: str
    threads: int
    repeats: int
    ops: Mapping[str, OpCost]
    updates: Mapping[Rule, UpdateCost]
    power: Power
    speeds: Speeds

    @property
    def energy_source(self) -> str:
        """Where the joules come from, and how much of the step's time that holds for."""
        total_s = sum(op.time_s for op in self.ops.values())
        counted_s = sum(op.time_s for op in self.ops.values() if op.counted)
        if not counted_s or not total_s:
            return f"power model x time ({self.power.source})"
        return f"joule counter for {counted_s / total_s:.0%} of the time, its mean power x time for the rest"


def profile(
    captured: Captured,
    page_dir: Path,
    *,
    repeats: int = REPEATS,
    counter: Counter | None = None,
    power: Power = ASSUMED,
    functions: Functions = MappingProxyType({}),
    sealed: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
    pause: Pause = lambda: None,
) -> Profile:
    """Measure a captured step here, and the storage under `page_dir`; `pause` is called between operations.

    Weights, buffers, gradients and the random state are left as they were. `counter` is the board's page if there is
    one; otherwise, and where it does not resolve, joules are `power` times seconds. `functions`: of nodes that are
    computed in pieces. `sealed`: pages will be encrypted. Raises `OSError` for the folder, `ValueError` on a GPU.
    """
    if captured.outputs[0].meta["val"].device.type != "cpu":
        raise ValueError("steps are profiled on the CPU alone so far; a plan can be made from another profile")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        progress("workspaces")
        workspaces = _workspaces(captured, functions, pause)
        progress("times")
        times = _times(captured, repeats, functions, pause)
        updates = measure_updates(repeats, pause)
        progress("power")
        watts: dict[str, float] = {}
        if counter is not None and _sees_us(counter):
            power, watts = _metered(captured, times, Meter(counter), power, page_dir, functions, pause)
    progress("storage")
    graph = captured.graph
    ops = {
        op.name: OpCost(
            times[op.name],
            times[op.name] * watts.get(op.name, power.busy_w),
            workspaces[op.name],
            _output_bytes(graph, op),
            op.name in watts,
        )
        for op in graph.ops
    }
    threads = torch.get_num_threads()
    speeds = measure_speeds(page_dir, sealed=sealed, pause=pause)
    return Profile(graph.digest, machine_name(), torch.__version__, threads, repeats, ops, updates, power, speeds)


def in_pieces(found: Profile, captured: Captured, functions: Functions, pause: Pause = lambda: None) -> Profile:
    """A profile with these nodes measured once more, computed in pieces."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        workspaces, times = _workspaces(captured, functions, pause), _times(captured, 1, functions, pause)
    ops = dict(found.ops)
    for name in functions:
        joules = times[name] * ops[name].energy_j / ops[name].time_s if ops[name].time_s else 0.0
        ops[name] = replace(ops[name], time_s=times[name], energy_j=joules, workspace_bytes=workspaces[name])
    return replace(found, ops=ops)


def problem_of(graph: Graph, found: Profile, limits: Limits, semantics: Semantics = "real") -> Problem:
    """The planning problem of a captured graph, with or without an optimizer in it, at profiled costs.

    Raises `GraphInvalid` if the profile is of another graph.
    """
    costs = [_cost(graph, op, found) for op in graph.ops]
    sizes = [storage.size_bytes for storage in graph.storages]
    write_s = tuple(map(found.speeds.write_s, sizes))
    read_s = tuple(map(found.speeds.read_s, sizes))
    watts = found.power.transfer_w
    return Problem(
        graph,
        Costs(
            time_s=tuple(cost.time_s for cost in costs),
            energy_j=tuple(cost.energy_j for cost in costs),
            workspace_bytes=tuple(cost.workspace_bytes for cost in costs),
            write_s=write_s,
            write_j=tuple(watts * seconds for seconds in write_s),
            read_s=read_s,
            read_j=tuple(watts * seconds for seconds in read_s),
            idle_w=found.power.idle_w,
        ),
        limits,
        semantics,
    )


def _cost(graph: Graph, op: Op, found: Profile) -> OpCost:
    for rule, update in found.updates.items():
        if op.target == rule:
            size_bytes = graph.storages[op.updates[0]].size_bytes
            seconds = update.time_s(size_bytes)
            return OpCost(seconds, seconds * found.power.busy_w, update.workspace_bytes(size_bytes), 0)
    cost = found.ops.get(op.name)
    if cost is None or cost.output_bytes != _output_bytes(graph, op):
        raise GraphInvalid("profile", f"is of another graph: it has no such {op.name}")
    return cost


def _output_bytes(graph: Graph, op: Op) -> int:
    return sum(graph.storages[storage].size_bytes for storage in op.outputs)


def _walk(
    captured: Captured, visit: Callable[[Op, Callable[[], Any]], Any], functions: Functions, pause: Pause
) -> None:
    """Run the step once; `visit` is given each op and what runs it, and returns the result."""
    graph, operations = captured.graph, Operations(captured, functions)
    for number, op in enumerate(graph.ops):
        scratch = _scratch(captured, op)
        pause()
        result = visit(op, lambda op=op, scratch=scratch: operations.run(op, scratch))  # type: ignore[misc]
        action = captured.actions[op.name]
        if isinstance(action, Call):
            operations.keep(action.node, result)
        del result
        for storage in graph.touched(number):
            if graph.producers[storage] is not None and max((number, *graph.users[storage])) == number:
                operations.drop(storage)


def _scratch(captured: Captured, op: Op) -> dict[str, Tensor]:
    """Stand-ins for the gradient or the buffers that an op changes."""
    match captured.actions[op.name]:
        case Accumulate(parameter=name):
            return {name: torch.zeros_like(captured.step.get_parameter(name))}
        case Assign(pairs=pairs):
            holders = {role: node for node, role in captured.roles.items()}
            return {str(role): captured.bound[holders[role]].clone() for role, _ in pairs}
    return {}


def _times(captured: Captured, repeats: int, functions: Functions, pause: Pause) -> dict[str, float]:
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    spans: dict[str, list[float]] = {op.name: [] for op in captured.graph.ops}

    def visit(op: Op, run: Callable[[], Any]) -> Any:
        start_s = clock()
        result = run()
        spans[op.name].append(clock() - start_s)
        return result

    for _ in range(repeats):
        _walk(captured, visit, functions, pause)
    return {name: statistics.median(found) for name, found in spans.items()}


def _workspaces(captured: Captured, functions: Functions, pause: Pause) -> dict[str, int]:
    """Bytes that each op holds at its worst, beyond its inputs and outputs."""

    def visit(op: Op, run: Callable[[], Any]) -> Any:
        with torch.profiler.record_function(f"op {op.name}"):
            return run()

    with recording_memory() as events:
        _walk(captured, visit, functions, pause)
    begins = {name.removeprefix("op "): (start, end) for name, start, end, _ in events if name.startswith("op ")}
    moves = sorted((start, size_bytes) for name, start, _, size_bytes in events if name == "[memory]")
    worst = {name: _worst(moves, start, end) for name, (start, end) in begins.items()}
    return {op.name: max(0, worst[op.name] - _output_bytes(captured.graph, op)) for op in captured.graph.ops}


def _worst(moves: list[tuple[int, int]], start_ns: int, end_ns: int) -> int:
    """The most bytes that were allocated at once in a span, above what was allocated at its start."""
    live = worst = 0
    for _, size_bytes in moves[bisect_left(moves, (start_ns,)) : bisect_left(moves, (end_ns,))]:
        live += size_bytes
        worst = max(worst, live)
    return worst


def _sees_us(counter: Counter) -> bool:
    """Whether the counter counts what this process draws; a virtual board's does not."""
    reading = counter.read()
    return reading is not None and not reading.virtual


def _metered(
    captured: Captured,
    times: Mapping[str, float],
    meter: Meter,
    otherwise: Power,
    page_dir: Path,
    functions: Functions,
    pause: Pause,
) -> tuple[Power, dict[str, float]]:
    """The machine's power, and the watts of each op that the joule counter resolves."""
    total_s = sum(times.values())
    watts: dict[str, float] = {}

    def visit(op: Op, run: Callable[[], Any]) -> Any:
        if times[op.name] >= METERED_SHARE * total_s and isinstance(captured.actions[op.name], Call):
            found = meter.power_w(run)
            if found is not None:
                watts[op.name] = found
        return run()

    _walk(captured, visit, functions, pause)
    idle_w = meter.power_w(lambda: time.sleep(0.01))
    with PagingFile(page_dir) as file:
        writing_w = meter.power_w(lambda: file.write(PIECE_BYTES))
    if not watts or idle_w is None or writing_w is None:
        return otherwise, {}
    metered_s = sum(times[name] for name in watts)
    busy_w = sum(watts[name] * times[name] for name in watts) / metered_s
    return Power(busy_w, idle_w, max(0.0, writing_w - idle_w), "joule counter"), watts
