# SPDX-License-Identifier: Apache-2.0
"""The search, against formulas whose optimum is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

import pytest
import torch

from boards.clocks import ClockPoint
from boards.physics import idle_power_w, shipped
from governor.errors import Infeasible, UnknownPoint
from governor.search import ENOUGH, SURE, UNMOVED, Search
from governor.surrogate.calibration import Belief
from governor.surrogate.candidates import MOST
from governor.surrogate.surfaces import Space, Surfaces, Told, fit_surfaces

GPU = (306e6, 612e6, 918e6, 1_300.5e6)
EMC = (665.6e6, 2_133e6, 3_199e6)
KNOBS = {"gpu_hz": GPU, "emc_hz": EMC, "batch": (1.0, 2.0, 4.0)}
RESNET = shipped("resnet")
RATE_HZ = 12.0
Figures = tuple[float, float]
Truth = Callable[[Mapping[str, float]], Figures]


def physics(point: Mapping[str, float]) -> Figures:
    """Latency (s) and joules per request of the virtual board, for batches served one by one at 12 requests/s."""
    clocks = {name: int(value) for name, value in point.items() if name != "batch"}
    gpu_min_hz = clocks.get("gpu_min_hz", clocks.get("gpu_hz"))
    at = ClockPoint(**{**clocks, "gpu_min_hz": gpu_min_hz})
    size = point.get("batch", 1.0)
    seconds = RESNET.latency_s(at, size)
    busy = RATE_HZ / size * seconds
    power_w = busy * RESNET.busy_power_w(at, size) + (1 - busy) * idle_power_w(at)
    return seconds + (size - 1) / RATE_HZ / 2, power_w / RATE_HZ


def go(search: Search, trials: int, truth: Truth = physics) -> list[dict[str, float]]:
    asked = []
    while len(asked) < trials and (point := search.ask()) is not None:
        asked.append(point)
        search.tell(point, *truth(point))
    return asked


def test_the_first_point_is_the_fastest() -> None:
    """Every clock at its top, the smallest batch: where the objective is kept, if it is kept anywhere."""
    assert Search(KNOBS, 1.0, seed=0).ask() == {"gpu_hz": GPU[-1], "emc_hz": EMC[-1], "batch": 1.0}


@pytest.mark.parametrize("seed", [0, 1])
def test_it_finds_the_optimum_of_the_virtual_board(seed: int) -> None:
    """Within 15 % in 10 trials of 36 under 2 % of noise, though batches wait to fill, which its mean does not know."""
    search, rng = Search(KNOBS, 0.024, seed, rate_hz=RATE_HZ), random.Random(seed)

    def noisy(point: Mapping[str, float]) -> Figures:
        latency_s, energy_j = physics(point)
        return latency_s * math.exp(rng.gauss(0, 0.02)), energy_j * math.exp(rng.gauss(0, 0.02))

    go(search, 10, noisy)
    feasible = [point for point in search.points if physics(point)[0] <= 0.024]
    assert 5 < len(feasible) < len(search.points)
    best = search.best()
    assert best is not None
    latency_s, energy_j = physics(best.point)
    assert energy_j <= 1.15 * min(physics(point)[1] for point in feasible)
    assert latency_s <= 0.024 * 1.05


def test_the_same_tells_give_the_same_asks() -> None:
    """A replay asks the same points, and the random state of the process is left alone."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    asked = go(Search(KNOBS, 0.05, seed=3), 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert go(Search(KNOBS, 0.05, seed=3), 5) == asked


def test_trials_told_by_an_earlier_run_are_as_good_as_asked() -> None:
    """Told what another search found, it goes on where that one stopped, and repeats nothing."""
    first = Search(KNOBS, 0.05, seed=0)
    asked = go(first, 5)
    resumed = Search(KNOBS, 0.05, seed=0)
    for point in asked:
        resumed.tell(point, *physics(point))
    assert resumed.ask() == first.ask()


def test_every_point_is_asked_and_then_there_is_none() -> None:
    """At most one of them twice: a trial too good to be true."""
    search = Search({"gpu_hz": GPU[1:], "batch": (1.0, 2.0)}, 0.5, seed=0)
    asked = go(search, 99)
    assert len({tuple(point.items()) for point in asked}) == 6
    assert len(asked) <= 7
    assert search.ask() is None


def test_the_lower_gpu_limit_never_exceeds_the_upper() -> None:
    """Inverted ranges are no points of the grid, asked or told."""
    search = Search({"gpu_hz": GPU[1:], "gpu_min_hz": GPU[1:]}, 1.0, seed=0)
    asked = go(search, 99)
    assert len(asked) == 6
    assert all(point["gpu_min_hz"] <= point["gpu_hz"] for point in asked)
    with pytest.raises(UnknownPoint):
        search.tell({"gpu_hz": GPU[1], "gpu_min_hz": GPU[2]}, 0.1, 1.0)


@pytest.mark.parametrize(
    "point",
    [
        {},
        {"gpu_hz": GPU[0], "emc_hz": EMC[0]},
        {"gpu_hz": GPU[0] + 1, "emc_hz": EMC[0], "batch": 1.0},
        {"gpu_hz": GPU[0], "emc_hz": EMC[0], "batch": 1.0, "cores": 4.0},
        {"gpu_hz": math.nan, "emc_hz": EMC[0], "batch": 1.0},
    ],
)
def test_a_point_off_the_grid_is_refused(point: dict[str, float]) -> None:
    """Missing, strange and foreign knobs name the point."""
    with pytest.raises(UnknownPoint) as caught:
        Search(KNOBS, 0.1, seed=0).tell(point, 0.1, 1.0)
    assert caught.value.point == point


@pytest.mark.parametrize("figures", [(math.nan, 1.0), (0.1, math.inf), (0.0, 1.0), (0.1, -1.0)])
def test_what_was_not_measured_is_not_told(figures: Figures) -> None:
    """NaN, infinity, zero and less never reach the models."""
    search = Search(KNOBS, 0.1, seed=0)
    with pytest.raises(ValueError, match="finite and positive"):
        search.tell(search.points[0], *figures)
    assert search.best() is None


@pytest.mark.parametrize(
    "knobs",
    [{}, {"volts": (1.0,)}, {"gpu_hz": ()}, {"gpu_hz": (2.0, 1.0)}, {"gpu_hz": (1.0, 1.0)}, {"gpu_hz": (0.0, 1.0)}],
)
def test_knobs_that_make_no_grid_are_refused(knobs: dict[str, tuple[float, ...]]) -> None:
    """Unknown names, and values that are none, not positive, not ascending or repeated."""
    with pytest.raises(ValueError, match=r"knobs must be|values must"):
        Search(knobs, 0.1, seed=0)


def test_an_objective_must_be_positive() -> None:
    """A limit of no time at all is refused."""
    with pytest.raises(ValueError, match="slo_s"):
        Search(KNOBS, 0.0, seed=0)


def test_a_knob_of_one_value_is_no_obstacle() -> None:
    """It is part of every point and of no model's worry."""
    search = Search({"gpu_hz": GPU, "emc_hz": (3_199e6,), "batch": (1.0,)}, 0.05, seed=0)
    asked = go(search, 99)
    assert len(asked) == 4
    assert {point["emc_hz"] for point in asked} == {3_199e6}


def test_repeated_tells_are_noise_not_news() -> None:
    """A point may be told again, as after a broken objective; all that is known of it counts."""
    search = Search({"gpu_hz": GPU, "batch": (1.0, 2.0)}, 0.05, seed=0)
    go(search, 5)
    before = search.best()
    assert before is not None
    for _ in range(3):
        search.tell(before.point, 0.2, before.energy_j)
    after = search.best()
    assert after is not None
    assert after.point != before.point


def doubted(search: Search, point: Mapping[str, float], latency_deviation: float | None, times: int = 1) -> float:
    """By what factor the latency expected rises once `point` was read to take a fifth longer than it does."""
    before = search.predict([point])[0].latency_s
    for _ in range(times):
        latency_s, energy_j = measured(point)
        search.tell(point, 1.2 * latency_s, energy_j, latency_deviation=latency_deviation)
    return search.predict([point])[0].latency_s / before


def after_three() -> tuple[Search, Mapping[str, float]]:
    """A search that was told of three exact trials, and the point of the last one."""
    search = Search(WIDE, 0.1, seed=0)
    return search, go(search, 3, measured)[-1]


def test_a_figure_weighs_as_much_as_it_is_known() -> None:
    """A latency known to a half hardly moves what is expected, one known to a thirtieth does."""
    vague, sharp = (doubted(*after_three(), deviation) for deviation in (0.5, 0.03))
    assert 1 <= vague < 1.01
    assert sharp > 1.05


def test_readings_of_one_point_add_up() -> None:
    """Four vague readings of a point that agree say more than one."""
    assert doubted(*after_three(), 0.2, times=4) > doubted(*after_three(), 0.2) + 0.005


def test_a_deviation_is_a_number_that_can_be_one() -> None:
    """Negative, infinite and undefined ones are refused by name; nothing is told."""
    search = Search(KNOBS, 0.1, seed=0)
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="latency_deviation"):
            search.tell(search.points[0], 0.1, 1.0, latency_deviation=wrong)
        with pytest.raises(ValueError, match="energy_deviation"):
            search.tell(search.points[0], 0.1, 1.0, energy_deviation=wrong)
    assert search.best() is None


def test_the_order_of_the_tells_is_no_news() -> None:
    """What earlier runs measured may come in any order: with a prior that speaks in watts the same is expected."""
    columns = {name: [point[name] for point in Search(WIDE, 1.0, 0).points[::7]] for name in WIDE}
    points = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    figures = [measured(point) for point in points]
    table = columns | {"latency_s": [row[0] for row in figures], "energy_j": [row[1] for row in figures]}
    trials, expected = points[::3], []
    for order in (trials, trials[::-1]):
        search = Search(WIDE, 0.1, 0, [table])
        for point in order:
            search.tell(point, *measured(point))
        expected.append([(one.latency_s, one.energy_j) for one in search.predict(points)])
    for one, other in zip(*expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_a_knob_that_no_trial_moved_is_moved_by_a_step() -> None:
    """Once there were enough trials, and however little is expected of it; then the search is over by its regret."""
    search = Search(WIDE, 0.5, seed=0, regret=0.9)
    points = [point for point in search.points if point["emc_hz"] == EMC[-1] and point["batch"] < 8.0]
    for point in points[-3 * UNMOVED :: 3]:
        search.tell(point, *measured(point))
    asked = search.ask()
    assert asked is not None
    assert asked["emc_hz"] == EMC[-2]
    search.tell(asked, *measured(asked))
    assert search.ask() is None


def test_an_objective_out_of_reach_is_said_so() -> None:
    """When the fastest and every other first point missed it, asking ends with the lowest latency seen."""
    search = Search(KNOBS, 0.001, seed=0)
    with pytest.raises(Infeasible) as caught:
        go(search, 99)
    assert caught.value.slo_s == 0.001
    assert caught.value.best_latency_s >= physics({"gpu_hz": GPU[-1], "emc_hz": EMC[-1], "batch": 1.0})[0]
    assert search.best() is None


def test_regret_ends_the_search() -> None:
    """Once little improvement is expected there is nothing left to ask, long before the grid ends."""
    search = Search(KNOBS, 0.2, seed=0, regret=0.05)
    assert len(go(search, len(search.points))) < len(search.points) / 2
    assert search.ask() is None


def test_once_feasible_is_known_only_likely_points_are_tried() -> None:
    """Of the points asked after the first ones, few break the objective, though most of the grid would."""
    limit_s = 0.035
    search = Search(KNOBS, limit_s, seed=0)
    asked = go(search, 9)
    missed = [point for point in asked[ENOUGH:] if physics(point)[0] > limit_s]
    grid = [point for point in search.points if physics(point)[0] > limit_s]
    assert len(grid) > 0.5 * len(search.points)
    assert len(missed) <= 2


@pytest.mark.parametrize(
    "truth",
    [
        lambda point: (0.01, 1.0),
        lambda point: (1e-300, 1e300),
        lambda point: (0.01, 1e-300 if point["batch"] > 1 else 1e300),
    ],
    ids=["constant", "extreme", "a cliff"],
)
def test_degenerate_figures_do_not_stop_it(truth: Truth) -> None:
    """Where a fit says nothing or fails, it goes on with the nearest untried point, to the end of the grid."""
    search = Search({"gpu_hz": GPU[1:], "batch": (1.0, 2.0)}, 0.05, seed=0)
    assert 6 <= len(go(search, 99, truth)) <= 8
    assert search.best() is not None


def test_the_best_is_surely_feasible_when_such_points_exist() -> None:
    """A point that was lucky once at the edge of the objective is not recommended over one that is safely inside."""
    search = Search({"gpu_hz": GPU, "batch": (1.0, 2.0, 4.0)}, 0.05, seed=0)
    go(search, 8, lambda point: (0.02 * (GPU[-1] / point["gpu_hz"]) ** 0.3 * point["batch"] ** 0.8, physics(point)[1]))
    cheap = {"gpu_hz": GPU[0], "batch": 4.0}
    for latency_s in (0.0499, 0.09, 0.11):
        search.tell(cheap, latency_s, 0.01)
    best = search.best()
    assert best is not None
    assert best.point != cheap
    assert best.probability_feasible >= SURE


def test_before_any_trial_there_is_no_best() -> None:
    """And a first violated one does not make one."""
    search = Search(KNOBS, 0.01, seed=0)
    assert search.best() is None
    search.tell(search.points[0], 0.02, 1.0)
    assert search.best() is None


def measured(point: Mapping[str, float]) -> Figures:
    """Latency (s) and joules per sample of batches back to back on the virtual board."""
    clocks = {name: int(value) for name, value in point.items() if name != "batch"}
    at = ClockPoint(**{**clocks, "gpu_min_hz": clocks["gpu_hz"]})
    seconds = RESNET.latency_s(at, point["batch"])
    return seconds, seconds * RESNET.busy_power_w(at, point["batch"]) / point["batch"]


WIDE = {"gpu_hz": tuple(306e6 + 100e6 * step for step in range(10)), "emc_hz": EMC, "batch": (1.0, 2.0, 4.0, 8.0)}


@pytest.mark.parametrize("lie", [(1.0, 18 / 52), (0.4, 2.0)], ids=["a meter that lies", "clocks that were not applied"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_wild_reading_does_not_flip_the_optimum(seed: int, lie: Figures) -> None:
    """A trial whose meter or whose clocks lied costs little: the point chosen stays within 10 % of the optimum."""
    search, rng, limit_s = Search(WIDE, 0.1, seed), random.Random(seed), 0.1
    for number in range(14):
        point = search.ask()
        assert point is not None
        latency_s, energy_j = measured(point)
        if number == 5:
            latency_s, energy_j = latency_s * lie[0], energy_j * lie[1]
        search.tell(point, latency_s * math.exp(rng.gauss(0, 0.02)), energy_j * math.exp(rng.gauss(0, 0.02)))
    best = search.best()
    assert best is not None
    cheapest = min(measured(point)[1] for point in search.points if measured(point)[0] <= limit_s)
    assert measured(best.point)[0] <= limit_s * 1.02
    assert measured(best.point)[1] <= 1.1 * cheapest


def test_a_trial_too_good_to_be_true_is_repeated() -> None:
    """Once, when it would decide the matter."""
    search = Search(WIDE, 0.2, seed=0)
    go(search, 8, measured)
    wild = search.ask()
    assert wild is not None
    search.tell(wild, measured(wild)[0], measured(wild)[1] / 4)
    assert search.ask() == wild
    search.tell(wild, *measured(wild))
    assert search.ask() != wild


def test_predictions_carry_their_doubt() -> None:
    """Untried points far away are less certain than those tried; before any trial nothing is known."""
    search = Search(WIDE, 0.1, seed=0)
    assert search.predict(search.points[:1])[0].latency_deviation == math.inf
    asked = go(search, 8, measured)
    tried = search.predict(asked)
    everything = search.predict(search.points)
    assert max(seen.latency_deviation for seen in tried) < max(other.latency_deviation for other in everything)
    for point, seen in zip(asked, tried, strict=True):
        assert seen.latency_s == pytest.approx(measured(point)[0], rel=0.1)
        assert seen.energy_j == pytest.approx(measured(point)[1], rel=0.1)
    with pytest.raises(UnknownPoint):
        search.predict([{"gpu_hz": 1.0}])


def test_several_models_have_batch_limits_of_their_own() -> None:
    """Their product is sampled where it is too large; a point left out of the sample may be told all the same."""
    sizes = tuple(float(1 << power) for power in range(6))
    knobs = {"gpu_hz": WIDE["gpu_hz"], "emc_hz": EMC} | {f"batch.{name}": sizes for name in "abcd"}
    search = Search(knobs, 0.5, seed=0)
    assert len(search.points) <= MOST + 1
    slowest = {name: values[0] for name, values in search.knobs.items()}
    for point in ({**slowest, "gpu_hz": WIDE["gpu_hz"][1]}, search.ask(), slowest):
        assert point is not None
        search.tell(point, 0.1, 1.0)
    assert search.ask() is not None


def test_a_fit_that_fails_does_not_stop_the_search() -> None:
    """While the numerics fail, the untried point nearest to the best is asked for; the best is the cheapest seen."""
    calls: list[int] = []

    def failing(space: Space, told: Told, belief: Belief, last: torch.Tensor | None, rate_hz: float | None) -> Surfaces:
        calls.append(len(told.indices))
        if len(calls) % 2:
            raise torch.linalg.LinAlgError("not positive definite")
        return fit_surfaces(space, told, belief, last, rate_hz)

    search = Search(WIDE, 0.1, seed=0, fit=failing)
    asked = go(search, 10, measured)
    assert len(asked) == 10
    assert calls
    assert search.best() is not None
