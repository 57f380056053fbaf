# SPDX-License-Identifier: Apache-2.0
"""What several verbs share: the run directory from `--run-dir`, and the trials as a progress bar."""

from __future__ import annotations

import argparse
import sys
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from telemetry.rundir import RunDir, default_run_dir

if TYPE_CHECKING:
    from ..status import Status
    from ..trial import TrialRecord


def run_dir_of(args: argparse.Namespace) -> RunDir:
    """The run directory that `--run-dir` names, else the default one."""
    return RunDir(args.run_dir or default_run_dir())


class TrialProgress:
    """A bar on a terminal; one line per trial where the output is not one."""

    def __init__(self, trials: int) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("waiting", total=trials)
        self._shown = 0

    def __enter__(self) -> TrialProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._bar.stop()

    def update(self, status: Status) -> None:
        """Show where the governor stands and the trials finished since."""
        self._shown = min(self._shown, len(status.trials))
        for trial in status.trials[self._shown :]:
            line = f"trial {self._shown + 1:3d}  {describe(trial)}"
            self._shown += 1
            if self._bar.disable:
                print(line, file=sys.stderr, flush=True)
            else:
                self._bar.console.print(line, highlight=False)
        text = f"{status.phase.value} {status.detail}".strip()
        self._bar.update(self._task, description=text, completed=min(self._shown, int(self._bar.tasks[0].total or 0)))


def describe(trial: TrialRecord) -> str:
    """One trial in one line."""
    outcome = type(trial.outcome).__name__.lower()
    if trial.energy_j is None or trial.latency_s is None:
        return f"{point_text(trial.point)}  {outcome} ({getattr(trial.outcome, 'reason', '')})"
    return f"{point_text(trial.point)}  {trial.energy_j:8.3f} J/request  {trial.latency_s * 1e3:7.1f} ms  {outcome}"


def point_text(point: dict[str, float]) -> str:
    """A point as people write it: GPU, EMC and CPU in MHz, cores and batch as they are."""
    parts = [
        f"{name.removesuffix('_hz')} {value / 1e6:7.1f} MHz" if name.endswith("_hz") else f"{name} {value:g}"
        for name, value in point.items()
    ]
    return ", ".join(parts)
