# SPDX-License-Identifier: Apache-2.0
"""What a fine-tuning job is asked for, and how it stands: records that travel as JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any

from .errors import JobInvalid

OPTIMIZERS = ("adamw", "sgd")
DAY_S = 86_400.0
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_SHARE = re.compile(r"(\d{1,3})(\.\d+)?%")
_WINDOW = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")


class JobState(str, Enum):
    """Where a job stands; the last three are ends."""

    QUEUED = "queued"
    ADMITTED = "admitted"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Conditions:
    """When a job may train, as devices in people's hands have it; what is None or False is not asked for."""

    only_idle_s: float | None = None
    """No request for so long."""
    charging: bool = False
    """On external power."""
    below_celsius: float | None = None
    """No zone of the board is hotter."""
    window: str | None = None
    """Local time, `22:00-06:00`."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What somebody wants trained. Every field was checked if it came through `from_json`."""

    model: str
    epochs: int = 4
    batch: int = 16
    learning_rate: float = 1e-3
    optimizer: str = "adamw"
    budget: str | int | None = None
    """RAM of the step: bytes, or a share of the activations' peak on top of what is fixed; None: no bound."""
    deadline_s: float | None = None
    """Seconds from submission to the end, of a machine that is on."""
    validation_share: float = 0.2
    patience: int = 3
    """Epochs without a better model after which training stops; 0: never."""
    margin: float = 0.0
    """How far the accuracy may lie below the serving version's and still be published."""
    seed: int = 0
    publish: bool = True
    conditions: Conditions = field(default_factory=Conditions)

    @classmethod
    def from_json(cls, content: object) -> JobRequest:
        """The request in a JSON object; raises `JobInvalid` naming the field, unknown ones included."""
        given = _object("request", content, cls)
        if "model" not in given:
            raise JobInvalid("model", "is missing")
        if "conditions" in given:
            conditions = _object("conditions", given["conditions"], Conditions)
            given["conditions"] = Conditions(
                **{name: _checked(f"conditions.{name}", value) for name, value in conditions.items()}
            )
        return cls(**{name: value if name == "conditions" else _checked(name, value) for name, value in given.items()})

    def to_json(self) -> dict[str, Any]:
        """The request as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job stands; the worker alone writes it. None: not known yet."""

    id: str
    request: JobRequest
    state: JobState = JobState.QUEUED
    reason: str = ""
    """Why it waits, is paused, or has ended as it has."""
    step: int = 0
    steps: int = 0
    epoch: int = 0
    samples: int = 0
    """Samples it trains and validates on."""
    loss: float | None = None
    accuracy_before: float | None = None
    """Of the version served when it began, on the samples held out."""
    accuracy_after: float | None = None
    version: int | None = None
    """The version that was published."""
    peak_bytes: int | None = None
    budget_bytes: int | None = None
    step_s: float | None = None
    """A step when nothing interrupts it."""
    longest_s: float | None = None
    """The longest stretch in which inference could not have had the processor."""
    train_s: float = 0.0
    """Time spent training, waits apart."""
    waited_s: float = 0.0
    """Time in which training waited for inference, or was held."""
    deadline_left_s: float | None = None
    attempts: int = 0
    """How often it was taken up since it last got on."""

    def to_json(self) -> dict[str, Any]:
        """The status as a JSON object."""
        return {**asdict(self), "state": self.state.value}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> JobStatus:
        """The status in a JSON object of ours; raises `JobInvalid`, `KeyError`, `TypeError` or `ValueError`."""
        request = JobRequest.from_json(content["request"])
        return cls(**{**content, "request": request, "state": JobState(content["state"])})


def _object(name: str, content: object, kind: type) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise JobInvalid(name, f"must be a JSON object, got {_short(content)}")
    known = [column.name for column in fields(kind)]
    for key in content:
        if key not in known:
            raise JobInvalid(f"{name}.{_short(key)}", f"is not known; known: {', '.join(known)}")
    return dict(content)


def _checked(name: str, value: Any) -> Any:
    """The value if it is one for this field; raises `JobInvalid`."""
    what, sound = _RULES[name]
    if not sound(value):
        raise JobInvalid(name, f"must be {what}, got {_short(value)}")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and bool(least <= value <= most)


def _number(least: float, most: float, *, above: bool = False) -> Callable[[Any], bool]:
    def sound(value: Any) -> bool:
        if type(value) not in (int, float) or not math.isfinite(value):
            return False
        return bool((least < value if above else least <= value) and value <= most)

    return sound


def _budget(value: Any) -> bool:
    if isinstance(value, str):
        found = _SHARE.fullmatch(value)
        return found is not None and 0 < float(value[:-1]) <= 100
    return value is None or (type(value) is int and 0 < value < 1 << 50)


def _or_none(sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or sound(value)


_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "model": (
        "a model's name (letters, digits, '_', '-' and '.', at most 64)",
        lambda value: isinstance(value, str) and _MODEL.fullmatch(value) is not None,
    ),
    "epochs": ("a whole number from 1 to 1000", _whole(1, 1000)),
    "batch": ("a whole number from 1 to 1024", _whole(1, 1024)),
    "learning_rate": ("a number above 0, at most 10", _number(0, 10, above=True)),
    "optimizer": (f"one of {', '.join(OPTIMIZERS)}", lambda value: value in OPTIMIZERS),
    "budget": ("null, bytes as a whole number, or a share as '50%'", _budget),
    "deadline_s": ("null or seconds above 0, at most 30 days", _or_none(_number(0, 30 * DAY_S, above=True))),
    "validation_share": ("a number from 0.01 to 0.9", _number(0.01, 0.9)),
    "patience": ("a whole number from 0 to 1000", _whole(0, 1000)),
    "margin": ("a number from 0 to 1", _number(0, 1)),
    "seed": ("a whole number from 0 to 2**63 - 1", _whole(0, (1 << 63) - 1)),
    "publish": ("true or false", lambda value: type(value) is bool),
    "conditions.only_idle_s": ("null or seconds above 0, at most a day", _or_none(_number(0, DAY_S, above=True))),
    "conditions.charging": ("true or false", lambda value: type(value) is bool),
    "conditions.below_celsius": ("null or degrees from 0 to 150", _or_none(_number(0, 150))),
    "conditions.window": (
        "null or local times as '22:00-06:00'",
        _or_none(lambda value: isinstance(value, str) and _WINDOW.fullmatch(value) is not None),
    ),
}
