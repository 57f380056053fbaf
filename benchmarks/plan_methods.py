# SPDX-License-Identifier: Apache-2.0
"""What `make bench-plan` runs on an instance: this project's planner in several settings, and everybody else's."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import FinetuneError
from finetune.plan import Plan, plan
from finetune.poet.matrices import Matrices, judge, matrices
from finetune.problem import Only, Problem
from finetune.replay import replay
from finetune.schedule import Schedule

from . import plan_claims
from .plan_bytes import packed
from .plan_instances import Instance
from .planners import simple
from .planners.capuchin import capuchin
from .planners.lowering import NoSchedule
from .planners.poet_milp import Solver, solve
from .planners.pofo import pofo

Row = dict[str, Any]
FAST_S, PROOF_S = 2.0, 60.0
MILP_S = 60.0
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Method:
    """How to run it, what to call it, and which folders and files its result depends on."""

    label: str
    run: Callable[[Instance, Problem, Path], Row]
    code: tuple[str, ...]


def ours(
    instance: Instance,
    problem: Problem,
    data: Path,
    *,
    effort: float | None = None,
    wall_s: float | None = PROOF_S,
    only: Only = "both",
) -> Row:
    """This project's planner; without a limit in seconds, the search it does by itself."""
    began_s, spent_s = time.monotonic(), time.process_time()
    found = plan(problem, effort=effort, wall_s=wall_s, only=only, platform=instance.platform)
    row = seconds(began_s, spent_s) | {"status": found.status, "why": found.why, "cut_off": found.cut_off}
    if not found.schedule:
        return row | {"smallest_budget_bytes": found.smallest_budget_bytes}
    row |= {"bound_pct": percent(found.bound_j, problem), "gap": found.overhead_gap}
    return row | figures(problem, found.schedule) | accepted(instance, problem, found, data)


def theirs(planner: Callable[[Problem], Schedule], instance: Instance, problem: Problem, data: Path) -> Row:
    """A planner that returns a schedule, or says why there is none."""
    began_s, spent_s = time.monotonic(), time.process_time()
    try:
        schedule = planner(problem)
    except NoSchedule as error:
        return seconds(began_s, spent_s) | {"status": "none", "why": str(error)}
    row = seconds(began_s, spent_s) | {"status": "feasible"} | figures(problem, schedule)
    return row | accepted(instance, problem, schedule, data)


def milp(solver: Solver, instance: Instance, problem: Problem, data: Path) -> Row:
    """POET's program on a free solver."""
    try:
        found = solve(problem, solver, MILP_S)
    except NoSchedule as error:
        return {"status": "none", "why": str(error)}
    row: Row = {"ended": found.ended, "wall_s": found.wall_s, "cpu_s": found.cpu_s, "why": found.refused}
    if found.schedule is None:
        return row | {"status": "infeasible" if found.ended == "infeasible" else "none"}
    row |= {"status": "optimal" if found.ended == "optimal" else "feasible"} | figures(problem, found.schedule)
    return row | poets_verdict(instance, problem, found.matrices, data)


def seconds(began_s: float, spent_s: float) -> Row:
    """What it took."""
    return {"wall_s": time.monotonic() - began_s, "cpu_s": time.process_time() - spent_s}


def percent(joules: float, problem: Problem) -> float:
    """A share of the energy of the step when nothing is dropped."""
    return 100.0 * joules / problem.base_energy_j


def figures(problem: Problem, schedule: Schedule) -> Row:
    """The judge's word on a schedule; raises `ScheduleInvalid` if it refuses."""
    found = replay(problem, schedule)
    return {
        "overhead_pct": percent(found.overhead_j, problem),
        "peak_bytes": found.peak_bytes,
        "activation_peak_bytes": found.activation_peak_bytes,
        "compute": found.compute_s / problem.base_time_s,
        "step_time": found.step_time_s / problem.base_time_s,
        "channel": sum(_transfer_s(problem, schedule)) / problem.base_time_s,
        "recomputed": sum(entry.act == "C" for entry in schedule) - len(problem.graph.ops),
        "written": sum(entry.act == "O" for entry in schedule),
        "ops": len(problem.graph.ops),
        "packed_bytes": len(packed(schedule)),
        "json_bytes": len(json.dumps(schedule, separators=(",", ":"))),
    }


def _transfer_s(problem: Problem, schedule: Schedule) -> list[float]:
    costs = {"O": problem.costs.write_s, "I": problem.costs.read_s}
    return [costs[entry.act][entry.number] for entry in schedule if entry.act in costs]


def accepted(instance: Instance, problem: Problem, found: Plan | Schedule, data: Path) -> Row:
    """Under POET's rules also what POET's evaluator and ours say of the matrices."""
    if problem.semantics != "poet":
        return {}
    if isinstance(found, Plan):
        made = found.matrices or matrices(problem.graph, found.schedule)
    else:
        made = matrices(problem.graph, found)
    return poets_verdict(instance, problem, made, data)


def poets_verdict(instance: Instance, problem: Problem, made: Matrices | None, data: Path) -> Row:
    """Whether our evaluator takes the matrices and, for a graph of POET's, whether POET's own does, run as a child."""
    if made is None:
        return {}
    row: Row = {"accepted_by_ours": not judge(problem, made).broken}
    if instance.suite != "poet":
        return row
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "schedule.npz"
        np.savez(path, R=made.R, SRam=made.SRam, SSd=made.SSd, Min=made.Min, Mout=made.Mout)
        file = instance.file(data)
        command = [sys.executable, str(file.with_name("evaluate.py")), str(file), instance.platform, str(path)]
        command += ["--budget", str(problem.limits.budget_bytes), "--runtime-mult", str(instance.deadline)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise FinetuneError(f"POET's evaluator: {done.stderr.strip()}")
    report = json.loads(done.stdout)["poet"]
    return row | {
        "accepted_by_poet": done.returncode == 0,
        "poet_overhead_pct": report["overhead_pct"],
        "poet_over_budget": report["peak_bytes"] / problem.limits.budget_bytes - 1,
    }


PRODUCT = ("finetune",)
PLANNERS = ("finetune/replay.py", "finetune/schedule.py", "finetune/problem.py", "benchmarks/planners")
METHODS: Mapping[str, Method] = {
    "ours": Method("ours, proof included (60 s)", ours, PRODUCT),
    "fast": Method("ours, search alone (2 s)", partial(ours, effort=0.0, wall_s=FAST_S), PRODUCT),
    "page": Method("ours, paging only (2 s)", partial(ours, effort=0.0, wall_s=FAST_S, only="page"), PRODUCT),
    "recompute": Method(
        "ours, recomputation only (2 s)", partial(ours, effort=0.0, wall_s=FAST_S, only="recompute"), PRODUCT
    ),
    "unhurried": Method("ours, search alone, no limit", partial(ours, effort=0.0, wall_s=None), PRODUCT),
    "keep": Method("keep everything", partial(theirs, simple.keep), PLANNERS),
    "page_everything": Method("page everything", partial(theirs, simple.page_everything), PLANNERS),
    "chen_sqrt": Method("Chen, sqrt(n)", partial(theirs, simple.chen_sqrt), PLANNERS),
    "chen_any": Method("Chen, best length", partial(theirs, simple.chen_any), PLANNERS),
    "page_greedy": Method("page-only greedy", partial(theirs, simple.page_greedy), PLANNERS),
    "capuchin": Method("Capuchin's rule", partial(theirs, capuchin), PLANNERS),
    "pofo": Method("rotor/POFO", partial(theirs, pofo), PLANNERS),
    "cbc": Method("POET's program, CBC", partial(milp, "cbc"), PLANNERS),
    "highs": Method("POET's program, HiGHS", partial(milp, "highs"), PLANNERS),
    "versus_pofo": Method("ours against rotor/POFO", plan_claims.versus_pofo, (*PRODUCT, *PLANNERS)),
}


def code(method: Method) -> str:
    """A digest of the code that a method's result depends on."""
    found = hashlib.sha256()
    own = ("benchmarks/plan_methods.py", "benchmarks/plan_claims.py")
    for name in (*method.code, *own):
        path = ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    return found.hexdigest()[:8]
