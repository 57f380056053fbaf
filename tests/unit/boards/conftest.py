# SPDX-License-Identifier: Apache-2.0
"""Boards for these tests: virtual time, the virtual board on it, and the file tree of an AGX Orin."""

from __future__ import annotations

from pathlib import Path

import pytest

from boards.archive import unpack
from boards.discover import open_jetson
from boards.jetson import JetsonBoard
from boards.virtual import VirtualBoard

ARCHIVE = Path(__file__).resolve().parents[2] / "fixtures" / "agx-orin-jp6.tree"


class VirtualTime:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
def virtual(time: VirtualTime) -> VirtualBoard:
    return VirtualBoard("virtual:agx-orin", time.clock, time.sleep)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The root of an AGX Orin's files under JetPack 6."""
    return unpack(ARCHIVE.read_text(), tmp_path)


@pytest.fixture(params=["virtual", "files"])
def board(request: pytest.FixtureRequest, time: VirtualTime, tmp_path: Path) -> JetsonBoard:
    """The same contract holds for the virtual board and for one on files."""
    if request.param == "virtual":
        return VirtualBoard("virtual:agx-orin", time.clock, time.sleep)
    return open_jetson(unpack(ARCHIVE.read_text(), tmp_path), time.clock, time.sleep)
