# SPDX-License-Identifier: Apache-2.0
"""One cluster's cpufreq policy goes while its clock is ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from boards.archive import unpack
from boards.discover import open_board
from boards.errors import NotRestored

ARCHIVE = Path(__file__).resolve().parents[2] / "fixtures/agx-orin-jp6.tree"


def test_the_clock_of_a_cluster_whose_policy_is_away_is_still_owed(tmp_path: Path) -> None:
    """The others go back, what is away is named, and once it is there again it goes back too."""
    root = unpack(ARCHIVE.read_text(), tmp_path / "board")
    board = open_board("auto", root, sleep=lambda _: None)
    originals = board.read_knobs()
    board.request(board.table.maximum())
    limit = root / "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq"
    limit.write_text("1190400\n")
    limit.parent.rename(tmp_path / "away")
    heir = open_board("auto", root, sleep=lambda _: None)
    with pytest.raises(NotRestored) as owed:
        heir.restore(originals)
    assert {getattr(failure, "knob", "") for failure in owed.value.failures} == {
        "policy4.scaling_min_freq",
        "policy4.scaling_max_freq",
    }
    (tmp_path / "away").rename(limit.parent)
    heir.rescan()
    heir.restore(originals)
    assert heir.read_knobs() == originals
