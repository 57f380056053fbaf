# SPDX-License-Identifier: Apache-2.0
"""What a server and a publisher say of themselves counts only while they live."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from governor.serving import Served, read_rollout, read_served, watching, write_served
from governor.supervision import FIRST_BREAK_S, LONGEST_BREAK_S, Breaks


def dead() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def served(pid: int) -> Served:
    return Served(pid, 7, "::1", 1, 2, 3, ("a",), "/models", publish=True, down={"b": "died"}, faults={"stub": 1})


def test_a_live_server_is_found(tmp_path: Path) -> None:
    """What was written is read; addresses are as clients want them."""
    write_served(tmp_path, served(os.getpid()))
    found = read_served(tmp_path)
    assert found == served(os.getpid())
    assert found is not None
    assert found.grpc_url == "[::1]:2"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": "x"}', '{"pid": PID}'])
def test_rubbish_is_no_server(tmp_path: Path, content: str) -> None:
    """A file that says nothing, or too little, counts as none."""
    content = content.replace("PID", str(os.getpid()))
    (tmp_path / "serve.json").write_text(content)
    (tmp_path / "rollout.json").write_text(content)
    assert read_served(tmp_path) is None
    assert read_rollout(tmp_path) is None


def test_the_dead_are_not_believed(tmp_path: Path) -> None:
    """A server or a publisher that was killed left its file behind."""
    write_served(tmp_path, served(dead()))
    assert read_served(tmp_path) is None
    with watching(tmp_path, "a", 2, 1):
        found = read_rollout(tmp_path)
        assert found is not None
        assert (found.model, found.version, found.base) == ("a", 2, 1)
        content = json.loads((tmp_path / "rollout.json").read_text())
    assert read_rollout(tmp_path) is None
    (tmp_path / "rollout.json").write_text(json.dumps(content | {"pid": dead()}))
    assert read_rollout(tmp_path) is None


def test_breaks_grow_and_are_forgiven() -> None:
    """Each try in a row waits longer, up to a bound; after a quiet while the first one is short again."""
    now_s = 100.0
    breaks = Breaks(lambda: now_s)
    waits = []
    for _ in range(8):
        assert breaks.over
        breaks.begin()
        waited_s = 0.0
        while not breaks.over:
            now_s += 0.5
            waited_s += 0.5
        waits.append(waited_s)
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (FIRST_BREAK_S, LONGEST_BREAK_S)
    now_s += 3 * LONGEST_BREAK_S
    breaks.begin()
    now_s += FIRST_BREAK_S
    assert breaks.over
