# SPDX-License-Identifier: Apache-2.0
"""What is learnt of served models while nothing trains: batches timed from when they could have begun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from device import info

from boards.clocks import ClockPoint
from governor.quiet import CLOCKS, SUMMARY, Quiet, Timed
from governor.reader import InstanceView
from governor.times_file import TimesFile
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


CLOCK = ClockPoint(gpu_hz=800_000_000, emc_hz=2_133_000_000)


def busy(batches: int = 100) -> InstanceView:
    """So many batches that take 1 ms, 2 ms, ... alone."""
    return seen(*((float(number), float(number), number + (number + 1) / 1e3, 1) for number in range(batches)))


def test_what_was_timed_is_known_after_a_restart(tmp_path: Path) -> None:
    """In quantiles, at the clocks that it was timed at, once the instance is seen; there other batches come on top."""
    before, after = Quiet(), Quiet()
    before.add([busy()], CLOCK, 0.0)
    before.add([], None, 0.0)
    file = TimesFile(tmp_path)
    file.save("mine", before.summary)
    after.recall(file.load("mine"))
    assert after.batches(NAME, CLOCK) == SUMMARY
    after.add([seen((1.0, 1.0, 1.5, 1))], ClockPoint(), 0.0)
    serving = after.serving(NAME, CLOCK)
    assert serving is not None
    times_s = serving.services.seconds[1]
    assert list(times_s) == sorted(times_s)
    assert times_s[SUMMARY // 2] == pytest.approx(0.05, abs=0.002)
    assert after.slowdown([NAME], CLOCK, ClockPoint()) == pytest.approx(0.1, rel=0.02)
    after.add([seen((2.0, 2.0, 2.01, 1))], CLOCK, 0.0)
    assert after.batches(NAME, CLOCK) == SUMMARY + 1


def test_what_was_timed_since_counts_alone() -> None:
    """The last run's times may be those of other hardware, or of a warmer one."""
    quiet = Quiet()
    quiet.add([busy(3)], CLOCK, 0.0)
    quiet.recall(
        [Timed(CLOCK, NAME, 1, (9.0,)), Timed(ClockPoint(), NAME, 1, (8.0,)), Timed(CLOCK, "other", 1, (7.0,))]
    )
    assert (quiet.batches(NAME, CLOCK), quiet.batches(NAME, ClockPoint()), quiet.batches("other", CLOCK)) == (3, 1, 1)


def test_no_more_clocks_are_recalled_than_are_kept() -> None:
    quiet = Quiet()
    quiet.recall(Timed(ClockPoint(gpu_hz=hz), NAME, 1, (1.0,)) for hz in range(2 * CLOCKS))
    assert len(quiet.summary) == CLOCKS


@pytest.mark.parametrize(
    "spoil",
    [
        lambda row: row | {"times_s": []},
        lambda row: row | {"times_s": [0.1, -1]},
        lambda row: row | {"times_s": [float("nan")]},
        lambda row: row | {"times_s": [0.1] * (SUMMARY + 1)},
        lambda row: row | {"batch": 0},
        lambda row: row | {"batch": "1"},
        lambda row: row | {"instance": 3},
        lambda row: row | {"clocks": {"gpu_hz": 1.5}},
        lambda row: row | {"clocks": {"fan": 1}},
        lambda row: {"batch": 1},
        lambda row: 7,
    ],
)
def test_times_that_cannot_be_used_are_none(tmp_path: Path, spoil: object, caplog: pytest.LogCaptureFixture) -> None:
    """Whole or not at all, and never an error: the governor does without."""
    file = TimesFile(tmp_path)
    assert file.load("mine") == []
    timed = Timed(CLOCK, NAME, 2, (0.1, 0.2))
    file.save("mine", [timed])
    assert file.load("mine") == [timed]
    assert file.load("another") == []
    assert caplog.messages == []
    known = json.loads(file.path.read_text())
    known["rows"][0] = spoil(known["rows"][0])  # type: ignore[operator]
    file.path.write_text(json.dumps(known))
    assert file.load("mine") == []
    file.path.write_text("[")
    assert file.load("mine") == []
    assert len(caplog.messages) == 2
