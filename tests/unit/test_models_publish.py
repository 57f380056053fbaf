# SPDX-License-Identifier: Apache-2.0
"""A version folder is published whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from governor.publish import VersionUnfit, is_intact, pin, publish
from telemetry import durable


def write(content: bytes, name: str = "model.safetensors"):  # type: ignore[no-untyped-def]
    return lambda folder: (folder / name).write_bytes(content) and None


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "mine" / "1"
    folder.mkdir(parents=True)
    (folder / ".gitignore").write_text("*\n")
    return folder


@pytest.fixture(params=["exchange", "file by file"])
def version_either_way(version: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The version folder, on a file system that can exchange folders and on one that cannot."""
    if request.param == "file by file":
        forget_exchange(monkeypatch)
    return version


def forget_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A C library without renameat2, as musl once was."""
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_version_holds_its_files_and_their_digests(version_either_way: Path) -> None:
    """After publishing, the folder holds what was written, the digest of each file, and its old .gitignore."""
    publish(version_either_way, write(b"weights"))
    stated = json.loads((version_either_way / "digest.json").read_text())
    assert stated == {"files": {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}}
    assert (version_either_way / ".gitignore").read_text() == "*\n"
    assert is_intact(version_either_way)


def test_a_new_version_leaves_nothing_of_the_old(version_either_way: Path) -> None:
    """Files of the replaced version are gone, and so is every draft."""
    publish(version_either_way, write(b"old", "model.onnx"))
    publish(version_either_way, write(b"new"))
    assert names(version_either_way) == [".gitignore", "digest.json", "model.safetensors"]
    assert names(version_either_way.parent) == ["1"]
    assert is_intact(version_either_way)


def test_a_failed_build_changes_nothing(version: Path) -> None:
    """If writing the files fails, the old version is served on and no draft stays."""
    publish(version, write(b"old"))

    def fail(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(version, fail)
    assert (version / "model.safetensors").read_bytes() == b"old"
    assert is_intact(version)
    assert names(version.parent) == ["1"]


def test_replacing_file_by_file_never_looks_whole(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where folders cannot be exchanged, a crash between two files leaves a digest that does not fit."""
    real = durable.replace
    for survived in range(3):
        publish(version, write(b"old"))
        done = []

        def crash(path: Path, content: bytes, mode: int) -> None:
            if path.parent == version:
                if len(done) == survived:  # noqa: B023 - used within this round only
                    raise KeyboardInterrupt
                done.append(path)  # noqa: B023
            real(path, content, mode)

        with monkeypatch.context() as patched:
            forget_exchange(patched)
            patched.setattr(durable, "replace", crash)
            with pytest.raises(KeyboardInterrupt):
                publish(version, write(b"new"))
        content = (version / "model.safetensors").read_bytes()
        assert is_intact(version) == ((content == b"old") == (survived == 0))


def test_a_first_version_needs_no_folder(tmp_path: Path) -> None:
    """Publishing makes the folders it needs, readable by the server's user."""
    publish(tmp_path / "new" / "1", write(b"weights"))
    assert is_intact(tmp_path / "new" / "1")
    assert (tmp_path / "new" / "1").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "new" / "1" / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_drafts_of_dead_builds_are_swept(version: Path) -> None:
    """A draft whose process is gone is removed by the next build; another build's is left alone."""
    dead, living = (version.parent / f".1.{pid}.abc" for pid in (2**22 + 1, os.getppid()))
    dead.mkdir()
    living.mkdir()
    publish(version, write(b"weights"))
    assert not dead.exists()
    assert living.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"other"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "more.bin").write_bytes(b""),
        lambda folder: (folder / "digest.json").unlink(),
        lambda folder: (folder / "digest.json").write_text("{"),
        lambda folder: (folder / "digest.json").write_text("[]"),
        lambda folder: (folder / "digest.json").write_text('{"files": {}}'),
    ],
)
def test_damage_is_seen(version: Path, damage) -> None:  # type: ignore[no-untyped-def]
    """A version is whole only if its digest is readable and every file, and no other, fits it."""
    publish(version, write(b"weights"))
    damage(version)
    assert not is_intact(version)


def test_pin_covers_every_file(version: Path) -> None:
    """Pinning a user's model states the digest of each file, also in folders below; doing it again changes nothing."""
    (version / "model.pt2").write_bytes(b"program")
    (version / "assets").mkdir()
    (version / "assets" / "vocab.txt").write_bytes(b"words")
    digests = pin(version)
    assert digests == {
        "assets/vocab.txt": hashlib.sha256(b"words").hexdigest(),
        "model.pt2": hashlib.sha256(b"program").hexdigest(),
    }
    assert pin(version) == digests
    assert is_intact(version)


def test_pin_refuses_links(version: Path) -> None:
    """A link could point elsewhere tomorrow, so it is not pinned."""
    (version / "model.onnx").symlink_to("/etc/hostname")
    with pytest.raises(VersionUnfit, match=r"model\.onnx is not a regular file"):
        pin(version)
    assert not (version / "digest.json").exists()


@pytest.mark.parametrize("missing", [True, False])
def test_pin_needs_files(version: Path, missing: bool) -> None:
    """There is nothing to pin in an empty or missing folder."""
    with pytest.raises(VersionUnfit):
        pin(version / "2" if missing else version)
