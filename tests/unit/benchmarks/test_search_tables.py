# SPDX-License-Identifier: Apache-2.0
"""Tables as grids: what is filled in, from whom, and what smoothing takes away. The tables here are generated."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search_suites import suites, tx2_grid, zeus_grids
from benchmarks.tables import Grid, Values, columns, from_neighbours, grid, inference_tables

CORES, GPU, BATCH = (2.0, 4.0, 8.0), (1e8, 2e8, 4e8), (1.0, 2.0, 4.0)


def rows(**changes: tuple[dict[str, float], float]) -> dict[str, Values]:
    """A latency of 4 s x batch / (cores x GPU clock in units of the lowest) and 10 W everywhere, but for `changes`."""
    points = list(itertools.product(CORES, GPU, BATCH))
    table = dict(zip(("cores", "gpu_hz", "batch"), np.array(points).T, strict=True))
    table["latency_s"] = 4 * table["batch"] / (table["cores"] * table["gpu_hz"] / 1e8)
    table["power_w"] = np.full(len(points), 10.0)
    table["flagged"] = np.zeros(len(points))
    for column, (where, value) in changes.items():
        chosen = np.all([table[knob] == wanted for knob, wanted in where.items()], axis=0)
        table[column][chosen] = value
    return table


MIDDLE = {"cores": 4.0, "gpu_hz": 2e8, "batch": 2.0}


def test_energy_is_per_request() -> None:
    """A batch's latency times power, over the requests in it."""
    table = grid("t", rows())
    at = table.cell(MIDDLE)
    assert table.latency_s.flat[at] == pytest.approx(4 * 2 / (4 * 2))
    assert table.energy_j.flat[at] == pytest.approx(10 * 1.0 / 2)


def test_points_and_cells_are_each_other() -> None:
    """Every cell is the cell of its point, and no other point is on the grid."""
    table = grid("t", rows())
    assert [table.cell(table.point(cell)) for cell in range(27)] == list(range(27))
    with pytest.raises(ValueError, match="not in"):
        table.cell({**MIDDLE, "gpu_hz": 3e8})


def test_flagged_cells_take_their_neighbours_word() -> None:
    """In logs a power law is straight, so that a wrong reading inside the grid comes back exactly."""
    table = rows(flagged=(MIDDLE, 1), latency_s=(MIDDLE, 77.0))
    assert grid("t", table).latency_s.flat[grid("t", table).cell(MIDDLE)] == pytest.approx(1.0)
    assert table["latency_s"][13] == 77.0


def test_missing_cells_are_filled_in() -> None:
    """A cell without a row is as good as a flagged one."""
    table = {name: np.delete(column, 13) for name, column in rows().items()}
    assert grid("t", table).latency_s.flat[13] == pytest.approx(1.0)


def test_flagged_neighbours_say_nothing() -> None:
    """Where one of two neighbours is suspect, a clock's other one is not taken; a core count's is."""
    table = rows(flagged=({"gpu_hz": 4e8}, 1), latency_s=({"gpu_hz": 4e8}, 50.0))
    logs = np.log(table["latency_s"]).reshape(3, 3, 3)
    sound = table["flagged"].reshape(3, 3, 3) == 0
    # along the GPU clock one neighbour is suspect: it says nothing, cores and batch say what is right
    assert from_neighbours(logs, sound, ("cores", "gpu_hz", "batch"))[1, 1, 1] == pytest.approx(math.log(1.0))
    # of two core counts only the lower is there: its value is taken as it is
    alone = from_neighbours(logs[:, :2, :2], sound[:, :2, :2], ("cores", "gpu_hz", "batch"))
    assert alone[2, 0, 0] == pytest.approx(logs[1, 0, 0])


def test_nobody_to_ask() -> None:
    """A hole without sound neighbours is named, not made up; a flagged reading there is kept."""
    flagged = rows(flagged=({}, 1))
    assert grid("t", flagged).latency_s.flat[13] == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"no measurement .* \[\[1, 1, 1\]\]"):
        grid("t", {name: np.delete(column, 13) for name, column in flagged.items()})


@pytest.mark.parametrize(("watts", "smoothed"), [(9.6, 9.6), (9.4, 10.0), (12.0, 12.0)])
def test_smoothing_takes_away_what_is_too_good(watts: float, smoothed: float) -> None:
    """A reading more than 5 % below what its neighbours say is replaced by that; a high one stays."""
    table = grid("t", rows(power_w=(MIDDLE, watts)))
    at = table.cell(MIDDLE)
    assert table.smoothed().energy_j.flat[at] == pytest.approx(smoothed * 1.0 / 2)
    assert table.smoothed().latency_s is table.latency_s


def test_optimum() -> None:
    """The limit is a multiple of the latency at the top and the smallest batch; the optimum is the cheapest within."""
    table = grid("t", rows(power_w=({"cores": 4.0, "gpu_hz": 4e8, "batch": 2.0}, 1.0)))
    assert table.point(table.fastest) == {"cores": 8.0, "gpu_hz": 4e8, "batch": 1.0}
    slo_s = table.slo_s(4.0)
    assert slo_s == pytest.approx(4 * 4 / (8 * 4))
    best = table.cheapest(slo_s)
    assert best is not None
    assert table.point(best) == {"cores": 4.0, "gpu_hz": 4e8, "batch": 2.0}
    assert table.cheapest(slo_s / 100) is None
    assert table.cheapest(slo_s, np.arange(27) != best) != best


def write(path: Path, table: dict[str, list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(table), *(",".join(map(str, row)) for row in zip(*table.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")


def test_folder(tmp_path: Path) -> None:
    """Every inference table in the folder is a workload; what else is missing there is said."""
    with pytest.raises(FileNotFoundError, match="infer_"):
        suites(tmp_path, full=False)
    table: dict[str, list[object]] = {name: list(column) for name, column in rows().items()}
    write(tmp_path / "orin-agx" / "infer_one.csv", table)
    write(tmp_path / "orin-agx" / "infer_two.csv", table)
    assert list(inference_tables(tmp_path)) == ["one", "two"]
    found, missing = suites(tmp_path, full=False)
    assert [suite.name for suite in found] == ["orin"]
    assert len(missing) == 5
    assert found[0].digest() != type(found[0])("orin", {"one": found[0].grids["one"]}).digest()


def test_other_boards_tables(tmp_path: Path) -> None:
    """TX2: one image over the GPU clock. Zeus: steps over power limit and batch, batches with every limit only."""
    path = tmp_path / "power.csv"
    write(
        path,
        {
            "gpu_hz": [1e8, 2e8, 4e8],
            "latency_s_per_image": [0.4, 0.2, 0.1],
            "power_w": [5, 6, 9],
            "model": ["v", "v", "v"],
            "flagged": [0, 0, 0],
        },
    )
    assert columns(path)["model"] == ["v", "v", "v"]
    tx2 = tx2_grid(path)
    assert tx2.energy_j.tolist() == pytest.approx([2.0, 1.2, 0.9])
    write(
        path,
        {
            "dataset": ["d"] * 5,
            "network": ["n"] * 5,
            "optimizer": ["o"] * 5,
            "batch_size": [8, 8, 16, 16, 32],
            "power_limit": [100, 200, 100, 200, 100],
            "time_per_epoch": [40, 30, 30, 20, 25],
            "average_power": [90, 150, 95, 160, 99],
        },
    )
    (zeus,) = zeus_grids(path).values()
    assert zeus.knobs == {"gpu_hz": (1e8, 2e8), "batch": (8.0, 16.0)}
    watts = zeus.energy_j * np.array(zeus.knobs["batch"]) / zeus.latency_s
    assert watts == pytest.approx(np.array([[90.0, 95.0], [150.0, 160.0]]))
    # a step takes longer with more samples, a sample costs less
    assert zeus.latency_s[1, 1] > zeus.latency_s[1, 0]
    assert isinstance(zeus, Grid)
    assert zeus.energy_j[1, 1] < zeus.energy_j[1, 0]
