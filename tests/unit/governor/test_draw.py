# SPDX-License-Identifier: Apache-2.0
"""The watts of training, from the joules of the whole board."""

from __future__ import annotations

import pytest

from governor.draw import COMPUTED_S, Draw
from governor.reader import TrainerView
from governor.spots import Spot
from telemetry.board_page import BoardReading
from telemetry.trainer_page import JobNotice

HERE, THERE = Spot({"gpu_hz": 1e9}, "here", {}, 20.0), Spot({"gpu_hz": 2e9}, "there", {}, 40.0)
POINT = (None, None, None, None, None)


class Board:
    """Serves at 20 W, and draws `training_w` more while training computes."""

    def __init__(self, training_w: float) -> None:
        self.training_w = training_w
        self.now_s, self.energy_j, self.busy_s = 100.0, 5000.0, 7.0

    def run(self, draw: Draw, seconds: float, share: float, clocks: str = "here") -> None:
        """Looks at the board twenty times a second."""
        for _ in range(round(20 * seconds)):
            self.now_s += 0.05
            self.busy_s += 0.05 * share
            self.energy_j += 0.05 * (20.0 + share * self.training_w)
            board = BoardReading(
                "b", True, False, round(1e9 * self.now_s), POINT, POINT, self.energy_j, 0.0, 20.0, 0, 0, 0, 0
            )
            draw.see(board, TrainerView(JobNotice("job"), round(1e9 * self.busy_s)), clocks)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_what_training_draws_is_what_the_board_draws_more_while_it_computes(share: float) -> None:
    """However much of the time that is; a multiple of what serving alone draws."""
    draw, board = Draw(), Board(15.0)
    draw.begin(HERE)
    board.run(draw, COMPUTED_S, share)
    assert draw.over_serving == 1.0
    board.run(draw, 2 * COMPUTED_S / share, share)
    assert draw.over_serving == pytest.approx(0.75, rel=1e-3)


def test_little_training_tells_nothing() -> None:
    """Nor joules at other clocks, nor at a point of which nobody knows what serving draws."""
    draw, board = Draw(), Board(15.0)
    board.run(draw, 60.0, 0.9)
    draw.begin(HERE)
    board.run(draw, 600.0, 0.1)
    board.run(draw, 60.0, 0.9, "elsewhere")
    draw.begin(None)
    board.run(draw, 60.0, 0.9)
    draw.begin(Spot({}, "here", {}, 0.0))
    board.run(draw, 60.0, 0.9)
    assert draw.over_serving == 1.0


def test_a_job_at_another_point_is_measured_anew() -> None:
    """What was known stays until then; a trainer that starts over begins to count at 0."""
    draw, board = Draw(), Board(15.0)
    draw.begin(HERE)
    board.run(draw, 60.0, 0.9)
    board.busy_s, board.training_w = 0.0, 5.0
    draw.begin(THERE)
    board.run(draw, 4.0, 0.9, "there")
    assert draw.over_serving == pytest.approx(0.75, rel=1e-3)
    draw.begin(HERE)
    board.run(draw, 60.0, 0.9)
    assert draw.over_serving == pytest.approx(0.25, rel=1e-3)


def test_another_job_at_the_same_point_is_measured_anew() -> None:
    """What the one before drew is believed until then, and not counted with it."""
    draw, board = Draw(), Board(15.0)
    draw.begin(HERE)
    board.run(draw, 60.0, 0.9)
    draw.begin(None)
    board.training_w = 5.0
    draw.begin(HERE)
    assert draw.over_serving == pytest.approx(0.75, rel=1e-3)
    board.run(draw, 60.0, 0.9)
    assert draw.over_serving == pytest.approx(0.25, rel=1e-3)


def test_joules_that_make_no_sense_are_bounded() -> None:
    """Training takes power, and not ten times as much as serving."""
    for training_w, known in ((-30.0, 0.1), (900.0, 10.0)):
        draw = Draw()
        draw.begin(HERE)
        Board(training_w).run(draw, 60.0, 0.5)
        assert draw.over_serving == known
