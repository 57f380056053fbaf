# SPDX-License-Identifier: Apache-2.0
"""A model's version folders tell whoever comes after a crash how far a rollout got."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from governor.publish import is_intact, publish
from governor.serving import watching
from governor.unwatched import UNWATCHED_S, Unwatched
from governor.versions import REASON, RolledBack, RolledOut, Trial, Versions
from telemetry import durable


def weights(content: bytes = b"weights") -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").write_bytes(content) and None


def begin(versions: Versions, job: str = "a") -> Trial:
    trial = Trial(versions.fresh, versions.numbers[-1], job)
    versions.begin(trial, {"accuracy_after": 0.9}, weights())
    return trial


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    folder = tmp_path / "mine"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / ".gitignore").write_text("*\n!.gitignore\n")
    publish(folder / "1", weights())
    return Versions(folder)


def test_a_version_begins_on_trial(versions: Versions) -> None:
    """It is whole, says which job made it from what, hides from git as its base does, and is no outcome yet."""
    trial = begin(versions)
    folder = versions.path(2)
    assert trial == Trial(2, 1, "a") == versions.trial
    assert is_intact(folder)
    assert json.loads((folder / "published.json").read_text()) == {"job": "a", "base": 1, "accuracy_after": 0.9}
    assert (folder / ".gitignore").read_text() == "*\n"
    assert stat.S_IMODE((folder / "model.safetensors").stat().st_mode) == 0o644
    assert versions.outcome_of("a") is None


def test_accepted(versions: Versions) -> None:
    """A version that was watched stays, and its job's outcome is known for good."""
    begin(versions)
    versions.accept()
    assert versions.trial is None
    assert versions.outcome_of("a") == RolledOut(2)
    assert versions.outcome_of("b") is None
    assert versions.numbers == [1, 2]


def test_rejected(versions: Versions) -> None:
    """A version taken back is out of Triton's sight, its reason is kept, and its number is never used again."""
    done = versions.reject(begin(versions), "too slow")
    assert done == RolledBack(2, "too slow") == versions.outcome_of("a")
    assert versions.numbers == [1]
    assert versions.trial is None
    assert versions.fresh == 3


def test_a_failed_write_leaves_nothing(versions: Versions) -> None:
    """If the files cannot be written there is no version and no trial."""

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        versions.begin(Trial(2, 1, "a"), {}, full)
    assert versions.trial is None
    assert sorted(path.name for path in versions.folder.iterdir()) == ["1"]


def run_until(steps_left: int, stop: Callable[[], None], versions: Versions) -> None:
    """Begin and reject a version, and call `stop` in place of the durable step after so many."""

    def counted(real: Callable[..., None]) -> Callable[..., None]:
        def step(*args: object, **named: object) -> None:
            nonlocal steps_left
            if not steps_left:
                stop()
            steps_left -= 1
            real(*args, **named)

        return step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "replace", counted(durable.replace))
        patch.setattr(durable, "sync_folder", counted(durable.sync_folder))
        versions.reject(begin(versions), "too slow")


@pytest.mark.parametrize("survived", range(9))
def test_a_kill_at_any_step_can_be_told(versions: Versions, survived: int) -> None:
    """Whatever the last durable step was, the folder says that nothing has happened, that the version is on trial, or
    that it was taken back; and a rollout can go on from there.
    """
    child = os.fork()
    if not child:
        run_until(survived, lambda: os._exit(9), versions)
        os._exit(0)
    os.waitpid(child, 0)
    found = versions.outcome_of("a"), versions.trial
    assert found in (
        (None, None),
        (None, Trial(2, 1, "a")),
        (RolledBack(2, "taken back"), None),
        (RolledBack(2, "too slow"), None),
    )
    if found == (None, None):
        begin(versions)
    if versions.trial:
        versions.accept()
        assert isinstance(versions.outcome_of("a"), RolledOut)


@pytest.mark.parametrize("survived", range(5))
def test_an_error_while_beginning_leaves_no_version(versions: Versions, survived: int) -> None:
    """A disk that fails, or an interrupt, at any durable step: no version is there unwatched."""

    def fail() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        run_until(survived, fail, versions)
    assert versions.outcome_of("a") is None or versions.trial is None
    assert not isinstance(versions.outcome_of("a"), RolledOut)


def test_old_versions_are_swept(versions: Versions) -> None:
    """What jobs published goes when newer versions have come, what a person built stays, rejected ones go as well."""
    for job in "abcd":
        begin(versions, job)
        versions.accept()
    for job in "xyz":
        versions.reject(begin(versions, job), "too slow")
    versions.sweep(keep=2)
    assert versions.numbers == [1, 3, 4, 5]
    assert [path.name for path in versions.folder.glob(".rejected-*")] != []
    assert sorted(path.name for path in versions.folder.glob(".rejected-*")) == [".rejected-7", ".rejected-8"]
    assert versions.outcome_of("x") is None
    assert versions.fresh == 9
    versions.sweep(keep=0)
    assert versions.numbers == [1, 5]


def test_what_is_no_version_is_left_alone(versions: Versions) -> None:
    """Only folders that Triton would load count; a damaged marker or reason counts as none."""
    for name in ("02", "0", "notes", ".rejected-x"):
        (versions.folder / name).mkdir()
    (versions.folder / "7").write_text("a file")
    (versions.folder / ".on-trial.json").write_text("{")
    assert versions.numbers == [1]
    assert versions.trial is None
    versions.reject(begin(versions), "why")
    (versions.folder / ".rejected-2" / REASON).write_text("[]")
    assert versions.outcome_of("a") == RolledBack(2, "taken back")


def test_nobody_watches_for_long(versions: Versions, tmp_path: Path) -> None:
    """Only a version on trial counts, only while nobody watches, and another watch begins the time anew."""
    now_s = 0.0
    unwatched = Unwatched(versions.folder.parent, tmp_path, clock=lambda: now_s)
    model = versions.folder.name
    assert unwatched.too_long(model) is None
    trial = begin(versions)
    assert unwatched.too_long(model) is None
    now_s = UNWATCHED_S - 1
    assert unwatched.too_long(model) is None
    with watching(tmp_path, model, 2, 1):
        now_s = UNWATCHED_S
        assert unwatched.too_long(model) is None
    assert unwatched.too_long(model) is None
    now_s += UNWATCHED_S - 1
    assert unwatched.too_long(model) is None
    now_s += 1
    assert unwatched.too_long(model) == trial
    versions.accept()
    assert unwatched.too_long(model) is None


def test_watching_one_model_watches_no_other(versions: Versions, tmp_path: Path) -> None:
    """A publisher is at one model at a time, and another model's trial may be one that was left behind."""
    now_s = 0.0
    unwatched = Unwatched(versions.folder.parent, tmp_path, clock=lambda: now_s)
    trial = begin(versions)
    with watching(tmp_path, "another", 2, 1):
        assert unwatched.too_long(versions.folder.name) is None
        now_s = UNWATCHED_S
        assert unwatched.too_long(versions.folder.name) == trial


def test_the_next_trial_has_time_of_its_own(versions: Versions, tmp_path: Path) -> None:
    """One that follows another unwatched one is not taken back for that one's time."""
    now_s = 0.0
    unwatched = Unwatched(versions.folder.parent, tmp_path, clock=lambda: now_s)
    first = begin(versions)
    assert unwatched.too_long(versions.folder.name) is None
    versions.reject(first, "late")
    begin(versions, "b")
    now_s = UNWATCHED_S
    assert unwatched.too_long(versions.folder.name) is None
