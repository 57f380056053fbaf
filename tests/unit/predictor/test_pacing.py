# SPDX-License-Identifier: Apache-2.0
"""The closed loop of duty, window by window."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from predictor.admission import PROBE, Admit, Pace
from predictor.pacing import BROKEN, FIRST, LEAST, SETTLED, Duty, Window

WINDOW_S = 10.0


def after(duty: Duty, shares: Iterable[float], begin_s: float = 0.0) -> list[Duty]:
    states = []
    for number, share in enumerate(shares, 1):
        duty = duty.after(Window(share), begin_s + number * WINDOW_S)
        states.append(duty)
    return states


def start(most: float = 1.0) -> Duty:
    return Duty.granted(Pace(most, 0.05, 0.01, 10.0, 0.0))


def test_it_begins_small_and_grows_with_clean_windows_up_to_what_was_predicted() -> None:
    """Never beyond it."""
    shares = [duty.now for duty in after(start(0.75), [0.5] * 20)]
    assert start().now == FIRST
    assert start(0.1).now == 0.1
    assert shares == sorted(shares)
    assert shares[0] > FIRST
    assert shares[-1] == 0.75


def test_a_sure_prediction_is_taken_at_its_word() -> None:
    """At once, and only until a window breaks; what is less sure is for windows to grant."""
    begun = Duty.granted(Pace(0.75, 0.05, 0.01, 10.0, 0.5))
    assert begun.now == 0.5
    assert Duty.granted(Admit(0.01, 10.0)).now == 1.0
    assert begun.after(Window(0.5), WINDOW_S).now == 0.75
    assert begun.after(Window(1.1), WINDOW_S).now == 0.0


def test_a_window_close_to_the_limit_gives_nothing() -> None:
    """Nor takes anything."""
    assert [duty.now for duty in after(start(), [0.95] * 5)] == [FIRST] * 5
    assert [duty.now for duty in after(start(), [0.7] * 5)] == [FIRST] * 5, "half as much again would break it"
    assert after(start(), [0.65])[-1].now > FIRST


def test_a_broken_window_stops_training_until_a_clean_one_and_halves_it_then() -> None:
    """And says why."""
    grown = after(start(), [0.5] * 10)[-1]
    stopped, still, back = after(grown, [1.2, 0.95, 0.5])
    assert (grown.now, stopped.now, still.now) == (1.0, 0.0, 0.0)
    assert "broke" in stopped.limits.reason
    assert 0 < back.now <= 0.5


def test_what_broke_is_approached_slowly_again() -> None:
    """Half the duty at once, all of it after tens of clean windows, and later each time."""
    grown = after(start(), [0.5] * 10)[-1]
    states = after(grown, [1.2] + [0.5] * 400)
    assert max(state.now for state in states[:10]) == 0.5
    reached = next(number for number, state in enumerate(states) if state.now == 1.0)
    assert 10 < reached < 30
    again = after(states[reached], [1.2] + [0.5] * 400)
    assert reached < next(number for number, state in enumerate(again) if state.now == 1.0) < 60


def test_a_window_broken_while_training_stands_still_is_not_its_doing() -> None:
    """However many: no refusal, and training waits for a clean one."""
    states = after(start(), [1.5] * 20)
    assert not any(state.refused for state in states)
    assert states[-1].broken == 1
    assert states[-1].limits.duty == 0.0
    assert "without training" in states[-1].limits.reason


def test_a_window_close_to_the_limit_gives_what_was_not_trainings_doing() -> None:
    """Only what training added is multiplied by what it would be given."""
    assert start().after(Window(0.9, alone=0.75), 0.0).now > FIRST
    assert start().after(Window(0.9, alone=0.65), 0.0).now == FIRST
    assert start().after(Window(0.9, alone=1.5), 0.0).now > FIRST
    assert start().after(Window(1.0, alone=1.0), 0.0).now > FIRST


def test_where_the_promise_is_missed_anyway_training_goes_on() -> None:
    """Where it made nobody later a window is as good as a clean one; where it may have, nothing changes."""
    grown = after(start(), [0.5] * 2)[-1]
    clean = grown.after(Window(0.5), 0.0)
    for late, alone, then in ((1.2, 1.2, clean), (1.2, 3.0, clean), (3.9, 1.1, grown)):
        found = grown.after(Window(late, alone), 0.0)
        assert replace(found, reason=then.reason) == then
        assert "without training" in found.limits.reason
    assert after(grown, [1.2])[-1].now == 0.0


def test_growing_meanwhile_stays_within_what_was_predicted_and_what_broke() -> None:
    """As with clean windows."""
    missed = Window(1.5, alone=1.5)
    assert start(0.3).after(missed, 0.0).now == 0.3
    halved = after(after(start(), [0.5] * 10)[-1], [1.2, 0.5, 0.5])[-1]
    assert (halved.now, halved.ceiling, halved.after(missed, 0.0).now) == (0.375, 0.5, 0.5)


@pytest.mark.parametrize("late", [4.0, 20.0])
def test_an_overloaded_window_stops_training_whatever_the_replay_says(late: float) -> None:
    """So many late requests tell nothing; nor do they count against training, which comes back with half."""
    grown = after(start(), [0.5] * 10)[-1]
    overloaded = Window(late, alone=20.0)
    stopped = grown.after(overloaded, 0.0)
    assert (stopped.now, stopped.broken, stopped.ceiling) == (0.0, 0, grown.ceiling)
    for shares in ([0.5], [1.5], [late, late, 1.5], [0.9, 1.5]):
        assert after(stopped, shares)[-1].now == 0.5
    assert after(stopped, [late, 0.9])[-1].now == 0.0
    least = after(stopped, [1.5])[-1]
    for _ in range(4):
        least = after(least.after(overloaded, 0.0), [1.5])[-1]
    assert least.now == 0.0, "a half of a half, down to nothing"
    assert after(least, [0.5])[-1].now == FIRST


def test_what_training_broke_is_not_given_back_by_windows_without_it() -> None:
    """Only what an overload took."""
    grown = after(start(), [0.5] * 4)[-1]
    halved = after(grown.after(Window(5.0, alone=9.0), 0.0), [1.5])[-1]
    assert halved.now > 0
    assert after(halved, [1.5, 1.5, 1.5])[-1].now == 0.0
    refused = after(start(), [0.5] * 10 + [1.2, 0.5, 1.2, 0.5, 1.2])[-1]
    assert refused.refused
    assert after(refused, [5.0, 1.5])[-1].now == 0.0


def test_a_slow_moment_of_the_host_is_not_held_against_training() -> None:
    """The next window, without training, broke too: all is as before, unless training had not been clean for long."""
    grown = after(start(), [0.5] * 10)[-1]
    blamed, settled, back = after(grown, [1.2, 1.2, 0.5])
    assert (blamed.now, blamed.broken) == (0.0, 1)
    assert (settled.now, settled.broken, settled.ceiling) == (0.0, 0, grown.ceiling)
    assert back.now == FIRST
    assert after(back, [0.5] * (SETTLED - 2) + [1.2, 1.2])[-1].broken == 1
    assert not any(state.refused for state in after(grown, ([1.2, 1.2] + [0.5] * SETTLED) * 20))


def test_a_refusal_too_is_taken_back_if_it_was_the_hosts_doing() -> None:
    """At once, with the first window after it."""
    twice = after(start(), [0.5] * 10 + [1.2, 0.5] * 2 + [0.5] * 10)[-1]
    refused, settled = after(twice, [1.2, 1.2])
    assert refused.refused
    assert (settled.refused, settled.broken, settled.refusals) == (False, 2, 0)


def test_three_broken_windows_refuse_the_job_for_a_time() -> None:
    """With clean ones between them; then it may try again at the least, and one more is enough."""
    states = after(start(), [1.2, 0.5, 1.2, 0.5, 1.2])
    assert [state.refused for state in states] == [False] * 4 + [True]
    refused = states[-1]
    assert refused.limits.duty == 0.0
    assert f"{BROKEN} windows" in refused.limits.reason
    waiting, returned = after(refused, [0.1, 0.1], begin_s=refused.refused_until_s - 1.5 * WINDOW_S)
    assert (waiting.now, waiting.refused) == (0.0, True)
    assert (returned.now, returned.refused) == (LEAST, False)
    (again,) = after(returned, [1.2], begin_s=1000.0)
    assert again.refused
    assert again.refused_until_s - 1010.0 > 2 * (refused.refused_until_s - 50.0)


def test_a_refusal_ends_only_on_a_clean_window() -> None:
    """Time alone does not bring training back into a bad moment."""
    refused = after(start(), [1.2, 0.5, 1.2, 0.5, 1.2])[-1]
    (still,) = after(refused, [1.1], begin_s=refused.refused_until_s + 1)
    assert still.refused


def test_a_new_decision_keeps_what_was_learnt() -> None:
    """What broke is not forgotten because a prediction changed."""
    states = after(start(), [0.5] * 10 + [1.2, 0.5])
    regranted = states[-1].regranted(Admit(0.01, 1.0))
    assert (regranted.ceiling, regranted.broken) == (states[-1].ceiling, 1)
    assert states[-1].regranted(Pace(0.1, 0.2, 0.01, 1.0, 0.1)).limits.duty == 0.1


def test_a_probe_ends_with_the_first_decision_that_knows_anything() -> None:
    """The loop begins where that says; a window that broke meanwhile was not the probe's doing."""
    probe = Duty.granted(Pace(PROBE, 0.05, 0.0, math.inf, 0.0))
    assert probe.limits.duty == PROBE
    assert probe.regranted(Admit(0.01, 1.0)).limits.duty == 1.0
    stopped, again = after(probe, [1.2, 0.5])
    assert (stopped.now, stopped.broken, again.now) == (0.0, 0, PROBE)
    assert stopped.regranted(Admit(0.01, 1.0)).limits.duty == 1.0


@pytest.mark.parametrize("limit", [0.02, 0.3, 2.0])
def test_breaches_are_rare_wherever_the_real_limit_lies(limit: float) -> None:
    """A world that breaks above a duty of `limit`: never three in a row, at most one window in a hundred."""
    duty, broken = start(), []
    for number in range(1500):
        breaks = duty.now > limit
        broken.append(breaks)
        duty = duty.after(Window(1.3 if breaks else 0.5), number * WINDOW_S)
    assert sum(broken) <= 15
    assert not any(all(broken[at : at + BROKEN]) for at in range(len(broken)))
    assert (duty.now > 0) or limit < LEAST


@pytest.mark.parametrize(
    ("added", "dark", "most"), [(0.0, 1.0, 0.0), (1.0, 1.0, 0.1), (10.0, 1.0, 0.1), (3.0, 2.0, 0.3)]
)
def test_what_training_adds_to_a_promise_that_is_missed_anyway_stays_small(
    added: float, dark: float, most: float
) -> None:
    """Requests late in rows of three, one in twelve without training; training that harms nobody gets most of the time.

    `added` is what training at full duty makes late besides, over what may be. The replay says `dark` times as many
    late without training as there are, and is half luck in each window. `most` 0.1 is half a point of a p95.
    """
    chance = np.random.default_rng(0)
    duty, windows, allowed = start(), 2000, 3.6

    def late(share: float) -> float:
        return 3 * float(chance.binomial(24, share)) / allowed

    beside, duties = 0.0, 0.0
    for number in range(windows):
        alone, more = late(1 / 12), late(min(1.0, added * duty.now / 20))
        beside, duties = beside + more, duties + duty.now
        replayed = dark * (alone + late(1 / 12)) / 2 if duty.now else 0.0
        seen = alone + more
        duty = duty.after(Window(seen if seen > 1.7 else min(seen, 1.0), replayed), number * WINDOW_S)
    assert beside / windows <= most
    assert added or duties / windows >= 0.5
