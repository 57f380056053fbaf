# SPDX-License-Identifier: Apache-2.0
"""Versions on trial that nobody watches: a worker that was killed for good would leave them served for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from .serving import read_rollout
from .versions import Trial, Versions

UNWATCHED_S = 300.0
"""How long a worker that was killed has to come back: started again, it loads torch and prepares its job."""


class Unwatched:
    """How long the version on trial of each model of a repository has been served with nobody to watch it."""

    def __init__(self, repository: Path, run_dir: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._repository, self._run_dir, self._clock = repository, run_dir, clock
        self._since_s: dict[tuple[str, Trial], float] = {}

    def too_long(self, model: str) -> Trial | None:
        """The model's version on trial once it has been unwatched for `UNWATCHED_S`; ask every few seconds."""
        trial = Versions(self._repository / model).trial
        watched = read_rollout(self._run_dir)
        if trial is None or (watched is not None and watched.model == model):
            self._since_s = {key: since_s for key, since_s in self._since_s.items() if key[0] != model}
            return None
        since_s = self._since_s.setdefault((model, trial), self._clock())
        return trial if self._clock() - since_s >= UNWATCHED_S else None
