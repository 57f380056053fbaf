# SPDX-License-Identifier: Apache-2.0
"""What a history says of each subject, read without opening it for writing: trials, holds and reopenings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .guard import Slo
from .history import AFRESH, HOLD, REOPEN, RETRACT, Subject, from_json, load_of_row, positive, seconds, sound_rows
from .trial import TrialRecord


@dataclass(frozen=True, slots=True)
class Hold:
    """A point held from `at_s` (CLOCK_MONOTONIC) on, after so many `trials` of its subject."""

    trials: int
    at_s: float
    point: dict[str, float]
    feasible: bool


@dataclass(frozen=True, slots=True)
class Reopening:
    """The search was opened again after so many `trials` of its subject, because something changed."""

    trials: int
    at_s: float
    why: str


@dataclass(frozen=True, slots=True)
class SubjectLog:
    """Everything a log says of one subject since it was last begun afresh, oldest first."""

    digest: str
    """The subject's name in the log."""
    subject: Subject
    trials: tuple[TrialRecord, ...]
    ends_s: tuple[float, ...]
    """When each trial ended, on CLOCK_MONOTONIC of its boot."""
    holds: tuple[Hold, ...]
    reopenings: tuple[Reopening, ...]
    rate_hz: float | None = None
    """Requests per second offered to the board when the last trial was judged, None if nobody wrote it down."""

    @property
    def since_reopening(self) -> tuple[TrialRecord, ...]:
        """The trials that measured the world as it is now."""
        return self.trials[self.reopenings[-1].trials if self.reopenings else 0 :]


def read_subjects(path: Path) -> list[SubjectLog]:
    """The subjects of a log in the order in which each was last tuned, the latest last; the file is left as it is.

    Records that are damaged, or not ours, are passed over; without a file there is no subject. Raises `OSError` for one
    that cannot be read.
    """
    if not path.exists():
        return []
    rows, _ = sound_rows(path.read_bytes())
    by_digest: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_digest[row["subject"]] = by_digest.pop(row["subject"], [])  # the latest last
        by_digest[row["subject"]].append(row)
    logs = [_subject_log(rows) for rows in by_digest.values()]
    return [log for log in logs if log is not None]


def _subject_log(rows: Sequence[Mapping[str, Any]]) -> SubjectLog | None:
    """What the rows of one subject say; None if they do not say which subject it is."""
    subjects = [subject for row in rows if row["kind"] == "subject" and (subject := _subject(row)) is not None]
    if not subjects:
        return None
    trials: list[TrialRecord] = []
    ends_s: list[float] = []
    holds: list[Hold] = []
    reopenings: list[Reopening] = []
    rate_hz = 0.0
    for row in rows:
        at_s = seconds(row.get("at_s"))
        kind = row["kind"]
        if kind == "trial":
            trials.append(from_json(row))
            ends_s.append(at_s)
            rate_hz = sum(load_of_row(row).values()) or rate_hz
        elif kind == RETRACT and trials:
            trials[-1] = trials[-1].invalidated(str(row.get("reason")))
        elif kind == AFRESH:
            for found in (trials, ends_s, holds, reopenings):
                found.clear()
        elif kind == HOLD and (point := _point(row.get("point"))) is not None:
            holds.append(Hold(len(trials), at_s, point, row.get("feasible") is True))
        elif kind == REOPEN:
            reopenings.append(Reopening(len(trials), at_s, str(row.get("why"))))
    return SubjectLog(
        rows[0]["subject"],
        subjects[-1],
        tuple(trials),
        tuple(ends_s),
        tuple(holds),
        tuple(reopenings),
        rate_hz or None,
    )


def _subject(row: Mapping[str, Any]) -> Subject | None:
    """The subject that a row describes, None if it is none of ours."""
    try:
        slos = tuple(Slo(slo["quantile"], positive(slo["limit_s"]), positive(slo["window_s"])) for slo in row["slos"])
        knobs = {str(name): tuple(positive(value) for value in values) for name, values in row["knobs"].items()}
        models = tuple(str(model) for model in row["models"])
        versions = tuple(str(version) for version in row.get("versions", ()))
        return Subject(str(row["board"]), row["virtual"] is True, models, slos, knobs, versions)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _point(value: Any) -> dict[str, float] | None:
    try:
        return {str(name): positive(number) for name, number in value.items()}
    except (TypeError, ValueError, AttributeError, OverflowError):
        return None
