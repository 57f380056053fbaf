# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import JobInvalid
from telemetry.jobs import Conditions, JobRequest, JobState, JobStatus

FULL: dict[str, Any] = {
    "model": "digits_cnn",
    "epochs": 2,
    "batch": 8,
    "learning_rate": 0.01,
    "optimizer": "sgd",
    "budget": "50%",
    "deadline_s": 90,
    "validation_share": 0.25,
    "patience": 0,
    "margin": 0.02,
    "seed": 3,
    "publish": False,
    "conditions": {"only_idle_s": 5, "charging": True, "below_celsius": 70.5, "window": "22:00-06:00"},
}

WRONG: list[tuple[str, Any]] = [
    ("model", None), ("model", ""), ("model", "../other"), ("model", ".hidden"), ("model", "a/b"), ("model", "a" * 65),
    ("epochs", 0), ("epochs", 1.5), ("epochs", True), ("epochs", "3"), ("batch", 0), ("batch", 5000),
    ("learning_rate", 0), ("learning_rate", -1.0), ("learning_rate", float("nan")), ("learning_rate", float("inf")),
    ("optimizer", "lbfgs"), ("budget", "0%"), ("budget", "101%"), ("budget", "50"), ("budget", 0), ("budget", -1),
    ("budget", 1.5), ("budget", "2GiB; rm"), ("deadline_s", 0), ("deadline_s", -5), ("deadline_s", 1e9),
    ("validation_share", 0), ("validation_share", 1), ("patience", -1), ("margin", -0.1), ("margin", 1.5),
    ("seed", -1), ("seed", 1 << 63), ("publish", 1), ("publish", None), ("conditions", []), ("conditions", None),
    ("conditions.only_idle_s", 0), ("conditions.charging", "yes"), ("conditions.below_celsius", 1000),
    ("conditions.window", "22-6"), ("conditions.window", "24:00-06:00"), ("conditions.window", "22:60-06:00"),
]  # fmt: skip


def test_a_request_survives_json() -> None:
    """Every field of a request comes back as it was asked for."""
    request = JobRequest.from_json(FULL)
    assert request.conditions == Conditions(5, True, 70.5, "22:00-06:00")
    assert JobRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


def test_a_model_is_enough() -> None:
    """All but the model has a default."""
    assert JobRequest.from_json({"model": "bert_mini"}) == JobRequest("bert_mini")


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_value_is_named(field: str, value: object) -> None:
    """A value out of range or of another type is refused, and the message names the field and what it must be."""
    content = json.loads(json.dumps(FULL))
    where, _, name = field.rpartition(".")
    (content[where] if where else content)[name] = value
    with pytest.raises(JobInvalid, match="must be") as caught:
        JobRequest.from_json(content)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({}, "model"),
        ([], "request"),
        ("start", "request"),
        ({"model": "m", "epoch": 3}, "request.'epoch'"),
        ({"model": "m", "conditions": {"idle": 3}}, "conditions.'idle'"),
        ({"model": "m", 3: 4}, "request.3"),
    ],
)
def test_unknown_and_missing_fields_are_refused(content: object, field: str) -> None:
    """A mistyped field is an error, not a default."""
    with pytest.raises(JobInvalid) as caught:
        JobRequest.from_json(content)
    assert caught.value.field == field


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FULL, "x", *FULL["conditions"]]), inner)
        ),
        max_leaves=8,
    )
)
def test_any_json_is_a_request_or_refused(content: object) -> None:
    """Whatever arrives becomes a sound request or `JobInvalid`, never another error."""
    with contextlib.suppress(JobInvalid):
        request = JobRequest.from_json(content)
        assert JobRequest.from_json(request.to_json()) == request


def test_a_status_survives_json() -> None:
    """Every field of a status comes back."""
    status = JobStatus("a" * 22, JobRequest.from_json(FULL), JobState.PAUSED, "tuning", 3, 9, loss=0.5, version=2)
    assert JobStatus.from_json(json.loads(json.dumps(status.to_json()))) == status


def test_only_ends_are_ends() -> None:
    """Done, failed and cancelled jobs have ended; a paused one has not."""
    assert {state.value for state in JobState if state.ended} == {"done", "failed", "cancelled"}
