# SPDX-License-Identifier: Apache-2.0
"""Whether a job may train now, by its own conditions; as devices in people's hands have them."""

from __future__ import annotations

from dataclasses import dataclass

from telemetry.jobs import Conditions


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The device as it is now; None where nothing is known."""

    idle_s: float
    """For how long no served model has had a request."""
    charging: bool | None
    """On external power."""
    celsius: float | None
    """Of the hottest zone."""
    minute: int
    """Of the local day."""


def unmet(conditions: Conditions, now: Surroundings) -> str:
    """The first condition that does not hold, for people; empty if all do. What is not known does not hold."""
    if conditions.window is not None and not within(conditions.window, now.minute):
        return f"it is not {conditions.window}"
    if conditions.charging and not now.charging:
        return "not on external power" if now.charging is False else "nothing tells whether external power is there"
    if conditions.below_celsius is not None:
        if now.celsius is None:
            return "no temperature is known"
        if now.celsius >= conditions.below_celsius:
            return f"{now.celsius:.0f} °C is not below {conditions.below_celsius:g} °C"
    if conditions.only_idle_s is not None and now.idle_s < conditions.only_idle_s:
        return f"idle for {now.idle_s:.0f} s of {conditions.only_idle_s:g} s"
    return ""


def within(window: str, minute: int) -> bool:
    """Whether a minute of the day lies in a window such as `22:00-06:00`; the same time twice is the whole day."""
    begin, end = (60 * int(time[:2]) + int(time[3:]) for time in window.split("-"))
    if begin < end:
        return begin <= minute < end
    return minute >= begin or minute < end
