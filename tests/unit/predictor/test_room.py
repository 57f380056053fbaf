# SPDX-License-Identifier: Apache-2.0
"""Making room: the cheapest point at which everything is kept."""

from __future__ import annotations

import pytest

from predictor.admission import Admit, Job, Objective, Refuse
from predictor.corun import CoRunModel, Serving, TrainingSlices
from predictor.queueing import ServiceTimes
from predictor.room import Place, Room, make_room

ARRIVALS_S = [0.1 * number for number in range(300)]
JOB = Job(step_s=0.5, steps_left=100, deadline_s=300.0)


def place(name: str, slowdown: float, serving_w: float, training_w: float = 10.0, limit_s: float = 0.04) -> Place[str]:
    serving = Serving(ARRIVALS_S, ServiceTimes({1: (0.01,) * 200}), 4, slowdown=slowdown)
    loads = [(serving, Objective(0.99, limit_s))]
    return Place(name, loads, TrainingSlices((0.01,), slowdown=slowdown), serving_w, training_w)


def chosen(*places: Place[str], job: Job = JOB) -> Room[str]:
    room = make_room(CoRunModel(), places, job)
    assert isinstance(room, Room)
    return room


def test_where_there_is_room_already_nothing_moves() -> None:
    """A faster point that costs more is left alone."""
    room = chosen(place("here", 1.0, 20.0), place("faster", 0.7, 30.0, 18.0))
    assert room.place.point == "here"
    assert isinstance(room.decision, Admit)
    # fifty seconds of training at ten watts; serving costs what it costs anyway
    assert room.extra_j == pytest.approx(500.0)


def test_a_point_without_room_is_left_for_the_cheapest_that_has_some() -> None:
    """The slow point cannot keep the limit beside training; of two that can, the one with fewer joules is taken."""
    slow = place("here", 3.0, 10.0, limit_s=0.03)
    near, far = place("near", 1.0, 18.0, limit_s=0.05), place("far", 0.8, 40.0, limit_s=0.05)
    assert chosen(slow, far, near).place.point == "near"


def test_a_sure_point_goes_before_a_cheap_one() -> None:
    """Where the interval goes beyond the limit, a dearer point at which it does not is taken."""
    tight, sure = place("here", 2.0, 10.0, limit_s=0.03), place("sure", 0.8, 40.0, limit_s=0.03)
    assert not chosen(tight).decision.sure
    assert chosen(tight, sure).place.point == "sure"


def test_a_fast_point_pays_where_it_shortens_the_job() -> None:
    """Few watts more for half the time, at the same watts of training, are fewer joules."""
    room = chosen(place("here", 1.0, 20.0), place("faster", 0.5, 21.0))
    assert room.place.point == "faster"
    assert room.extra_j < 500.0


def test_no_room_anywhere_is_refused_with_what_would_do() -> None:
    """The smallest deadline of all points where that is what is missed, else the smallest limit."""
    places = [place("here", 2.0, 10.0, limit_s=0.1), place("faster", 1.0, 20.0, limit_s=0.1)]
    late = make_room(CoRunModel(), places, Job(0.5, 100, 20.0))
    assert isinstance(late, Refuse)
    assert late.deadline_s == pytest.approx(50 / 0.9, rel=0.05)
    tight = make_room(
        CoRunModel(), [place("here", 2.0, 10.0, limit_s=0.005), place("x", 1.0, 20.0, limit_s=0.005)], JOB
    )
    assert isinstance(tight, Refuse)
    assert tight.limit_s == pytest.approx(0.01, rel=0.1)


def test_no_places_is_an_error() -> None:
    """There is always the present one."""
    with pytest.raises(ValueError, match="no place"):
        make_room(CoRunModel(), [], JOB)
