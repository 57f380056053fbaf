# SPDX-License-Identifier: Apache-2.0
"""Large durable files: whole or old, and nothing left of writers that were killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from telemetry.large_files import replacing, sweep


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_makes_and_replaces(tmp_path: Path) -> None:
    """Until the block ends the old file is there; then the new one, with its mode, and nothing else."""
    path = tmp_path / "state"
    path.write_bytes(b"old")
    with replacing(path, mode=0o600) as descriptor:
        os.write(descriptor, b"new, ")
        assert path.read_bytes() == b"old"
        os.write(descriptor, b"in pieces")
    assert path.read_bytes() == b"new, in pieces"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["state"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old(tmp_path: Path, error: type[BaseException]) -> None:
    """Whatever ends the block early, the old file stays and nothing is left beside it."""
    path = tmp_path / "state"
    path.write_bytes(b"old")

    def half() -> None:
        with replacing(path) as descriptor:
            os.write(descriptor, b"half of")
            raise error

    with pytest.raises(error):
        half()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["state"]


def test_a_name_that_cannot_be_taken(tmp_path: Path) -> None:
    """If the file cannot have its name, nothing is left of it either."""
    (tmp_path / "state" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"), replacing(tmp_path / "state"):
        pass
    assert names(tmp_path) == ["state"]


def test_two_writers(tmp_path: Path) -> None:
    """Writers do not disturb each other, nor does a sweep disturb them; the last one to end is read."""
    path = tmp_path / "state"
    with replacing(path) as first:
        with replacing(path) as second:
            os.write(first, b"first")
            os.write(second, b"second")
            assert sweep(tmp_path) == []
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"


def test_what_a_killed_writer_left(tmp_path: Path) -> None:
    """A sweep removes the temporary file of a process that is gone, and no other file."""
    child = os.fork()
    if not child:
        with replacing(tmp_path / "state"):
            os._exit(9)  # as SIGKILL: nothing is cleaned up
    os.waitpid(child, 0)
    (left,) = names(tmp_path)
    others = [".state.new", "state.0123abcd.new", ".state.0123abcd.news", "state"]
    for name in others:
        (tmp_path / name).touch()
    assert sweep(tmp_path) == [tmp_path / left]
    assert names(tmp_path) == sorted(others)
