# SPDX-License-Identifier: Apache-2.0
"""The closed loop of duty, window by window."""

from __future__ import annotations

import math
from collections.abc import Iterable

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


def test_training_goes_on_where_it_made_nobody_later() -> None:
    """A promise that is missed without it is no better kept by standing still; it is given no more meanwhile."""
    grown = after(start(), [0.5] * 2)[-1]
    for late in (1.2, 3.9):
        still = grown.after(Window(late, alone=late), 0.0)
        assert (still.now, still.broken, still.ceiling, still.clean) == (grown.now, 0, grown.ceiling, 0)
        assert "without training" in still.limits.reason
    for late in (4.0, 20.0):
        overloaded = grown.after(Window(late, alone=20.0), 0.0)
        assert (overloaded.now, overloaded.broken) == (0.0, 0)
    assert after(grown, [1.2])[-1].now == 0.0


def test_what_would_have_broken_alone_is_not_held_against_training() -> None:
    """Where more were late than that, it stands still until a window is clean, and loses nothing for it."""
    grown = after(start(), [0.5] * 10)[-1]
    stopped = grown.after(Window(1.2, alone=1.1), 0.0)
    assert (stopped.now, stopped.broken, stopped.ceiling) == (0.0, 0, grown.ceiling)
    assert "without training" in stopped.limits.reason
    assert after(stopped, [0.5, 0.5, 0.5, 0.5, 0.5])[-1].now == 1.0


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
