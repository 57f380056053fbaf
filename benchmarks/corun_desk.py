# SPDX-License-Identifier: Apache-2.0
"""The governor's part for a job beside one model on a host without a board: the product's own, looked at pages alone.

Without a board there is no clockd, hence no `teg run`; what that would ask twenty times a second is asked here.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from governor.guard import Slo
from governor.reader import PageReader
from governor.training import Training
from telemetry.rundir import RunDir
from telemetry.trainer_page import TrainerLimits

from .corun_setup import Setup

QUANTILE = 0.95
"""Of latencies within the server, promised to stay below the limit that one request in sixty exceeds anyway."""
WINDOW, WINDOW_S = 50, 4.0
"""Requests that are judged together, at least, and for how long: a governor has more to do than to judge."""
SLICE_S, TTL_S = 0.05, 2.0
STRETCHES = 256


class Desk:
    """Decides about one long job, whenever it is this job's turn."""

    def __init__(self, run_dir: RunDir, setup: Setup) -> None:
        self._reader = PageReader(run_dir)
        self._slo = Slo(QUANTILE, setup.server_slo_s, max(WINDOW_S, WINDOW / setup.rate_hz))
        self._thinker = ThreadPoolExecutor(1)
        self._faults: list[str] = []
        self._training = Training(self._reader.write_limits, self._thinker, time.monotonic, self._fault)
        self._stretches_s: deque[float] = deque(maxlen=STRETCHES)

    def resume(self) -> None:
        """A trace is about to begin; what was served since the last one stood beside somebody else's training."""
        self._reader.read()
        self.tick("another's turn")

    def tick(self, held: str = "") -> None:
        """One look at the pages, and at what training may take."""
        now = self._reader.read()
        self._training.tick(now, {view.info.instance: self._slo for view in now.instances}, held)
        if now.trainer:
            self._stretches_s.extend(now.trainer.stretches_s)

    def over(self) -> None:
        """The trace has ended: let the step in progress end, too."""
        self._reader.write_limits(TrainerLimits(1.0, SLICE_S, "the trace is over"), TTL_S)

    def figures(self) -> dict[str, object]:
        """Where it stands, and what broke so far."""
        standing = self._training.standing
        return {
            "phase": standing.phase,
            "duty": standing.limits.duty,
            "reason": standing.limits.reason,
            "online_mape": standing.error_ratio,
            "held_share": standing.held_ratio,
            "faults": list(self._faults),
            "stretches_s": [round(stretch_s, 7) for stretch_s in self._stretches_s],
        }

    def close(self) -> None:
        """Stop thinking, and unmap the pages."""
        self._thinker.shutdown(cancel_futures=True)
        self._reader.close()

    def _fault(self, kind: str, text: str) -> None:
        self._faults.append(f"{kind}: {text}")
