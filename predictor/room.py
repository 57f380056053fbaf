# SPDX-License-Identifier: Apache-2.0
"""Making room: the point at which a job costs the least joules, with every objective and the job's deadline met.

PolyThrottle's second phase looks for a smaller batch when fine-tuning arrives. Here any point counts (higher clocks,
other batch limits), and what is minimised is what the job costs on top of serving at the present point:

extra = (serving_w there - serving_w here) * time the job takes + training_w there * time that it computes
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .admission import Admit, Job, Load, Pace, Refuse, decide
from .corun import CoRunModel, TrainingSlices

PointT = TypeVar("PointT")


@dataclass(frozen=True, slots=True)
class Place(Generic[PointT]):
    """A point with what is known of it: loads and training as slowed down there, and power in watts.

    `serving_w` is the mean power of the whole device that serves these loads alone, idleness included; `training_w`
    what it draws more while training computes. `point` is whatever the caller calls it.
    """

    point: PointT
    loads: Sequence[Load]
    training: TrainingSlices
    serving_w: float
    training_w: float


@dataclass(frozen=True, slots=True)
class Room(Generic[PointT]):
    """Where the job shall run, under which decision, and the joules it costs on top of serving at the present point."""

    place: Place[PointT]
    decision: Admit | Pace
    extra_j: float


def make_room(model: CoRunModel, places: Sequence[Place[PointT]], job: Job) -> Room[PointT] | Refuse:
    """The cheapest place for the job; the first of `places` is the present point. `ValueError` without places.

    One whose prediction is sure goes before any that is not. A refusal names the smallest deadline and limit that any
    place could meet.
    """
    if not places:
        raise ValueError("no place to look for room in")
    rooms: list[Room[PointT]] = []
    refusals: list[Refuse] = []
    for place in places:
        decision = decide(model, place.loads, place.training, job)
        if isinstance(decision, Refuse):
            refusals.append(decision)
        else:
            rooms.append(Room(place, decision, _extra_j(places[0], place, decision, job)))
    return min(rooms, key=lambda room: (not room.decision.sure, room.extra_j)) if rooms else _refused(refusals)


def _extra_j(here: Place[PointT], there: Place[PointT], decision: Admit | Pace, job: Job) -> float:
    computing_s = there.training.slowdown * job.step_s * job.steps_left
    # of training that was never measured nobody knows how long it takes: one place is as good as another
    takes_s = decision.finish_s if math.isfinite(decision.finish_s) else 0.0
    return (there.serving_w - here.serving_w) * takes_s + there.training_w * computing_s


def _refused(refusals: Sequence[Refuse]) -> Refuse:
    deadlines_s = [refusal.deadline_s for refusal in refusals if refusal.deadline_s is not None]
    limits_s = [refusal.limit_s for refusal in refusals if refusal.limit_s is not None]
    return Refuse(refusals[0].reason, min(deadlines_s, default=None), None if deadlines_s else min(limits_s))
