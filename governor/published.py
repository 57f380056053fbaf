# SPDX-License-Identifier: Apache-2.0
"""What a governor shows of itself in the run directory: that it is the one (a lock), and where it stands (a file)."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from telemetry.durable import replace

from .errors import AlreadyGoverned
from .status import Status
from .training_status import TrainingStatus

LOCK, STANDING = "governor.lock", "governor.json"
EVERY_S = 1.0
"""The file is written at most so often, and only when something changed."""

log = logging.getLogger("teg.governor")


class OnlyOne:
    """The right to govern a run directory: a lock that ends with its process, however that ends."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._descriptor = -1

    def __enter__(self) -> OnlyOne:
        """Raises `AlreadyGoverned` if another process has it, `OSError` if the run directory cannot be used."""
        self._run_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._descriptor = _opened(self._run_dir / LOCK)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise AlreadyGoverned(self._run_dir, (read_standing(self._run_dir) or {}).get("pid")) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        os.close(self._descriptor)


class Standing:
    """Keeps the file that says where the governor stands."""

    def __init__(self, run_dir: Path, clock: Callable[[], float]) -> None:
        self._path = run_dir / STANDING
        self._clock = clock
        self._written: dict[str, Any] = {}
        self._next_s = clock()

    def show(self, status: Status) -> None:
        """Write the file if that is due and something changed. One that cannot be written stops nothing."""
        if self._clock() < self._next_s or (standing := standing_of(status)) == self._written:
            return
        self._next_s = self._clock() + EVERY_S
        try:
            replace(self._path, json.dumps(standing).encode())
        except OSError as error:
            log.warning("%s was not written: %s", self._path, error)
        self._written = standing

    def remove(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


def standing_of(status: Status) -> dict[str, Any]:
    """Where a governor stands, as a JSON object."""
    best = status.best
    return {
        "pid": os.getpid(),
        "phase": status.phase.value,
        "detail": status.detail,
        "point": dict(status.point),
        "trials": len(status.trials),
        "best": best and {"point": best.point, "energy_j": best.energy_j, "latency_s": best.latency_s},
        "verdict": status.verdict,
        "paused": status.paused,
        "left_out": dict(status.left_out),
        "alarms": dict(status.alarms),
        "faults": dict(status.faults),
        "training": training_of(status.training),
    }


def training_of(standing: TrainingStatus) -> dict[str, Any] | None:
    """Where training stands, None while no fine-tuning process is there."""
    trainer = standing.trainer
    if trainer is None:
        return None
    return {
        "phase": standing.phase,
        "job": trainer.notice.job,
        "model": trainer.notice.model,
        "duty": standing.limits.duty,
        "slice_s": standing.limits.slice_s,
        "reason": standing.limits.reason,
        "steps": trainer.steps,
        "busy_s": trainer.busy_ns / 1e9,
        "longest_s": standing.longest_s,
    }


def read_standing(run_dir: Path) -> dict[str, Any] | None:
    """What the governor of a run directory says of itself, None if none is alive there."""
    try:
        standing = json.loads((run_dir / STANDING).read_bytes())
        alive = Path(f"/proc/{int(standing['pid'])}").exists()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return standing if alive else None


def _opened(path: Path) -> int:
    """A descriptor to lock; reading is enough for that, so that any member of the group can."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o640)
