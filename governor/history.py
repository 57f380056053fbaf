# SPDX-License-Identifier: Apache-2.0
"""Trials on disk: every finished trial is appended before it is acted on, and learnt from again after a restart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from telemetry.durable import AppendLog, read_log

from .guard import Slo
from .trial import Feasible, Invalid, Outcome, TrialRecord, Violated

FILE = "history.log"
AFRESH = "fresh"
"""The note after which earlier trials of its subject are no longer learnt from."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What was tuned: trials carry over only between runs that agree in all of this."""

    board: str
    virtual: bool
    models: tuple[str, ...]
    slos: tuple[Slo, ...]
    knobs: Mapping[str, Sequence[float]]

    @property
    def digest(self) -> str:
        """A short name of the subject, equal for equal subjects."""
        text = json.dumps(asdict(self), sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class History:
    """The log of one state directory."""

    def __init__(self, state_dir: Path, subject: Subject) -> None:
        state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        self.path = state_dir / FILE
        self._digest = subject.digest
        # A governor that has to begin again and again writes its subject down once.
        known = any(row.get("kind") == "subject" and row.get("subject") == self._digest for row in read_log(self.path))
        self._log = AppendLog(self.path)
        try:
            if not known:
                self._log.append({"kind": "subject", "subject": self._digest, **_plain(subject)})
        except OSError:
            self.close()
            raise

    def add(self, record: TrialRecord, at_s: float) -> None:
        """Append one trial; `at_s` is its end on CLOCK_MONOTONIC."""
        self._log.append({"kind": "trial", "subject": self._digest, "at_s": at_s, **to_json(record)})

    def note(self, event: str, at_s: float, **details: Any) -> None:
        """Append something that is not a trial, such as the point held from now on."""
        self._log.append({"kind": event, "subject": self._digest, "at_s": at_s, **details})

    def trials(self) -> list[TrialRecord]:
        """Trials of the same subject, of this run and of earlier ones, oldest first, since it was last begun afresh."""
        rows = [row for row in read_log(self.path) if row.get("subject") == self._digest]
        begins = [number for number, row in enumerate(rows) if row.get("kind") == AFRESH]
        return [from_json(row) for row in rows[max(begins, default=0) :] if row.get("kind") == "trial"]

    def close(self) -> None:
        """Close the log."""
        self._log.close()


def to_json(record: TrialRecord) -> dict[str, Any]:
    """A trial as a JSON object; `outcome` is `feasible`, `violated` or `invalid`, with the `reason` beside it."""
    row = {key: value for key, value in asdict(record).items() if key != "outcome"}
    match record.outcome:
        case Invalid(reason):
            return row | {"outcome": "invalid", "reason": reason}
        case outcome:
            return row | {"outcome": type(outcome).__name__.lower()}


def from_json(row: Mapping[str, Any]) -> TrialRecord:
    """The trial that `to_json` wrote."""
    outcomes: dict[str, Outcome] = {"feasible": Feasible(), "violated": Violated()}
    outcome = outcomes.get(row["outcome"]) or Invalid(row.get("reason", "unknown"))
    names = ("energy_j", "latency_s", "window_s", "requests", "measured_latency_s")
    later = {name: row[name] for name in ("energy_error_j", "brief_throttles") if name in row}
    return TrialRecord(dict(row["point"]), outcome, *(row[name] for name in names), **later)


def _plain(subject: Subject) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(subject), default=list))
    return plain
