# SPDX-License-Identifier: Apache-2.0
"""POET's program on free solvers, CBC (the one in PuLP) and HiGHS, each in a child process that is ended at its limit.

A stop at the limit is never called optimal, and no answer counts before the judge has accepted it.
`python -m benchmarks.planners.poet_milp MODEL.mps ANSWER.npy SECONDS` is the child that runs HiGHS.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import highspy
import numpy as np

from finetune.errors import ScheduleInvalid
from finetune.poet.matrices import Matrices
from finetune.problem import Problem
from finetune.replay import replay
from finetune.schedule import Schedule

from .lowering import NoSchedule
from .poet_program import Array, Program, listed, matrices, program

Solver = Literal["cbc", "highs"]
GRACE_S = 10.0
"""CBC looks at its limit only between nodes of its tree; so long after the limit the child is killed."""


@dataclass(frozen=True, slots=True)
class Solved:
    """How a solver ended, in how many seconds (building the program included), and what it left.

    `ended` is optimal, infeasible, time limit or killed; `refused` why the judge does not accept the answer.
    """

    ended: str
    wall_s: float
    cpu_s: float
    schedule: Schedule | None = None
    matrices: Matrices | None = None
    refused: str = ""


def solve(problem: Problem, solver: Solver, seconds: float) -> Solved:
    """Run one solver on POET's program; raises `NoSchedule` if the program does not apply."""
    began_s, spent_s = time.monotonic(), _cpu_s()
    found = program(problem)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.mps"
        found.write(model)
        ended, values = (_cbc if solver == "cbc" else _highs)(model, found, seconds)
    wall_s, cpu_s = time.monotonic() - began_s, _cpu_s() - spent_s
    if values is None:
        return Solved(ended, wall_s, cpu_s)
    try:
        answer = matrices(found.nodes, values)
        schedule = listed(problem, answer)
        replay(problem, schedule)
    except (NoSchedule, ScheduleInvalid) as error:
        return Solved(ended, wall_s, cpu_s, refused=str(error))
    return Solved(ended, wall_s, cpu_s, schedule, answer)


def _cbc(model: Path, found: Program, seconds: float) -> tuple[str, Array | None]:
    # imported here: the child that runs HiGHS needs no PuLP
    from pulp.apis.coin_api import pulp_cbc_path

    answer = model.with_name("answer.txt")
    limits = ["-seconds", str(seconds), "-timeMode", "elapsed", "-ratioGap", "0", "-allowableGap", "0"]
    command = [str(pulp_cbc_path), str(model), *limits, "-solve", "-solution", str(answer)]
    if killed(command, seconds + GRACE_S) or not answer.exists():
        return "killed", None
    first, *lines = answer.read_text().splitlines()
    ended = _ended(first)
    if ended == "infeasible" or "no integer solution" in first:
        return ended, None
    values = np.zeros(len(found.cost))
    for line in lines:
        _, name, value, *_ = line.replace("**", "").split()
        values[int(name[1:])] = float(value)
    return ended, values


def _highs(model: Path, found: Program, seconds: float) -> tuple[str, Array | None]:
    answer = model.with_name("answer.npy")
    command = [sys.executable, "-m", "benchmarks.planners.poet_milp", str(model), str(answer), str(seconds)]
    if killed(command, seconds + GRACE_S):
        return "killed", None
    ended = json.loads(answer.with_suffix(".json").read_text())
    return ended, np.load(answer)[: len(found.cost)] if answer.exists() else None


def killed(command: list[str], seconds: float) -> bool:
    """Whether the child had to be ended."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}) as child:
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            return True
    return False


def _ended(line: str) -> str:
    if line.startswith("Optimal"):
        return "optimal"
    return "infeasible" if "nfeasible" in line else "time limit"


def _cpu_s() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _child(model: str, answer: str, seconds: str) -> None:
    solver = highspy.Highs()
    for option, value in (("output_flag", False), ("threads", 1), ("mip_rel_gap", 0.0), ("mip_abs_gap", 1e-6)):
        solver.setOptionValue(option, value)
    solver.setOptionValue("time_limit", float(seconds))
    solver.readModel(model)
    solver.run()
    status = solver.getModelStatus()
    kinds = highspy.HighsModelStatus
    names = {kinds.kOptimal: "optimal", kinds.kInfeasible: "infeasible"}
    if solver.getInfo().primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
        np.save(answer, np.array(solver.getSolution().col_value))
    Path(answer).with_suffix(".json").write_text(json.dumps(names.get(status, "time limit")))


if __name__ == "__main__":
    _child(*sys.argv[1:])
