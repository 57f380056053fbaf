# SPDX-License-Identifier: Apache-2.0
"""Trials on disk."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governor.guard import Slo
from governor.history import AFRESH, FILE, History, Subject, from_json, mend, sound_rows, to_json
from governor.trial import Feasible, Invalid, Outcome, TrialRecord, Violated
from telemetry.durable import encode, read_log

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


def whole_log(folder: Path, trials: int = 6) -> bytes:
    with opened(folder) as history:
        for number in range(trials):
            history.add(record(OUTCOMES[number % 3], 306e6 + number), float(number))
            history.note("hold", float(number), point={"gpu_hz": 1.0}, feasible=True)
    return (folder / FILE).read_bytes()


def flipped(content: bytes, rng: random.Random) -> bytes:
    altered = bytearray(content)
    for _ in range(rng.choice((1, 2, 30))):
        altered[rng.randrange(len(altered))] ^= 1 << rng.randrange(8)
    return bytes(altered)


def cut(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted((rng.randrange(len(content)), rng.randrange(len(content))))
    return rng.choice((content[:last], content[first:], content[:first] + content[last:]))


def zeroed(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\0" * len(content), content[: rng.randrange(len(content))] + b"\0" * 512))


def of_another_version(content: bytes, rng: random.Random) -> bytes:
    """Every checksum is right; what the records hold is not what this version writes."""
    strange: list[object] = [None, True, -1, "0x10", [], {"a": {}}, 1e400, 10**400, "feasible"]
    rows, _ = sound_rows(content)
    for row in rows:
        key = rng.choice(list(row))
        match rng.randrange(4):
            case 0:
                del row[key]
            case 1:
                row[key] = rng.choice(strange)
            case 2 if isinstance(row.get("point"), dict):
                row["point"] = {rng.choice(("gpu_hz", "volts")): rng.choice(strange)}
    return b"".join(encode(row) for row in rows)


DAMAGE: list[Callable[[bytes, random.Random], bytes]] = [flipped, cut, zeroed, of_another_version]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_no_damage_is_ever_read_as_a_trial(tmp_path: Path, damage: Callable[[bytes, random.Random], bytes]) -> None:
    """Five hundred of each kind: no error, no figure that could not be told, and sound records stay as they were."""
    content, rng = whole_log(tmp_path), random.Random(18)
    made = {repr(row) for row in sound_rows(content)[0]}
    for _ in range(500):
        rows, damaged = sound_rows(damage(content, rng))
        trials = [from_json(row) for row in rows if row["kind"] == "trial"]
        assert all(trial.energy_j is None or 0 < trial.energy_j < float("inf") for trial in trials)
        if damage is not of_another_version:
            assert {repr(row) for row in rows} <= made
            assert len(rows) + damaged <= len(made) + 1 + content.count(b"\n")


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_history_is_kept_aside_and_goes_on(
    tmp_path: Path, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    """It opens, the damaged file is there byte by byte, sound trials are learnt from, and the next one is written."""
    content, rng = whole_log(tmp_path / "whole"), random.Random(180)
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        broken = damage(content, rng)
        (folder / FILE).write_bytes(broken)
        sound = [from_json(row) for row in sound_rows(broken)[0] if row["kind"] == "trial"]
        with opened(folder) as history:
            kept = [path.read_bytes() for path in folder.glob("*.corrupt-*")]
            assert kept == ([broken] if history.damaged else [])
            assert len(history.trials()) <= len(sound)
            history.add(record(), 9.0)
            assert history.trials()[-1] == record()
        assert mend(folder / FILE) == 0


def test_one_flipped_bit_costs_one_record(tmp_path: Path) -> None:
    """The others are learnt from, in order; opened again, nothing is damaged any more."""
    content = whole_log(tmp_path)
    lines = content.splitlines(keepends=True)
    lines[3] = lines[3].replace(b"trial", b"trail")
    (tmp_path / FILE).write_bytes(b"".join(lines))
    with opened(tmp_path) as history:
        assert history.damaged == 1
        assert len(history.trials()) == 5
    with opened(tmp_path) as history:
        assert (history.damaged, len(history.trials())) == (0, 5)
    assert (tmp_path / f"{FILE}.corrupt-0").read_bytes() == b"".join(lines)


def test_what_is_no_file_is_moved_out_of_the_way(tmp_path: Path) -> None:
    """A folder, or a link to somewhere else, is not written through."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("not ours")
    (tmp_path / FILE).symlink_to(elsewhere)
    with opened(tmp_path) as history:
        history.add(record(), 1.0)
        assert (history.damaged, history.trials()) == (1, [record()])
    assert elsewhere.read_text() == "not ours"
    (tmp_path / FILE).rename(tmp_path / "old")
    (tmp_path / FILE).mkdir()
    with opened(tmp_path) as history:
        assert (history.damaged, history.trials()) == (1, [])
