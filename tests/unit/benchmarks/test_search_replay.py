# SPDX-License-Identifier: Apache-2.0
"""What a replay counts: trials to the optimum, violations, gaps, savings. Methods here follow a script."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from benchmarks.search_markdown import markdown
from benchmarks.search_replay import Run, Tuner, at, gap_after, priors, replay, score, violations
from benchmarks.search_report import POOLED, missed, report, text
from benchmarks.search_savings import achievable, savings, yardsticks
from benchmarks.search_suites import Suite
from benchmarks.tables import Grid, grid
from governor.errors import Infeasible
from governor.points import Best, Point, Table

CPU, GPU, BATCH = (1e9, 2e9), (1e8, 2e8, 4e8), (1.0, 2.0, 4.0)


def surrogate(name: str = "made_up") -> Grid:
    """Latency by a compute and a CPU term, power that grows with the clocks."""
    points = np.array(list(itertools.product(CPU, GPU, BATCH)))
    cpu, gpu, batch = points.T
    latency_s = 0.01 * (1e9 / cpu) + 0.02 * batch * (1e8 / gpu)
    power_w = 8 + 3 * (cpu / 1e9) ** 2 + 4 * (gpu / 1e8) ** 1.5
    table = {"cpu_hz": cpu, "gpu_hz": gpu, "batch": batch, "latency_s": latency_s, "power_w": power_w}
    return grid(name, table | {"flagged": np.zeros(len(points))})


GRID = surrogate()
SLO_S = GRID.slo_s(4.0)
OPTIMUM = GRID.cheapest(SLO_S)
TOO_SLOW = int(GRID.latency_s.argmax())


class Scripted:
    """Asks for the cells of a script, then for nothing; recommends the last point told of."""

    def __init__(self, cells: Sequence[int | None], told: list[tuple[Point, float, float]] | None = None) -> None:
        self._cells = iter(cells)
        self.told = [] if told is None else told

    def ask(self) -> Point | None:
        cell = next(self._cells, -1)
        if cell is None:
            raise Infeasible(1.0, SLO_S)
        return None if cell < 0 else GRID.point(cell)

    def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
        self.told.append((dict(point), latency_s, energy_j))

    def best(self) -> Best | None:
        return Best(self.told[-1][0], 1.0, 1.0, 1.0) if self.told else None


def scripted(cells: Sequence[int | None], seed: int = 0) -> tuple[Run, list[tuple[Point, float, float]]]:
    told: list[tuple[Point, float, float]] = []

    def make(
        knobs: Mapping[str, Sequence[float]], slo_s: float, seed: int, prior: Sequence[Table] | None = None
    ) -> Tuner:
        assert slo_s == SLO_S
        assert list(knobs) == ["cpu_hz", "gpu_hz", "batch"]
        return Scripted(cells, told)

    return replay(make, GRID, seed, None), told


def test_trials_are_noisy_and_judged_without_noise() -> None:
    """Readings spread by 2 % about the cell's, anew at every trial, alike for every method with the seed."""
    run, told = scripted([OPTIMUM or 0] * 40)
    assert run.cells == [OPTIMUM] * 30
    ratios = np.array(
        [[row[1] / GRID.latency_s.flat[run.cells[0]], row[2] / GRID.energy_j.flat[run.cells[0]]] for row in told]
    )
    assert np.log(ratios).std(axis=0) == pytest.approx(0.02, rel=0.5)
    assert abs(np.corrcoef(ratios.T)[0, 1]) < 0.5
    assert scripted([OPTIMUM or 0] * 40)[1] == told
    assert scripted([OPTIMUM or 0] * 40, seed=1)[1] != told
    assert gap_after(run, GRID) == [0.0] * 30


def test_gaps_are_those_of_the_cheapest_feasible_point_so_far() -> None:
    """A point beyond the limit brings nobody nearer, however cheap; a dearer one takes nothing away."""
    assert OPTIMUM is not None
    cheapest = int(np.argmin(np.where(GRID.feasible(SLO_S), np.inf, GRID.energy_j.ravel())))
    run, _ = scripted([cheapest, GRID.fastest, OPTIMUM, GRID.fastest])
    dear = float(GRID.energy_j.flat[GRID.fastest] / GRID.energy_j.flat[OPTIMUM] - 1)
    assert gap_after(run, GRID) == [math.inf, pytest.approx(dear), 0.0, 0.0]
    assert at(gap_after(run, GRID), 25) == 0.0
    assert at([], 3) == math.inf


def test_score() -> None:
    """Medians over runs, an unsolved one beyond 30; violations in the first 15 and in all, and the worst of them."""
    assert OPTIMUM is not None
    runs = [
        scripted([GRID.fastest] * 4 + [OPTIMUM] * 26)[0],
        scripted([GRID.fastest] * 9 + [OPTIMUM] + [GRID.fastest] * 20)[0],
        scripted([TOO_SLOW] * 20 + [GRID.fastest] * 10)[0],
    ]
    figures = score(runs, {"made_up": GRID})
    assert figures["trials_to_5%"] == 10
    assert figures["solved_5%"] == pytest.approx(2 / 3)
    assert (figures["violations_in_15"], figures["violations_in_30"]) == (5.0, pytest.approx(20 / 3))
    assert figures["worst_violation"] == pytest.approx(GRID.latency_s.max() / SLO_S)
    assert figures["trials_beyond_1.5x"] == 20
    assert violations(runs[2], GRID)[-1] == 20
    assert figures["best_beyond_slo_at_15"] == 1
    assert figures["best_gap_at_12"] == pytest.approx(
        float(GRID.energy_j.flat[GRID.fastest] / GRID.energy_j.flat[OPTIMUM] - 1) / 2
    )
    assert score(runs[2:], {"made_up": GRID})["trials_to_5%"] is None


def test_a_method_may_end_early_or_give_up() -> None:
    """It is judged by what it tried until then; who calls a limit out of reach is counted."""
    assert OPTIMUM is not None
    short, _ = scripted([GRID.fastest, OPTIMUM])
    assert (short.cells, short.gave_up, short.best) == (
        [GRID.fastest, OPTIMUM],
        False,
        dict.fromkeys(("12", "15", "30"), OPTIMUM),
    )
    gone, _ = scripted([TOO_SLOW, None])
    assert gone.gave_up
    figures = score([gone, scripted([None])[0]], {"made_up": GRID})
    assert (figures["gave_up"], figures["trials"], figures["no_best_at_30"]) == (2, 0.5, 1)


def test_prior_is_the_others() -> None:
    """Nobody is given what was recorded of the workload it is to tune."""
    grids = {"a": surrogate("a"), "b": surrogate("b"), "c": surrogate("c")}
    assert [table["name"] for table in priors(grids, "b")] == ["a", "c"]
    assert set(priors(grids, "b")[0]) == {
        "cpu_hz",
        "gpu_hz",
        "batch",
        "latency_s",
        "power_w",
        "energy_j",
        "flagged",
        "name",
    }


def test_yardsticks_are_granted_their_best() -> None:
    """Maximum clocks at their cheapest feasible batch; a free choice of GPU clock and batch is never worse."""
    found = yardsticks(GRID, SLO_S)
    top = found["maximum_clocks"]
    assert top.cell is not None
    assert {**GRID.point(top.cell), "batch": 0} == {"cpu_hz": 2e9, "gpu_hz": 4e8, "batch": 0}
    assert (top.trials, found["gpu_clock_only"].trials) == (3, 9)
    assert found["gpu_clock_only"].violations == 3
    rows = achievable(GRID, SLO_S)
    assert 0 < rows["gpu_clock_only"]["optimum_saves"] <= rows["maximum_clocks"]["optimum_saves"]
    assert yardsticks(GRID, SLO_S / 100)["maximum_clocks"].cell is None


def test_savings_are_of_the_recommendation() -> None:
    """What is recommended counts, not what was tried; beyond the limit it counts apart, and none saves nothing."""
    assert OPTIMUM is not None
    grids = {"made_up": GRID}
    saved = savings([scripted([GRID.fastest, OPTIMUM])[0]], grids)
    assert saved["maximum_clocks"]["15"] == pytest.approx(achievable(GRID, SLO_S)["maximum_clocks"]["optimum_saves"])
    broken = savings([scripted([OPTIMUM, TOO_SLOW])[0], scripted([None])[0]], grids)
    assert broken["broken"] == {"12": 1, "15": 1, "30": 1}
    assert broken["maximum_clocks"] == {"12": 0.0, "15": 0.0, "30": 0.0}


def test_targets() -> None:
    """They are judged on smoothed energies, pooled and on tables alone; a method that was not run has missed them."""
    assert OPTIMUM is not None
    suite = Suite("orin", {"made_up": GRID})
    good = [scripted([GRID.fastest] * 4 + [OPTIMUM] * 26)[0]]
    figures = report(suite, {"ours": good, "ours_no_prior": good}, 4.0)
    assert missed(figures) == []
    assert "ours, no prior" in text(suite, figures, 4.0, brief=False)
    tables = markdown({"orin": {"4x": figures}, "elsewhere": {"4x": figures}}, "orin")
    assert "| ours | 1 | 5 (100%) | 5 (100%) | 0.0 / 0.0 / 0.0 | 0.00 / 0.00 |" in tables
    assert "| elsewhere: ours, no prior |" in tables
    bad = report(suite, {"ours": [scripted([TOO_SLOW] * 30)[0]]}, 4.0)
    lines = " ".join(missed(bad))
    assert "ours, pooled: trials_to_5% inf" in lines
    assert "0 of 1 meet all" in lines
    assert "ours, no prior: not run" in lines
    assert bad["raw"]["methods"]["ours"][POOLED]["violations_in_15"] == 15
