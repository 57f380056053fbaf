# SPDX-License-Identifier: Apache-2.0
"""Trials on disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governor.guard import Slo
from governor.history import AFRESH, FILE, History, Subject, from_json, to_json
from governor.trial import Feasible, Invalid, Outcome, TrialRecord, Violated
from telemetry.durable import read_log

SUBJECT = Subject("virtual:agx-orin", True, ("resnet18",), (Slo(0.95, 0.05),), {"gpu_hz": (306_000_000, 612_000_000)})
OUTCOMES: list[Outcome] = [Feasible(), Violated(), Invalid("load")]


FEASIBLE = Feasible()


def record(outcome: Outcome = FEASIBLE, gpu_hz: float = 306_000_000.0) -> TrialRecord:
    if isinstance(outcome, Invalid):
        return TrialRecord({"gpu_hz": gpu_hz, "batch": 4.0}, outcome, window_s=1.5)
    return TrialRecord({"gpu_hz": gpu_hz, "batch": 4.0}, outcome, 1.25, 0.034, 6.0, 91, 0.0335)


@contextmanager
def opened(folder: Path, subject: Subject = SUBJECT) -> Iterator[History]:
    history = History(folder, subject)
    try:
        yield history
    finally:
        history.close()


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_every_outcome_comes_back_as_it_was(tmp_path: Path, outcome: Outcome) -> None:
    """Through the file and through JSON text."""
    with opened(tmp_path) as history:
        history.add(record(outcome), 12.5)
        assert history.trials() == [record(outcome)]
    assert from_json(json.loads(json.dumps(to_json(record(outcome))))) == record(outcome)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 10), st.integers(0, 10**6))
def test_figures_lose_nothing(energy_j: float, latency_s: float, requests: int) -> None:
    """A float comes back bit by bit."""
    trial = dataclasses.replace(record(), energy_j=energy_j, latency_s=latency_s, requests=requests)
    assert from_json(json.loads(json.dumps(to_json(trial)))) == trial


def test_order_and_earlier_runs_are_kept(tmp_path: Path) -> None:
    """A second run reads the first one's trials, oldest first, then its own; the subject is written down once."""
    with opened(tmp_path) as history:
        history.add(record(), 1.0)
        history.note("hold", 2.0, point={"gpu_hz": 1.0}, feasible=True)
    with opened(tmp_path) as history:
        history.add(record(Violated()), 3.0)
        assert history.trials() == [record(), record(Violated())]
    assert [row["kind"] for row in read_log(tmp_path / FILE)] == ["subject", "trial", "hold", "trial"]


@pytest.mark.parametrize(
    "other",
    [
        {"board": "agx-orin"}, {"virtual": False}, {"models": ("bert_mini",)}, {"slos": (Slo(0.95, 0.06),)},
        {"slos": (Slo(0.99, 0.05),)}, {"knobs": {"gpu_hz": (306_000_000,)}},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_only_trials_of_the_same_subject_carry_over(tmp_path: Path, other: dict[str, object]) -> None:
    """Another board, model, objective or grid learns nothing from these trials, and does not disturb them."""
    with opened(tmp_path) as history:
        history.add(record(), 1.0)
    with opened(tmp_path, dataclasses.replace(SUBJECT, **other)) as stranger:
        assert stranger.trials() == []
        stranger.note(AFRESH, 2.0)
    with opened(tmp_path) as history:
        assert history.trials() == [record()]


def test_begun_afresh_earlier_trials_are_passed_over(tmp_path: Path) -> None:
    """They stay in the file."""
    with opened(tmp_path) as history:
        history.add(record(Violated()), 1.0)
        history.note(AFRESH, 2.0)
        history.add(record(), 3.0)
        assert history.trials() == [record()]
    assert sum(row["kind"] == "trial" for row in read_log(tmp_path / FILE)) == 2


def test_a_torn_tail_costs_its_own_trial_alone(tmp_path: Path) -> None:
    """Cut anywhere in its last line, the log still gives the trials before it and takes the ones after it."""
    with opened(tmp_path) as history:
        history.add(record(), 1.0)
        keep = history.path.stat().st_size
        history.add(record(Violated()), 2.0)
    whole = (tmp_path / FILE).read_bytes()
    for cut in range(keep, len(whole) - 1, 5):
        (tmp_path / FILE).write_bytes(whole[:cut])
        with opened(tmp_path) as history:
            history.add(record(Invalid("idle")), 3.0)
            assert history.trials() == [record(), record(Invalid("idle"))]
