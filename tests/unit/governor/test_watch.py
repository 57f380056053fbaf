# SPDX-License-Identifier: Apache-2.0
"""Breaches seen as they happen."""

from __future__ import annotations

from collections.abc import Sequence

from device import info

from governor.guard import Slo
from governor.reader import InstanceView
from governor.watch import Watch
from telemetry.instance_page import Sample, Status

SLO = Slo(0.95, 0.05, 10.0)
OK_S, LATE_S = 0.01, 0.1


def view(ends_s: Sequence[float], took_s: float, status: Status = Status.OK) -> InstanceView:
    samples = tuple(Sample(round(1e9 * (end_s - took_s)), 0, round(1e9 * end_s), 1, status) for end_s in ends_s)
    return InstanceView(info(), samples, 0, 0, 0, 0, 0, None)


def seen(*views: InstanceView, since_s: float = 0.0) -> bool:
    watch = Watch({"resnet18_0_0": SLO})
    for one in views:
        watch.add([one], since_s)
    return watch.broken


MANY_S = [5.0 + 0.1 * n for n in range(10)]


def test_a_plain_breach_is_seen_before_its_window_is_over() -> None:
    """A few late ones in a row, at once; as many among ten times as many are none."""
    assert seen(view(MANY_S, LATE_S))
    assert seen(view(MANY_S, OK_S), view([6.1, 6.2, 6.3, 6.4], LATE_S))
    assert not seen(view(MANY_S[1:], LATE_S))
    assert not seen(view([1 + 0.02 * n for n in range(200)], OK_S), view([5.1 + n for n in range(5)], LATE_S))
    assert seen(view(MANY_S, OK_S, Status.FAILED))
    assert not seen(view(MANY_S, LATE_S, Status.CANCELLED))


def test_what_is_long_over_or_arrived_before_counts_for_nothing() -> None:
    """Only the last window's requests, and only those that arrived under the point in force."""
    early_s = [end_s - 4.5 for end_s in MANY_S]
    assert not seen(view(early_s[:9], LATE_S), view([12.0], LATE_S))
    assert not seen(view(MANY_S, LATE_S), since_s=5.15)


def test_another_point_begins_with_a_clean_slate() -> None:
    """What the one before broke is not its fault."""
    watch = Watch({"resnet18_0_0": SLO, "other": SLO})
    watch.add([view(MANY_S, LATE_S)], 0.0)
    assert watch.broken
    watch.add([], 0.0)
    assert watch.broken
    watch.add([view([8.0], LATE_S)], 6.0)
    assert not watch.broken
