# SPDX-License-Identifier: Apache-2.0
"""The run directory: where it is, and who is alive in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from telemetry.instance_page import InstancePage
from telemetry.pages import HEARTBEAT
from telemetry.rundir import RunDir, default_run_dir


def test_the_environment_decides_first() -> None:
    """TEG_RUN_DIR wins for every user."""
    assert default_run_dir({"TEG_RUN_DIR": "/x", "XDG_RUNTIME_DIR": "/y"}) == Path("/x")


@pytest.mark.parametrize(
    ("uid", "environ", "expected"),
    [
        (0, {"XDG_RUNTIME_DIR": "/run/user/0"}, "/run/teg"),
        (1000, {"XDG_RUNTIME_DIR": "/run/user/1000"}, "/run/user/1000/teg"),
        (1000, {}, "/tmp/teg-1000"),  # noqa: S108
        (1000, {"TEG_RUN_DIR": "", "XDG_RUNTIME_DIR": ""}, "/tmp/teg-1000"),  # noqa: S108
    ],
)
def test_defaults_by_user(monkeypatch: pytest.MonkeyPatch, uid: int, environ: dict[str, str], expected: str) -> None:
    """Root uses /run/teg, a user the runtime directory of the session, else one of his own in /tmp."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert default_run_dir(environ) == Path(expected)


def test_it_is_closed_to_others(tmp_path: Path) -> None:
    """The directory and its folders are made for owner and group alone; making it again changes nothing."""
    run = RunDir(tmp_path / "teg")
    for _ in range(2):
        run.make()
    assert run.root.stat().st_mode & 0o007 == 0
    assert run.instances.is_dir()


def test_all_names_lie_inside(tmp_path: Path) -> None:
    """No file of ours lies outside the run directory."""
    run = RunDir(tmp_path)
    for path in (run.socket, run.board_page, run.trainer_page, run.api_key, run.instance_page("m_0_0")):
        assert path.is_relative_to(tmp_path)


def test_only_living_instances_are_opened(tmp_path: Path) -> None:
    """Pages come in name order; the dead, the foreign and the broken are passed over."""
    run = RunDir(tmp_path)
    run.make()
    made = [InstancePage.create(run.instance_page(name)) for name in ("b_0_0", "a_0_0", "dead_0_0")]
    made[2].words[HEARTBEAT] = 0
    (run.instances / "broken.page").write_bytes(b"x")
    (run.instances / "zeros.page").write_bytes(b"\0" * InstancePage.size)
    found = list(run.open_instances())
    assert [page.path.name for page in found] == ["a_0_0.page", "b_0_0.page"]
    for page in (*made, *found):
        page.close()
