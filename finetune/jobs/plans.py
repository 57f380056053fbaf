# SPDX-License-Identifier: Apache-2.0
"""Plans that earlier jobs have made: one for each graph, batch, board and budget."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from telemetry.durable import quarantine

from ..errors import PlanInvalid, PlanMismatch
from ..graph import Graph
from ..plan import Plan
from ..plan_file import read_plan, write_plan


@dataclass(frozen=True, slots=True)
class PlanCache:
    """Plans in a folder, for one batch, board and budget."""

    folder: Path
    batch: int
    board: str
    budget: str | int | None

    def find(self, graph: Graph) -> Plan | None:
        """The plan made for this graph, None if there is none; one that cannot be read is moved aside."""
        path = self._path(graph.digest)
        if not path.exists():
            return None
        try:
            return read_plan(path, graph)
        except (PlanInvalid, PlanMismatch):
            quarantine(path)
            return None

    def keep(self, plan: Plan) -> None:
        """Keep a plan for the next job unless there is one; raises `OSError` (disk full)."""
        path = self._path(plan.graph_digest)
        if plan.schedule and not path.exists():
            self.folder.mkdir(mode=0o700, exist_ok=True)
            write_plan(path, plan)

    def _path(self, graph_digest: str) -> Path:
        key = f"{graph_digest} {self.batch} {self.board} {self.budget}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
