# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from finetune.jobs.conditions import Surroundings, unmet, within
from telemetry.jobs import Conditions

NIGHT = Surroundings(idle_s=100.0, charging=True, celsius=40.0, minute=23 * 60)


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("22:00-06:00", (22 * 60, 23 * 60 + 59, 0, 5 * 60 + 59), (6 * 60, 12 * 60, 21 * 60 + 59)),
        ("06:30-07:00", (6 * 60 + 30, 6 * 60 + 59), (6 * 60 + 29, 7 * 60, 0)),
        ("08:00-08:00", (0, 8 * 60, 23 * 60), ()),
    ],
)
def test_windows(window: str, inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
    """A window holds from its first minute to the one before its last, over midnight too; of no length it is a day."""
    assert all(within(window, minute) for minute in inside)
    assert not any(within(window, minute) for minute in outside)


def test_without_conditions_nothing_is_asked() -> None:
    """A job without conditions trains wherever it is, also where nothing is known."""
    assert unmet(Conditions(), Surroundings(0.0, None, None, 0)) == ""


@pytest.mark.parametrize(
    ("conditions", "now", "said"),
    [
        (Conditions(only_idle_s=120), NIGHT, "idle for 100 s of 120 s"),
        (Conditions(charging=True), Surroundings(0, False, None, 0), "not on external power"),
        (Conditions(charging=True), Surroundings(0, None, None, 0), "nothing tells whether external power is there"),
        (Conditions(below_celsius=40), NIGHT, "40 °C is not below 40 °C"),
        (Conditions(below_celsius=40), Surroundings(0, True, None, 0), "no temperature is known"),
        (Conditions(window="08:00-09:00"), NIGHT, "it is not 08:00-09:00"),
    ],
)
def test_what_does_not_hold_is_said(conditions: Conditions, now: Surroundings, said: str) -> None:
    """The reason is in words, and what is not known does not hold."""
    assert unmet(conditions, now) == said


def test_all_must_hold() -> None:
    """With every condition met there is no reason to wait; with one of them broken there is."""
    conditions = Conditions(60, True, 70, "22:00-06:00")
    assert unmet(conditions, NIGHT) == ""
    assert unmet(conditions, Surroundings(100.0, True, 40.0, 12 * 60))
