# SPDX-License-Identifier: Apache-2.0
"""Searches that cannot succeed, and figures that cannot be true: a clear verdict, never a crash; time is virtual."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from governor.errors import Infeasible, UnknownPoint
from governor.in_turn import InTurn
from governor.points import Point, bayesian_search
from governor.search import Search
from governor.status import Phase
from telemetry.durable import read_log
from tests.faults.explored import Explored, explored
from tests.faults.surface import TABLE, RandomSurface

KNOBS = {"gpu_hz": (306e6, 612e6, 1_300.5e6), "emc_hz": (665.6e6, 3_199e6), "batch": (1.0, 2.0, 4.0)}
FASTEST = {"gpu_hz": 1_300.5e6, "emc_hz": 3_199e6, "batch": 1.0}
LONG_S = 1200.0


class Obstinate(InTurn):
    """Proposes one and the same point for ever, whatever became of it."""

    def ask(self) -> Point | None:
        """The fastest point."""
        return {name: values[-1] for name, values in self.knobs.items()}


class Astray(Obstinate):
    """Its first two proposals are of a clock that the board does not offer."""

    asked = 0

    def ask(self) -> Point | None:
        """A point off the table, or one on it."""
        point = super().ask() or {}
        Astray.asked += 1
        return point | {"gpu_hz": point["gpu_hz"] + 1.0} if Astray.asked <= 2 else point


class Deaf(InTurn):
    """Takes no figure for one that can be."""

    def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
        """Refuses."""
        raise ValueError(f"latency_s must be finite and positive, got {math.nan}")


def governed_to_the_end(made: Explored) -> None:
    """Until a point is held; no tick may fail on the way, nor for a minute after."""
    assert made.until(lambda: made.status.phase is Phase.HOLDING, LONG_S), made.status
    made.live(60.0)
    assert made.status.faults["tick"] == 0
    assert not any(record.exc_info for record in made.said)


def holds(made: Explored) -> list[dict[str, Any]]:
    return [row for row in read_log(made.config.state_dir / "history.log") if row["kind"] == "hold"]


def test_an_objective_that_nothing_meets_is_said_to_be_out_of_reach() -> None:
    """After a few trials the governor says by how much, holds the fastest point and has no best one."""
    with explored(RandomSurface(3), make_search=bayesian_search, slo_s=1e-3, trials=20) as made:
        governed_to_the_end(made)
        assert made.trials < 20
        assert made.status.best is None
        assert made.is_safe(made.status.point)
        assert any("out of reach" in record.getMessage() for record in made.said)
        assert not holds(made)[-1]["feasible"]


def test_a_board_without_a_choice_is_measured_and_held() -> None:
    """Knobs of one value each: one point, which is the best."""
    one = replace(TABLE, **{name: getattr(TABLE, name)[-1:] for name in ("gpu_hz", "gpu_min_hz", "emc_hz", "cpu_hz")})
    settings: dict[str, Any] = {"knobs": ("gpu_hz", "emc_hz", "cpu_hz"), "trials": 4}
    with explored(RandomSurface(3), make_search=bayesian_search, table=one, **settings) as made:
        governed_to_the_end(made)
        assert made.status.best is not None
        assert made.status.point == made.status.best.point == {"gpu_hz": 1_300_500_000, "emc_hz": 3_199_000_000,
                                                               "cpu_hz": 2_201_600_000}  # fmt: skip


def test_a_search_that_repeats_itself_spends_its_budget() -> None:
    """The same proposal again and again: as many trials as there may be, then it is held."""
    with explored(RandomSurface(3), make_search=Obstinate, trials=5) as made:
        governed_to_the_end(made)
        assert made.trials == 5


def test_a_proposal_off_the_table_is_refused_and_counted() -> None:
    """Nobody asks the board for a clock that it does not offer twice over: the governor counts it and goes on."""
    Astray.asked = 0
    with explored(RandomSurface(3), make_search=Astray, trials=3) as made:
        governed_to_the_end(made)
        assert sum(made.status.faults.values()) >= 1
        assert all(record.point["gpu_hz"] in TABLE.gpu_hz for record in made.status.trials if record.energy_j)


def test_figures_that_the_search_refuses_cost_nothing_but_their_trial() -> None:
    """What the search does not believe is said, and tuning goes on."""
    with explored(RandomSurface(3), make_search=Deaf, trials=4) as made:
        governed_to_the_end(made)
        assert any("teaches nothing" in record.getMessage() for record in made.said)


@pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf, 0.0, -1.0])
@pytest.mark.parametrize("name", ["latency_s", "energy_j"])
def test_impossible_figures_are_refused_by_name(name: str, figure: float) -> None:
    """They teach the search nothing: it goes on as if nobody had told them."""
    told, untold = Search(KNOBS, 0.05, seed=1), Search(KNOBS, 0.05, seed=1)
    first = told.ask(), untold.ask()
    assert first[0] == first[1] is not None
    with pytest.raises(ValueError, match=name):
        told.tell(first[0] or {}, **({"latency_s": 0.02, "energy_j": 1.0} | {name: figure}))
    assert told.best() is None
    assert told.ask() == untold.ask()


@pytest.mark.parametrize(
    "point", [{}, FASTEST | {"gpu_hz": 7.0}, FASTEST | {"cores": 4.0}, FASTEST | {"batch": math.nan}]
)
def test_points_off_the_table_are_refused(point: dict[str, float]) -> None:
    """The point is named, and nothing was learnt."""
    search = Search(KNOBS, 0.05, seed=1)
    with pytest.raises(UnknownPoint) as refused:
        search.tell(point, 0.02, 1.0)
    assert refused.value.point == pytest.approx(point, nan_ok=True)
    assert search.best() is None


def test_a_point_told_again_and_again_is_learnt_from_each_time() -> None:
    """Repeats are trials like others: the best is known better, and the search goes on to other points."""
    search = Search(KNOBS, 0.05, seed=1)
    for number in range(8):
        search.tell(FASTEST, 0.02 + 0.0001 * number, 1.0)
    best = search.best()
    assert best is not None
    assert best.point == FASTEST
    assert 0.02 <= best.latency_s <= 0.0208
    assert search.ask() != FASTEST


def test_one_point_alone_is_asked_for_and_is_the_best() -> None:
    """With nothing to choose the search ends after it, or repeats it; it names no other."""
    search = Search({"gpu_hz": (306e6,), "batch": (1.0,)}, 0.05, seed=1)
    only = {"gpu_hz": 306e6, "batch": 1.0}
    assert search.ask() == only
    for _ in range(6):
        search.tell(only, 0.02, 1.0)
        assert search.ask() in (None, only)
    best = search.best()
    assert best is not None
    assert best.point == only


def test_a_limit_below_every_latency_is_out_of_reach() -> None:
    """Once the fastest point and others have missed it, the search says by how much."""
    search = Search(KNOBS, 0.001, seed=1)

    def try_on() -> None:
        for _ in range(30):
            search.tell(search.ask() or {}, 0.02, 1.0)

    with pytest.raises(Infeasible) as verdict:
        try_on()
    assert (verdict.value.best_latency_s, verdict.value.slo_s) == (0.02, 0.001)
    assert search.best() is None
