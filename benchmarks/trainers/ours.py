# SPDX-License-Identifier: Apache-2.0
"""This project's trainer: a plan within a share of the activations' peak, operations whole or in pieces."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

import finetune
from finetune.capture import Captured, capture
from finetune.errors import GraphInvalid, NoPlan
from finetune.planning.limits import ROOMY, plain_step
from finetune.problem import Limits
from finetune.profile import Profile, problem_of, profile
from finetune.profiling.profile_file import read_profile, write_profile
from finetune.splitting import LONGEST_S, make_interruptible
from finetune.train import TrainStep

from ..execute_report import MODES
from .setting import Setting
from .yields import Asked

REPEATS = 3


class Ours:
    """One plan, compiled once whole and once in pieces; both train the same model."""

    def __init__(self, setting: Setting, budget: str | None, modes: Sequence[str] = MODES) -> None:
        self.setting, self._budget = setting, budget
        self._pacers = {mode: Asked() for mode in modes}
        self._steps = {mode: self._compiled(mode) for mode in modes}
        self._mode = modes[0]

    def turn(self, mode: str) -> None:
        """The next steps compute every operation as a whole, or some in pieces; raises `NoPlan` if there is none."""
        found = self._steps[mode]
        if isinstance(found, NoPlan):
            raise found
        self._mode, self._now, self.pacer = mode, found, self._pacers[mode]

    def step(self) -> Tensor:
        """One step."""
        return self._now(*self.setting.batch)

    def figures(self) -> Mapping[str, Any]:
        """What the plan promises: bytes beyond what is carried, seconds, and the same of the step without a budget."""
        plan, report = self._now.plan, self._now.report
        plain = json.loads(path_of(self.setting, self._mode, "plain").read_text())
        kept = self._budget is None
        computed = [entry.number for entry in plan.schedule if entry.act == "C"]
        return {
            "predicted_peak_bytes": plain["peak_bytes"] if kept else plan.activation_peak_bytes,
            "predicted_step_s": plain["step_s"] if kept else plan.step_time_s,
            "plain_step_s": plain["step_s"],
            "plain_peak_bytes": plain["peak_bytes"],
            "budget_bytes": None if kept else plan.budget_bytes - plain["carried_bytes"],
            "status": plan.status,
            "ops": len(set(computed)),
            "recomputed": len(computed) - len(set(computed)),
            "written_bytes": report.written_bytes // max(1, report.steps),
            "longest_s": report.longest_s,
            "longest_op": report.longest_op,
        }

    def close(self) -> None:
        """Remove the pages."""
        for step in self._steps.values():
            if not isinstance(step, NoPlan):
                step.close()

    def _compiled(self, mode: str) -> TrainStep | NoPlan:
        setting = self.setting
        try:
            return finetune.compile(
                setting.model,
                setting.loss,
                setting.batch,
                self._budget,
                profile=read_profile(path_of(setting, mode, "profile")),
                pacer=self._pacers[mode],
                page_dir=setting.folder,
                longest_s=LONGEST_S if mode == "pieces" else None,
            )
        except NoPlan as none:
            return none


def path_of(setting: Setting, mode: str, what: str) -> Path:
    """Where the `profile` of a model lies, and what its step comes to without a budget (`plain`)."""
    return setting.folder / f"{setting.name}.{mode}.{what}.json"


def prepare(setting: Setting, modes: Sequence[str] = MODES) -> None:
    """Capture a model and profile it in these modes, unless profiles of this very graph are there."""
    captured = capture(setting.model, setting.loss, setting.batch, setting.name)
    for mode in modes:
        plain = plain_step(problem_of(captured.graph, _profiled(setting, captured, mode), Limits(ROOMY)))
        told = {
            "step_s": plain.step_time_s,
            "peak_bytes": plain.activation_peak_bytes,
            "carried_bytes": plain.peak_bytes - plain.activation_peak_bytes,
        }
        path_of(setting, mode, "plain").write_text(json.dumps(told))


def _profiled(setting: Setting, captured: Captured, mode: str) -> Profile:
    path = path_of(setting, mode, "profile")
    try:
        found = read_profile(path)
        if found.graph_digest == captured.graph.digest:
            return found
    except (OSError, GraphInvalid):
        path.parent.mkdir(parents=True, exist_ok=True)
    functions = make_interruptible(captured, LONGEST_S).functions if mode == "pieces" else {}
    found = profile(captured, setting.folder, repeats=REPEATS, functions=functions)
    write_profile(path, found)
    return found
