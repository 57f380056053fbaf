# SPDX-License-Identifier: Apache-2.0
"""This project's trainer: a plan within a share of the activations' peak, operations whole or in pieces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

import finetune
from finetune.capture import Captured, capture
from finetune.errors import GraphInvalid
from finetune.planning.limits import ROOMY, plain_step
from finetune.problem import Limits
from finetune.profile import Profile, problem_of, profile
from finetune.profiling.profile_file import read_profile, write_profile
from finetune.train import TrainStep

from .setting import Setting
from .yields import Asked

LONGEST_S = 0.005
"""Operations that take longer are computed in pieces where that is exact: half of the 10 ms aimed at."""
REPEATS = 3


class Ours:
    """One plan, compiled once whole and once in pieces; both train the same model."""

    def __init__(self, setting: Setting, budget: str | None) -> None:
        self.setting = setting
        self._budget, self._profile = budget, read_profile(profile_path(setting))
        self._plain: dict[str, float] = json.loads(plain_path(setting).read_text())
        self._pacers = {mode: Asked() for mode in ("whole", "pieces")}
        whole = self._compiled("whole")
        self._steps = {"whole": whole, "pieces": self._compiled("pieces", plan=whole.plan, longest_s=LONGEST_S)}
        self.turn("whole")

    def turn(self, mode: str) -> None:
        """The next steps compute every operation as a whole, or those in pieces for which that is exact."""
        self._now, self.pacer = self._steps[mode], self._pacers[mode]

    def step(self) -> Tensor:
        """One step."""
        return self._now(*self.setting.batch)

    def figures(self) -> Mapping[str, Any]:
        """What the plan promises: bytes beyond what is carried, seconds, and the same of the step without a budget."""
        plan, report, plain = self._now.plan, self._now.report, self._plain
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
            step.close()

    def _compiled(self, mode: str, **more: Any) -> TrainStep:
        setting = self.setting
        return finetune.compile(
            setting.model,
            setting.loss,
            setting.batch,
            self._budget,
            profile=self._profile,
            pacer=self._pacers[mode],
            page_dir=setting.folder,
            **more,
        )


def profile_path(setting: Setting) -> Path:
    """Where the profile of a model lies."""
    return setting.folder / f"{setting.name}.profile.json"


def plain_path(setting: Setting) -> Path:
    """Where that lies which a model's step comes to without a budget."""
    return setting.folder / f"{setting.name}.plain.json"


def prepare(setting: Setting) -> None:
    """Capture and profile a model, unless a profile of this very graph is there."""
    captured = capture(setting.model, setting.loss, setting.batch, setting.name)
    found = _profiled(setting, captured)
    plain = plain_step(problem_of(captured.graph, found, Limits(ROOMY)))
    told = {
        "step_s": plain.step_time_s,
        "peak_bytes": plain.activation_peak_bytes,
        "carried_bytes": plain.peak_bytes - plain.activation_peak_bytes,
    }
    plain_path(setting).write_text(json.dumps(told))


def _profiled(setting: Setting, captured: Captured) -> Profile:
    path = profile_path(setting)
    try:
        found = read_profile(path)
        if found.graph_digest == captured.graph.digest:
            return found
    except (OSError, GraphInvalid):
        path.parent.mkdir(parents=True, exist_ok=True)
    found = profile(captured, setting.folder, repeats=REPEATS)
    write_profile(path, found)
    return found
