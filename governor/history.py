# SPDX-License-Identifier: Apache-2.0
"""Trials on disk: every finished trial is appended before it is acted on, and learnt from again after a restart.

What cannot be read, or is not ours, never stops a start: the whole file is kept aside as it was found, and the history
goes on with the records that are sound.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

from telemetry.durable import AppendLog, decode, encode, quarantine, read_log, replace

from .guard import Slo
from .trial import Feasible, Invalid, Outcome, TrialRecord, Violated

FILE = "history.log"
KINDS = frozenset({"subject", "trial", "hold", "fresh", "retract", "reopen", "succeed"})
HOLD = "hold"
"""The note that a `point` is held from now on, and whether it is `feasible`."""
AFRESH = "fresh"
"""The note after which earlier trials of its subject are no longer learnt from."""
RETRACT = "retract"
"""The note that makes the trial before it invalid, for its `reason`."""
REOPEN = "reopen"
"""The note that ends a hold for its `why`; the trials before it measured a world that has changed since."""
SUCCEED = "succeed"
"""The note that this subject is another one, so far `of`, with new versions of its models: its trials stay."""
LONG_AGO = "long ago"
"""Why trials are outdated after which the search was opened again more than once."""

log = logging.getLogger("teg.governor")


@dataclass(frozen=True, slots=True)
class Subject:
    """What was tuned: trials carry over only between runs that agree in all of this."""

    board: str
    virtual: bool
    models: tuple[str, ...]
    slos: tuple[Slo, ...]
    knobs: Mapping[str, Sequence[float]]
    versions: tuple[str, ...] = ()
    """Of the models, in their order."""

    @property
    def digest(self) -> str:
        """A short name of the subject, equal for equal subjects."""
        text = json.dumps(asdict(self), sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Logged:
    """A trial as it lies in the log, and the load by instance that it was judged at."""

    record: TrialRecord
    at_s: float
    load_hz: Mapping[str, float]
    outdated: str = ""
    """Why the search was opened again after it; empty if it was not."""

    def reopened(self, why: str) -> Logged:
        """The same trial after the search was opened again."""
        return changed(self, outdated=LONG_AGO if self.outdated else why)


class History:
    """The log of one state directory."""

    def __init__(self, state_dir: Path, subject: Subject) -> None:
        state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        self.path = state_dir / FILE
        self.digest = subject.digest
        self.damaged = mend(self.path)
        """Records found damaged when it was opened."""
        # A governor that has to begin again and again writes its subject down once.
        known = any(row.get("kind") == "subject" and row.get("subject") == self.digest for row in read_log(self.path))
        self._log = AppendLog(self.path)
        try:
            if not known:
                self._log.append({"kind": "subject", "subject": self.digest, **_plain(subject)})
        except OSError:
            self.close()
            raise

    def add(self, record: TrialRecord, at_s: float, load_hz: Mapping[str, float] | None = None) -> None:
        """Append one trial; `at_s` is its end on CLOCK_MONOTONIC, `load_hz` the load by instance it was judged at."""
        about = {"kind": "trial", "subject": self.digest, "at_s": at_s, "load_hz": dict(load_hz or {})}
        self._log.append({**about, **to_json(record)})

    def note(self, event: str, at_s: float, **details: Any) -> None:
        """Append something that is not a trial, such as the point held from now on."""
        self._log.append({"kind": event, "subject": self.digest, "at_s": at_s, **details})

    def trials(self) -> list[TrialRecord]:
        """Trials of the same subject, of this run and of earlier ones, oldest first, since it was last begun afresh."""
        return [entry.record for entry in self.logged()]

    def logged(self) -> list[Logged]:
        """The same with what was written beside them."""
        by_subject: dict[object, list[Logged]] = {}
        for row in read_log(self.path):
            found = by_subject.setdefault(row.get("subject"), [])
            kind = row.get("kind")
            if kind == "trial":
                found.append(Logged(from_json(row), seconds(row.get("at_s")), load_of_row(row)))
            elif kind == AFRESH:
                found.clear()
            elif kind == RETRACT and found:
                found[-1] = changed(found[-1], record=found[-1].record.invalidated(str(row.get("reason"))))
            elif kind == REOPEN:
                found[:] = [entry.reopened(str(row.get("why"))) for entry in found]
            elif kind == SUCCEED:
                found[:] = by_subject.get(row.get("of"), [])
        return by_subject.get(self.digest, [])

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
    """The trial that `to_json` wrote; raises `KeyError`, `TypeError` or `ValueError` for anything else."""
    point = {name: positive(value) for name, value in row["point"].items()}
    outcomes: dict[str, Outcome] = {"feasible": Feasible(), "violated": Violated()}
    outcome = outcomes.get(row["outcome"])
    if outcome is None:
        if row["outcome"] != "invalid" or not isinstance(row["reason"], str):
            raise ValueError(f"not an outcome: {row['outcome']!r}")
        outcome = Invalid(row["reason"])
    elif row["energy_j"] is None or row["latency_s"] is None:
        raise ValueError("a trial that was measured has joules and a latency")
    return TrialRecord(
        point,
        outcome,
        _known(row["energy_j"]),
        _known(row["latency_s"]),
        _number(row["window_s"]),
        _whole(row["requests"]),
        _known(row["measured_latency_s"]),
        # Later versions added these.
        _number(row.get("energy_error_j", 0.0)),
        _whole(row.get("brief_throttles", 0)),
        *(_number_known(row.get(name)) for name in ("energy_half_width", "latency_half_width")),
    )


def mend(path: Path) -> int:
    """Leave only sound records in a log, the whole of it kept aside if there were others; how many there were."""
    if not os.path.lexists(path):
        return 0
    if path.is_symlink() or not path.is_file():
        log.warning("history: not a file, kept aside as %s", quarantine(path))
        return 1
    content = path.read_bytes()
    rows, damaged = sound_rows(content)
    if damaged:
        aside = _free_name(path)
        replace(aside, content)
        replace(path, b"".join(encode(row) for row in rows))
        log.warning("history: %d records are damaged; the file as it was is %s", damaged, aside)
    return damaged


def sound_rows(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The records of a log that are whole and ours, in order, and the number of those that are not."""
    rows = [decode(line) for line in content.split(b"\n") if line]
    sound = [row for row in rows if row is not None and _is_ours(row)]
    return sound, len(rows) - len(sound)


def _is_ours(row: Mapping[str, Any]) -> bool:
    try:
        return row["kind"] in KINDS and isinstance(row["subject"], str) and (row["kind"] != "trial" or _is_trial(row))
    except (KeyError, TypeError):
        return False


def _is_trial(row: Mapping[str, Any]) -> bool:
    try:
        from_json(row)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return False
    return True


def is_number(value: Any) -> bool:
    """Whether it is a finite number that is not negative."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def seconds(value: Any) -> float:
    """A moment on CLOCK_MONOTONIC; 0 for anything else."""
    return float(value) if is_number(value) and value < 1e12 else 0.0


def load_of_row(row: Mapping[str, Any]) -> dict[str, float]:
    """The load by instance at which a trial was judged; empty if that is not known."""
    try:
        return {str(name): positive(rate_hz) for name, rate_hz in row["load_hz"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return {}


def _number(value: Any) -> float:
    """A finite number that is not negative."""
    if not is_number(value):
        raise ValueError(f"not a number of ours: {value!r}")
    return float(value)


def positive(value: Any) -> float:
    """A finite number above zero; raises `ValueError` for anything else."""
    if not _number(value) > 0:
        raise ValueError("must be positive")
    return float(value)


def _known(value: Any) -> float | None:
    return None if value is None else positive(value)


def _number_known(value: Any) -> float | None:
    return None if value is None else _number(value)


def _whole(value: Any) -> int:
    if not _number(value).is_integer():
        raise ValueError(f"must be whole: {value!r}")
    return int(value)


def _free_name(path: Path) -> Path:
    number = 0
    while os.path.lexists(aside := path.with_name(f"{path.name}.corrupt-{number}")):
        number += 1
    return aside


def _plain(subject: Subject) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(subject), default=list))
    return plain
