# SPDX-License-Identifier: Apache-2.0
"""A plan as a picture: results by time steps, as in POET's paper, above the RAM of each step and the budget."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from .graph import Graph
from .plan import Plan
from .planning.limits import plain_step
from .problem import Problem
from .replay import replay
from .schedule import Schedule, begins_on_storage

ABSENT, IN_RAM, ON_STORAGE, FREED, WRITTEN, READ, AGAIN, COMPUTED = range(8)
"""What a result is to a step; where several hold, the largest."""
LOOKS = (
    ("", "#ffffff"),
    ("in RAM", "#cfe3f3"),
    ("on storage", "#ececec"),
    ("freed", "#f7d9cf"),
    ("written", "#8c6bb1"),
    ("read", "#41ab5d"),
    ("computed again", "#e6550d"),
    ("computed", "#1f5a99"),
)
"""Name and colour of each; apart in lightness too, so that they can be told without colours."""


def states(graph: Graph, schedule: Schedule) -> NDArray[np.int8]:
    """What each storage (row) is in each time step (column): one step per computation, with what comes before it."""
    steps = max(1, sum(entry.act == "C" for entry in schedule))
    found = np.zeros((len(graph.storages), steps), dtype=np.int8)
    stored = begins_on_storage(graph, schedule)
    resident = set(graph.carried) - stored
    reads = Counter(entry.number for entry in schedule if entry.act == "I")
    computed: set[int] = set()
    step = 0
    happened: dict[int, int] = {}
    for act, number in schedule:
        if act == "C":
            state = AGAIN if number in computed else COMPUTED
            happened |= {storage: state for storage in graph.ops[number].outputs if storage not in resident}
            resident.update(graph.ops[number].outputs)
            computed.add(number)
            _fill(found[:, step], resident, stored, happened)
            stored -= set(graph.ops[number].updates)
            happened = {}
            step += 1
            continue
        happened[number] = max(happened.get(number, ABSENT), {"F": FREED, "O": WRITTEN, "I": READ}[act])
        if act == "F":
            resident.discard(number)
        elif act == "O":
            stored.add(number)
        else:
            resident.add(number)
            reads[number] -= 1
            if not reads[number] and graph.producers[number] is not None:
                stored.discard(number)  # what lies there still is of no use
    for storage, state in happened.items():
        found[storage, -1] = max(found[storage, -1], state)
    return found


def _fill(column: NDArray[np.int8], resident: set[int], stored: set[int], happened: dict[int, int]) -> None:
    column[sorted(stored)] = ON_STORAGE
    column[sorted(resident)] = IN_RAM
    for storage, state in happened.items():
        column[storage] = max(column[storage], state) if state != FREED or storage not in resident else column[storage]


def ram_bytes(problem: Problem, schedule: Schedule) -> list[int]:
    """The most bytes in RAM in each time step, workspace included."""
    graph, costs = problem.graph, problem.costs
    planned = replay(problem, schedule).planned_bytes
    most: list[int] = []
    high = before = 0
    for position, (act, number) in enumerate(schedule):
        high = max(high, planned[position])
        if act == "C":
            made = sum(graph.storages[storage].size_bytes for storage in graph.ops[number].outputs)
            made += costs.workspace_bytes[number] if problem.semantics == "real" else 0
            most.append(max(high, before + made))
            high = 0
        before = planned[position]
    return most


def draw(path: Path, problem: Problem, plan: Plan) -> None:
    """Write the picture as PNG (or what the name's ending says); raises `OSError`."""
    cells = states(problem.graph, plan.schedule)
    rows = [storage for storage, row in enumerate(cells) if len(np.unique(row)) > 1]
    figure = Figure(figsize=(9, 8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _draw_states(above, cells[rows] if rows else cells)
    _draw_ram(below, problem, plan)
    overhead = "" if plan.overhead_j is None else f", overhead {plan.overhead_j / (problem.base_energy_j or 1):.3%}"
    above.set_title(f"{problem.graph.name} on {plan.platform or 'this board'}: {plan.status}{overhead}", loc="left")
    figure.savefig(path, dpi=150)


def _draw_states(axes: Axes, cells: NDArray[np.int8]) -> None:
    colours = ListedColormap([colour for _, colour in LOOKS])
    axes.imshow(
        cells, cmap=colours, vmin=0, vmax=len(LOOKS) - 1, aspect="auto", interpolation="nearest", origin="upper"
    )
    shown = [state for state in range(1, len(LOOKS)) if (cells == state).any()]
    handles = [Patch(facecolor=LOOKS[state][1], edgecolor="#777777", label=LOOKS[state][0]) for state in shown]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=len(handles), frameon=False)
    axes.set_ylabel("result, in the order of the layers")
    axes.tick_params(labelbottom=False)


def _draw_ram(axes: Axes, problem: Problem, plan: Plan) -> None:
    used = np.array(ram_bytes(problem, plan.schedule)) / 1e6
    axes.fill_between(np.arange(len(used)), used, step="mid", color="#1f5a99", alpha=0.35)
    axes.step(np.arange(len(used)), used, where="mid", color="#1f5a99", linewidth=1)
    axes.axhline(plan.budget_bytes / 1e6, color="#b30000", linestyle="--", linewidth=1.2, label="budget")
    plain = plain_step(problem).peak_bytes / 1e6
    axes.axhline(plain, color="#777777", linestyle=":", linewidth=1.2, label="keeping everything")
    axes.set_ylim(0, 1.08 * max(plain, plan.budget_bytes / 1e6 if plan.budget_bytes < 2e6 * plain else 0, used.max()))
    axes.set_ylabel("RAM, MB")
    axes.set_xlabel("time step (one computation each)")
    axes.legend(loc="lower center", ncols=2, frameon=False)
