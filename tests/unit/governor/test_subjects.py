# SPDX-License-Identifier: Apache-2.0
"""A history read without opening it."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from governor.guard import Slo
from governor.history import AFRESH, FILE, HOLD, REOPEN, RETRACT, History, Subject
from governor.subjects import Hold, Reopening, read_subjects
from governor.trial import Feasible, Invalid, TrialRecord
from telemetry.durable import decode, encode

SUBJECT = Subject("virtual:agx-orin", True, ("resnet18",), (Slo(0.95, 0.05),), {"gpu_hz": (306e6, 612e6)}, ("1",))
OTHER = dataclasses.replace(SUBJECT, models=("bert_mini",))
HIGH, LOW = {"gpu_hz": 612e6}, {"gpu_hz": 306e6}


def record(point: dict[str, float]) -> TrialRecord:
    return TrialRecord(point, Feasible(), 1.25, 0.034, 6.0, 91, 0.0335)


def written(folder: Path) -> Path:
    """Two subjects, the first tuned again after the second."""
    for subject in (SUBJECT, OTHER, SUBJECT):
        history = History(folder, subject)
        history.add(record(HIGH), 10.0)
        history.note(HOLD, 11.0, point=HIGH, feasible=True)
        history.note(REOPEN, 12.0, why="load")
        history.add(record(LOW), 13.0, {"a": 5.0, "b": 7.0})
        history.close()
    return folder / FILE


def test_subjects_come_with_all_that_was_written_of_them(tmp_path: Path) -> None:
    """The one tuned last comes last; holds and reopenings say after how many trials they came."""
    other, subject = read_subjects(written(tmp_path))
    assert (other.subject, subject.subject) == (OTHER, SUBJECT)
    assert subject.digest == SUBJECT.digest
    assert other.trials == (record(HIGH), record(LOW))
    assert subject.trials == other.trials * 2
    assert subject.ends_s == (10.0, 13.0) * 2
    assert subject.holds == (Hold(1, 11.0, HIGH, True), Hold(3, 11.0, HIGH, True))
    assert subject.reopenings == (Reopening(1, 12.0, "load"), Reopening(3, 12.0, "load"))
    assert subject.since_reopening == (record(LOW),)
    assert subject.rate_hz == 12.0


def test_what_is_retracted_is_invalid_and_what_was_before_a_fresh_start_is_gone(tmp_path: Path) -> None:
    """As for whoever resumes the subject."""
    history = History(tmp_path, SUBJECT)
    history.add(record(HIGH), 1.0)
    history.note(AFRESH, 2.0)
    history.add(record(LOW), 3.0)
    history.note(RETRACT, 4.0, reason="throttled")
    history.close()
    (only,) = read_subjects(tmp_path / FILE)
    assert [trial.outcome for trial in only.trials] == [Invalid("throttled")]
    assert (only.holds, only.reopenings) == ((), ())


def test_without_a_file_there_is_no_subject(tmp_path: Path) -> None:
    """Nothing is created."""
    assert read_subjects(tmp_path / FILE) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("strange", [None, True, "x", -1, 10**400, [], {}, {"gpu_hz": "fast"}], ids=repr)
def test_records_of_another_kind_are_passed_over(tmp_path: Path, strange: object) -> None:
    """Whatever a sound line holds in place of what we write, reading goes on."""
    path, rng = written(tmp_path), random.Random(4)
    lines = path.read_bytes().splitlines()
    for _ in range(60):
        rows = [decode(line) or {} for line in lines]
        victim = rng.choice(rows)
        victim[rng.choice(list(victim))] = strange
        path.write_bytes(b"".join(encode(row) for row in rows))
        for log in read_subjects(path):
            assert len(log.trials) == len(log.ends_s) <= 4
