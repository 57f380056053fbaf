# SPDX-License-Identifier: Apache-2.0
"""Surfaces kept over restarts and shared over a fleet."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from governor.cli import DONE, NO, USAGE, main
from governor.errors import SurfaceInvalid
from governor.surface_file import MAX_ROWS, Surface, of_table, parse
from governor.surface_store import FOLDER, MAX_BYTES, MAX_SURFACES, PRIORS, SurfaceStore, shared_surfaces

SURFACE = Surface(
    "virtual:agx-orin", True, ("resnet18",), 0.05, 12.0,
    {"gpu_hz": (306e6, 612e6), "batch": (1.0, 4.0), "latency_s": (0.06, 0.04), "energy_j": (0.5, 0.7)},
)  # fmt: skip


def other(number: int = 0, **changes: Any) -> Surface:
    changes.setdefault("models", (f"model{number}",))
    return dataclasses.replace(SURFACE, **changes)


def test_a_surface_comes_back_as_it_was(tmp_path: Path) -> None:
    """As a table for the next search, with a name."""
    store = SurfaceStore(tmp_path)
    store.save(SURFACE)
    assert store.surfaces() == [SURFACE]
    table = SURFACE.table
    assert table["gpu_hz"] == [306e6, 612e6]
    assert table["name"] == "resnet18 at 12/s on virtual:agx-orin"
    assert table["rate_hz"] == 12.0
    written = json.loads((tmp_path / FOLDER / f"{SURFACE.key}.json").read_text())
    assert {"format", "board", "virtual", "models", "slo_s", "rate_hz", "name", *table} == set(written)


def test_saved_again_it_keeps_the_points_that_were_not_tried_again(tmp_path: Path) -> None:
    """What was tried again counts as it is now; the loads are of one level, the file is one."""
    store = SurfaceStore(tmp_path)
    store.save(SURFACE)
    columns = {"gpu_hz": (612e6,), "batch": (4.0,), "latency_s": (0.03,), "energy_j": (0.9,)}
    store.save(dataclasses.replace(SURFACE, rate_hz=12.1, columns=columns))
    (kept,) = store.surfaces()
    assert kept.columns["energy_j"] == (0.5, 0.9)
    assert kept.rate_hz == 12.1
    store.save(dataclasses.replace(SURFACE, rate_hz=30.0))
    assert len(store.surfaces()) == 2


def test_the_most_alike_come_first_and_no_other_kind_of_board(tmp_path: Path) -> None:
    """The same models, then one in common, then the newest; no more than a search needs; not what is known better."""
    store = SurfaceStore(tmp_path)
    foreign = [other(board="agx-orin", virtual=False), other(board="virtual:tx2")]
    alike = other(models=("bert_mini", "resnet18"))
    same = dataclasses.replace(SURFACE, rate_hz=50.0)
    for age, surface in enumerate([same, alike, *foreign, *(other(number) for number in range(12))]):
        path = store.save(surface)
        os.utime(path, (age, age))
    store.save(SURFACE)
    found = store.priors(SURFACE, but=[SURFACE.key])
    assert found[:3] == [same, alike, other(11)]
    assert len(found) == PRIORS
    assert all(surface.board == SURFACE.board for surface in found)


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    """The oldest goes."""
    store = SurfaceStore(tmp_path)
    store.save(SURFACE)
    os.utime(tmp_path / FOLDER / f"{SURFACE.key}.json", (1, 1))
    for number in range(MAX_SURFACES):
        (tmp_path / FOLDER / f"{number}.json").write_bytes(other(number).encode())
    store.save(other(999))
    assert len(list((tmp_path / FOLDER).iterdir())) == MAX_SURFACES
    assert SURFACE not in store.surfaces()


BROKEN: list[Any] = [
    None, [], {}, {"format": 2}, {"virtual": 1}, {"virtual": False}, {"board": "../../etc"}, {"board": ""},
    {"board": "x" * 200}, {"board": None}, {"models": []}, {"models": "resnet18"}, {"models": ["a\n"]},
    {"models": ["m"] * 17}, {"slo_s": 0}, {"slo_s": True}, {"rate_hz": float("nan")}, {"rate_hz": 10**400},
    {"gpu_hz": [1.0]}, {"gpu_hz": []}, {"gpu_hz": "fast"}, {"gpu_hz": [1.0, "x"]}, {"gpu_hz": [1.0, -2.0]},
    {"energy_j": [float("inf"), 1.0]}, {"latency_s": None}, {"batch./etc": [1.0, 2.0], "batch": None},
    {"gpu_hz": [1.0] * (MAX_ROWS + 1)},
]  # fmt: skip


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: str(change)[:30])
def test_what_is_not_sound_is_not_believed(tmp_path: Path, change: Any) -> None:
    """Neither from our folder, where it is passed over, nor from elsewhere, where all of the file is refused."""
    plain = json.loads(SURFACE.encode())
    value = change if not isinstance(change, dict) or not change else plain | change
    if change == {"batch./etc": [1.0, 2.0], "batch": None}:
        del value["batch"], value["gpu_hz"]
    with pytest.raises(SurfaceInvalid):
        parse(value)
    store = SurfaceStore(tmp_path)
    store.save(SURFACE)
    (tmp_path / FOLDER / "strange.json").write_text(json.dumps(value))
    assert store.surfaces() == [SURFACE]
    (tmp_path / "shared.json").write_text(json.dumps({"format": 1, "surfaces": [plain, value]}))
    with pytest.raises(SurfaceInvalid, match="surface 2"):
        shared_surfaces(tmp_path / "shared.json")


def test_files_that_are_none_are_passed_over(tmp_path: Path) -> None:
    """Links, folders, pipes, files too large, and bytes without sense."""
    store = SurfaceStore(tmp_path)
    store.save(SURFACE)
    folder = tmp_path / FOLDER
    (folder / "link.json").symlink_to(folder / f"{SURFACE.key}.json")
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "large.json").write_bytes(SURFACE.encode() + b" " * MAX_BYTES)
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "noise.json").write_bytes(random.Random(5).randbytes(1000))
    assert store.surfaces() == [SURFACE]


def test_a_fleet_shares_what_one_board_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exported here, imported there; twice imported it is there once; our own surface stays as it was."""
    shared, ours, theirs = tmp_path / "shared.json", tmp_path / "ours", tmp_path / "theirs"
    for number in range(2):
        SurfaceStore(ours).save(other(number))
    assert main(["history", "export", str(shared), "--state", str(ours)]) == DONE
    conflict = dataclasses.replace(other(0), columns=dict(SURFACE.columns) | {"energy_j": (0.1, 0.2)})
    SurfaceStore(theirs).save(conflict)
    for added in ("2 surfaces added, 0", "0 surfaces added, 2"):
        assert main(["history", "import", str(shared), "--state", str(theirs)]) == DONE
        assert added in capsys.readouterr().out
    found = SurfaceStore(theirs).surfaces()
    assert len(found) == 3
    assert conflict in found
    assert main(["history", "list", "--json", "--state", str(theirs)]) == DONE
    listed = json.loads(capsys.readouterr().out)["surfaces"]
    assert {entry["name"] for entry in listed} == {surface.name for surface in found}
    assert {entry["least_energy_j"] for entry in listed} == {0.7, 0.2}


def test_the_command_says_no_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to list or export: 1. A file in the way, or one that is not ours: 2, and nothing is changed."""
    state = ["--state", str(tmp_path)]
    assert main(["history", "list", *state]) == NO
    assert main(["history", "export", str(tmp_path / "empty.json"), *state]) == NO
    SurfaceStore(tmp_path).save(SURFACE)
    assert main(["history", "export", str(tmp_path / "empty.json"), *state]) == USAGE
    assert "exists" in capsys.readouterr().err
    assert main(["history", "export", str(tmp_path / "empty.json"), "--force", *state]) == DONE
    assert main(["history", "list", *state]) == DONE
    assert "2 points, 50 ms: 0.700 J/request at best" in capsys.readouterr().out
    for content in ("{}", "[]", '{"format": 1, "surfaces": 3}', "no json", '{"format": 1, "surfaces": [{}]}'):
        (tmp_path / "strange.json").write_text(content)
        assert main(["history", "import", str(tmp_path / "strange.json"), *state]) == USAGE
    assert main(["history", "import", str(tmp_path / "nowhere.json"), *state]) == USAGE
    assert SurfaceStore(tmp_path).surfaces() == [SURFACE]


def test_a_table_without_rows_is_no_surface() -> None:
    """Nor is one whose figures are no numbers."""
    with pytest.raises(SurfaceInvalid):
        of_table({}, "virtual:agx-orin", ["resnet18"], 0.05, 12.0, virtual=True)
    with pytest.raises(SurfaceInvalid):
        of_table(SURFACE.table, "virtual:agx-orin", ["resnet18"], 0.05, 0.0, virtual=True)
    assert of_table(SURFACE.table, SURFACE.board, ["resnet18"], 0.05, 12.0, virtual=True) == SURFACE
