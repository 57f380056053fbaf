# SPDX-License-Identifier: Apache-2.0
"""The version folders of one model: which are there, which is on trial, which were rejected.

```
model/1/                  built or pinned by a person
model/2/published.json    written by a job: which, from which version
model/3/                  on trial: model/.on-trial.json says so until it has been watched
model/.rejected-4/        taken back; its number is not used again
```
Every step is one rename or one durable file, so that whoever comes after a crash can tell how far it got.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from telemetry import durable

from .publish import IGNORED, publish

TRIAL, RECORD, REASON = ".on-trial.json", "published.json", "rejected.json"
_REJECTED = ".rejected-"


@dataclass(frozen=True, slots=True)
class Trial:
    """A version on trial: the one before it, and the job that made it."""

    version: int
    base: int
    job: str


@dataclass(frozen=True, slots=True)
class RolledOut:
    """The version is served; `requests` were judged while it was watched."""

    version: int
    requests: int = 0


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The version was taken back, and the one before it is served."""

    version: int
    reason: str


class Versions:
    """The versions in one model's folder of the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def numbers(self) -> list[int]:
        """The versions that Triton may load, ascending."""
        return sorted(int(path.name) for path in self.folder.iterdir() if _is_version(path.name) and path.is_dir())

    @property
    def fresh(self) -> int:
        """The next number: above every one that was ever served, so that a version never means two things."""
        return max([0, *self.numbers, *(number for number, _ in self._rejected())]) + 1

    @property
    def trial(self) -> Trial | None:
        """The version on trial; None without one, also where its folder was never finished or has been taken back."""
        try:
            trial = Trial(**json.loads((self.folder / TRIAL).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return trial if self.path(trial.version).is_dir() else None

    def path(self, version: int) -> Path:
        """The folder of a version."""
        return self.folder / str(version)

    def begin(self, trial: Trial, about: Mapping[str, Any], fill: Callable[[Path], None]) -> None:
        """Publish a version on trial; `fill` writes its model files. Whatever that raises leaves nothing behind."""
        self._mark(trial)
        record = json.dumps({"job": trial.job, "base": trial.base, **about}, indent=2).encode() + b"\n"

        def write(draft: Path) -> None:
            if (self.path(trial.base) / IGNORED).exists():
                (draft / IGNORED).write_text("*\n")  # this file too: a checkout knows nothing of versions made by jobs
            (draft / RECORD).write_bytes(record)
            fill(draft)

        try:
            publish(self.path(trial.version), write)
        except BaseException:
            shutil.rmtree(self.path(trial.version), ignore_errors=True)  # it may be in place, but not for sure
            self._unmark()
            raise

    def accept(self) -> None:
        """The version on trial is one of the others from now on."""
        self._unmark()

    def reject(self, trial: Trial, reason: str) -> RolledBack:
        """Move the version on trial away, where Triton does not look; raises `OSError` if somebody else has."""
        aside = self.folder / f"{_REJECTED}{trial.version}"
        self.path(trial.version).rename(aside)
        durable.replace(aside / REASON, json.dumps({"reason": reason}).encode() + b"\n")
        durable.sync_folder(self.folder)
        self._unmark()
        return RolledBack(trial.version, reason)

    def outcome_of(self, job: str) -> RolledOut | RolledBack | None:
        """What became of a job's version; None if it has none, or if that is still on trial."""
        trial = self.trial
        for number, folder in self._rejected():
            if _read(folder / RECORD).get("job") == job:
                return RolledBack(number, str(_read(folder / REASON).get("reason", "taken back")))
        for number in self.numbers:
            if (trial is None or trial.version != number) and _read(self.path(number) / RECORD).get("job") == job:
                return RolledOut(number)
        return None

    def sweep(self, keep: int) -> None:
        """Remove what jobs published but for the newest version and `keep` before it, and as many rejected ones."""
        old = [self.path(number) for number in self.numbers[: -1 - keep]]
        rejected = [folder for _, folder in self._rejected()[: -keep or None]]
        for folder in (*(path for path in old if (path / RECORD).exists()), *rejected):
            shutil.rmtree(folder)

    def _rejected(self) -> list[tuple[int, Path]]:
        found = [
            (int(path.name.removeprefix(_REJECTED)), path)
            for path in self.folder.glob(f"{_REJECTED}*")
            if _is_version(path.name.removeprefix(_REJECTED))
        ]
        return sorted(found)

    def _mark(self, trial: Trial) -> None:
        durable.replace(self.folder / TRIAL, json.dumps(asdict(trial)).encode())

    def _unmark(self) -> None:
        (self.folder / TRIAL).unlink(missing_ok=True)
        durable.sync_folder(self.folder)


def _is_version(name: str) -> bool:
    """As Triton reads folder names: a number without leading zeros."""
    return re.fullmatch(r"[1-9][0-9]{0,17}", name) is not None


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
