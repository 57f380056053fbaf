# SPDX-License-Identifier: Apache-2.0
"""What is learnt of served models while nothing trains: batches timed from when they could have begun."""

from __future__ import annotations

import pytest
from device import info

from governor.quiet import Quiet
from governor.reader import InstanceView
from telemetry.instance_page import Knobs, Sample, Status

NAME = info().instance


def seen(*samples: tuple[float, float, float, int], wait_s: float = 0.0) -> InstanceView:
    """Requests as arrival, start and end in seconds, and their batch's size."""
    told = (
        Sample(round(1e9 * arrival_s), round(1e9 * start_s), round(1e9 * end_s), size, Status.OK)
        for arrival_s, start_s, end_s, size in samples
    )
    return InstanceView(info(), tuple(told), 0, 0, 0, 0, 0, Knobs(4, round(1e9 * wait_s)))


def timed(*views: InstanceView, since_s: float = 0.0) -> dict[int, tuple[float, ...]]:
    quiet = Quiet()
    for view in views:
        quiet.add([view], "clocks", since_s)
    serving = quiet.serving(NAME, "clocks")
    return {} if serving is None else dict(serving.services.seconds)


def test_a_batch_is_timed_from_when_it_could_have_begun() -> None:
    """A thread that woke up late is the server's own; waiting for the batch before is not."""
    found = timed(seen((1.0, 1.002, 1.01, 1), (1.005, 1.013, 1.02, 1)))
    assert found == {1: pytest.approx((0.010, 0.010))}


def test_requests_of_one_batch_are_one_service_time_in_one_look_or_in_two() -> None:
    """The first of them says since when the batch could have begun."""
    together = (1.0, 1.001, 1.01, 2), (1.0005, 1.001, 1.01, 2)
    assert timed(seen(*together)) == timed(*map(seen, together)) == {2: pytest.approx((0.010,))}


def test_waiting_for_a_batch_to_fill_is_no_service() -> None:
    """Neither while it waits as long as it may, nor when it fills before."""
    found = timed(seen((1.0, 1.004, 1.010, 2), (2.0, 2.001, 2.007, 4), wait_s=0.004))
    assert found == {2: pytest.approx((0.006,)), 4: pytest.approx((0.006,))}


def test_what_could_have_begun_while_training_ran_is_not_counted() -> None:
    """Its delay may be training's."""
    assert timed(seen((1.0, 1.2, 1.3, 1), (1.6, 1.6, 1.7, 1)), since_s=1.1) == {1: pytest.approx((0.1,))}
