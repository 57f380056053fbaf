# SPDX-License-Identifier: Apache-2.0
"""The peers, on generated surfaces for a few trials each: they keep to the interface and do what their names say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmarks.baselines.gp import ConstrainedGp, log_improvement
from benchmarks.baselines.optuna_samplers import tpe
from benchmarks.baselines.seen import FIRST
from benchmarks.baselines.two_phase import TwoPhase
from benchmarks.baselines.uniform import Uniform
from benchmarks.search_methods import METHODS
from benchmarks.search_replay import gap_after, replay, violations
from benchmarks.tables import Grid, grid

AXES = {
    "cores": (4.0, 8.0),
    "cpu_hz": (0.5e9, 1e9, 2e9),
    "gpu_hz": (1e8, 2e8, 4e8, 8e8),
    "emc_hz": (1e9, 3e9),
    "batch": (1.0, 2.0, 4.0, 8.0),
}
PEERS = tuple(name for name in METHODS if not name.startswith("ours"))


def surrogate() -> Grid:
    """A roofline with a CPU term, and power that grows with every clock."""
    cores, cpu, gpu, emc, batch = np.array(list(itertools.product(*AXES.values()))).T
    latency_s = 0.004 * 2e9 / cpu * 8 / cores + np.maximum(0.003 * batch * 8e8 / gpu, 0.002 * batch * 3e9 / emc)
    power_w = 9 + 0.4 * cores * (cpu / 2e9) ** 2 + 22 * (gpu / 8e8) ** 1.8 + 4 * emc / 3e9
    knobs = dict(zip(AXES, (cores, cpu, gpu, emc, batch), strict=True))
    return grid("made_up", {**knobs, "latency_s": latency_s, "power_w": power_w, "flagged": np.zeros(len(cores))})


GRID = surrogate()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than these small matrices."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PEERS)
def test_same_seed_same_trials(name: str) -> None:
    """A peer proposes points of the grid, the same ones for the same seed, and recommends one it saw keep the limit."""
    trials = FIRST + 1
    runs = [replay(METHODS[name].make(), GRID, 3, None, trials=trials) for _ in range(2)]
    assert runs[0].cells == runs[1].cells
    assert len(runs[0].cells) == trials
    assert replay(METHODS[name].make(), GRID, 4, None, trials=2).cells != runs[0].cells[:2]
    best = runs[0].best["30"]
    assert best is None or (best in runs[0].cells and GRID.latency_s.flat[best] < 1.1 * runs[0].slo_s)


@pytest.mark.parametrize("name", PEERS)
def test_the_limit_bears_on_the_recommendation(name: str) -> None:
    """Nothing is recommended that was seen beyond the limit, and the cheapest of the rest is."""
    tuner = METHODS[name].make()({key: list(values) for key, values in AXES.items()}, 1.0, 0)
    for latency_s, energy_j in ((2.0, 1.0), (0.5, 3.0), (0.5, 2.0), (0.6, 4.0)):
        point = tuner.ask()
        assert point is not None
        tuner.tell(point, latency_s, energy_j)
        best = tuner.best()
        assert best is None if latency_s == 2.0 else best is not None
    assert best is not None
    assert (best.energy_j, best.latency_s) == (2.0, 0.5)


def test_random_tries_everything_once() -> None:
    """Without replacement; it ends when all is tried."""
    tuner = Uniform({"gpu_hz": [1.0, 2.0], "batch": [1, 2]}, 1.0, 0)
    points = [tuner.ask() for _ in range(5)]
    assert points[4] is None
    assert len({tuple(point.items()) for point in points[:4] if point}) == 4


def test_a_model_beats_chance() -> None:
    """Over a few seeds the constrained process is nearer to the optimum than random search, with fewer violations."""
    gaps, broken = {}, {}
    for name in ("gp", "random"):
        runs = [replay(METHODS[name].make(), GRID, seed, None, trials=14) for seed in range(2)]
        gaps[name] = np.median([gap_after(run, GRID)[-1] for run in runs])
        broken[name] = np.mean([violations(run, GRID)[-1] for run in runs])
    assert gaps["gp"] < min(0.1, gaps["random"])
    assert broken["gp"] < broken["random"]


def test_two_phases() -> None:
    """The CPU's knobs first, all else at its top and the second batch; then they stand still and all else moves."""
    run = replay(TwoPhase, GRID, 0, None, trials=14)
    points = [GRID.point(cell) for cell in run.cells]
    assert {(p["gpu_hz"], p["emc_hz"], p["batch"]) for p in points[:5]} == {(8e8, 3e9, 2.0)}
    assert len({(p["cores"], p["cpu_hz"]) for p in points[:5]}) == 5
    assert len({(p["cores"], p["cpu_hz"]) for p in points[5:]}) == 1
    assert len({(p["gpu_hz"], p["emc_hz"], p["batch"]) for p in points[5:]}) == 9
    frozen = next(p for p in points[:5] if p["cores"] == points[5]["cores"] and p["cpu_hz"] == points[5]["cpu_hz"])
    feasible = [p for p in points[:5] if GRID.latency_s.flat[GRID.cell(p)] < 0.95 * run.slo_s]
    assert GRID.energy_j.flat[GRID.cell(frozen)] <= 1.1 * min(GRID.energy_j.flat[GRID.cell(p)] for p in feasible)


@pytest.mark.parametrize(
    "knobs", [{"gpu_hz": [1e8, 2e8, 3e8]}, {"cpu_hz": [1e9, 2e9]}, {"batch": [1.0, 2.0], "emc_hz": [1e9]}]
)
def test_two_phases_with_few_knobs(knobs: dict[str, list[float]]) -> None:
    """A phase without knobs is left out; a search ends when all is tried."""
    tuner = TwoPhase(knobs, 1.0, 0)
    asked = []
    while (point := tuner.ask()) is not None:
        tuner.tell(point, 0.5, 1.0 + len(asked))
        asked.append(tuple(point.values()))
    assert set(asked) == set(itertools.product(*knobs.values()))


def test_optuna_is_told_what_it_asked_for() -> None:
    """A study cannot learn from somebody else's trial."""
    tuner = tpe({"gpu_hz": [1e8, 2e8]}, 1.0, 0)
    with pytest.raises(ValueError, match="not asked for"):
        tuner.tell({"gpu_hz": 1e8}, 0.5, 1.0)


def test_expected_improvement() -> None:
    """The closed form agrees with an integral near the incumbent, and with its asymptote far behind it."""
    values = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
    density = torch.exp(-values.square() / 2) / math.sqrt(2 * math.pi)
    for ahead, deviation in ((0.3, 0.5), (-0.4, 0.2), (-1.0, 0.25)):
        integral = torch.trapezoid((ahead + deviation * values).clamp_min(0) * density, values)
        found = log_improvement(torch.tensor([ahead], dtype=torch.float64), torch.tensor([deviation]).double())
        assert float(found.exp()) == pytest.approx(float(integral), rel=1e-4)
    steps = log_improvement(torch.linspace(-40, -5, 200, dtype=torch.float64), torch.ones(200, dtype=torch.float64))
    assert bool((steps.diff() > 0).all())


def test_a_process_learns_a_line() -> None:
    """Three readings of a power law are enough to rank what lies between them."""
    tuner = ConstrainedGp({"gpu_hz": [1e8, 1.5e8, 2e8, 3e8, 4e8, 6e8, 8e8]}, 10.0, 0)
    for _ in range(FIRST + 1):
        point = tuner.ask()
        assert point is not None
        tuner.tell(point, 1e9 / point["gpu_hz"], 1 + (math.log2(point["gpu_hz"] / 3e8)) ** 2)
    assert (best := tuner.best()) is not None
    assert best.point == {"gpu_hz": 3e8}
