# SPDX-License-Identifier: Apache-2.0
"""No operation that Triton would refuse ever reaches it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.instance_page import Sample, Status
from telemetry.metrics import BACKEND, Metric
from triton_backend.metrics import Exporter, Family, acceptable
from triton_backend.tally import MAX_OBSERVATIONS, Reservoir, Tally

LABELS = {"model": "m", "version": "1"}
COUNTER = Metric("teg_things_total", "counter", "Things.", ("model",))
GAUGE = Metric("teg_level", "gauge", "Level.", ("model",))
HISTOGRAM = Metric("teg_size", "histogram", "Size.", ("model",), (1.0, 2.0))


class StrictFamily:
    """Triton's MetricFamily with its refusals, each of which could abort a real server."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
    series: dict[tuple[str, tuple[str, ...]], Any]

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name, self.kind, self.made = name, kind, []

    def Metric(self, labels: Mapping[str, str], buckets: list[float] | None = None) -> Any:  # noqa: N802 - Triton's name
        assert (buckets is not None) == (self.kind == "histogram")
        self.made.append(StrictMetric(self.kind, dict(labels)))
        return self.made[-1]


class StrictMetric:
    def __init__(self, kind: str, labels: dict[str, str]) -> None:
        self.kind, self.labels, self.value, self.observed = kind, labels, 0.0, []

    def increment(self, value: float) -> None:
        assert self.kind == "counter"
        assert value >= 0
        assert math.isfinite(value)
        self.value += value

    def set(self, value: float) -> None:
        assert self.kind == "gauge"
        assert math.isfinite(value)
        self.value = value

    def observe(self, value: float) -> None:
        assert self.kind == "histogram"
        assert math.isfinite(value)
        self.observed.append(value)


@given(
    st.sampled_from([COUNTER, GAUGE, HISTOGRAM]),
    st.lists(
        st.tuples(
            st.sampled_from(["increment", "set", "observe"]),
            st.floats(allow_nan=True, allow_infinity=True),
            st.sampled_from([{"model": "m"}, {"model": "n"}, {}, {"other": "m"}]),
        )
    ),
)
def test_whatever_is_asked(metric: Metric, operations: list[tuple[str, float, dict[str, str]]]) -> None:
    """Any sequence of operations either reaches a strict server as one that it takes, or is counted as dropped."""
    family = Family(metric, StrictFamily)
    for name, value, labels in operations:
        getattr(family, name)(value, labels)
    right = {"counter": "increment", "gauge": "set", "histogram": "observe"}[metric.kind]
    taken = [
        value
        for name, value, labels in operations
        if name == right and math.isfinite(value) and list(labels) == ["model"] and (value >= 0 or right != "increment")
    ]
    assert family.drops == len(operations) - len(taken)


@pytest.mark.parametrize(
    "metric",
    [
        Metric("teg things", "counter", ""),
        Metric("", "counter", ""),
        Metric("teg_a", "counter", "", ("le gal",)),
        Metric("teg_a", "counter", "", ("__name",)),
        Metric("teg_a", "counter", "", (), (1.0,)),
        Metric("teg_a", "histogram", ""),
        Metric("teg_a", "histogram", "", (), (2.0, 1.0)),
        Metric("teg_a", "histogram", "", (), (1.0, math.inf)),
    ],
)
def test_declarations(metric: Metric) -> None:
    """A name, label or bucket list that Triton would refuse never gets there."""
    assert not acceptable(metric)
    with pytest.raises(ValueError, match="refuse"):
        Family(metric, StrictFamily)


def test_ours_are_acceptable() -> None:
    """Every metric of the backend is one that Triton takes."""
    assert all(acceptable(metric) for metric in BACKEND)


def test_push() -> None:
    """A tally reaches the server under its model's labels: counts exactly, histograms by observations."""
    families: dict[str, StrictFamily] = {}

    class Recording(StrictFamily):
        def __init__(self, name: str, description: str, kind: str) -> None:
            super().__init__(name, description, kind)
            families[name] = self

    exporter = Exporter(Recording, LABELS)
    tally = Tally(queue_depth=3, batch_limit=8)
    for _ in range(5):
        tally.request(Sample(0, 1_000_000, 3_000_000, 5, Status.OK))
    tally.request(Sample(0, 5, 5, 1, Status.REJECTED))
    tally.batch(5, 2_000_000)
    exporter.push(tally)
    requests = {metric.labels["status"]: metric.value for metric in families["teg_requests_total"].made}
    assert (requests["ok"], requests["rejected"], requests["failed"]) == (5, 1, 0)
    assert families["teg_busy_seconds_total"].made[0].value == 0.002
    assert families["teg_request_seconds"].made[0].observed == [0.003] * 5
    assert families["teg_queue_seconds"].made[0].observed == [0.001] * 5
    assert families["teg_batch_size"].made[0].observed == [5]
    assert families["teg_queue_depth"].made[0].value == 3
    assert families["teg_batches_total"].made[0].labels == LABELS


def test_a_server_without_metrics(caplog: pytest.LogCaptureFixture) -> None:
    """Where creating a family raises, one line is logged and serving goes on in silence."""

    class Off(StrictFamily):
        def __init__(self, name: str, description: str, kind: str) -> None:
            raise RuntimeError("metrics are disabled")

    exporter = Exporter(Off, LABELS)
    for _ in range(3):
        exporter.push(Tally())
    assert [record.message for record in caplog.records] == ["this server takes no metrics: metrics are disabled"]


@given(st.integers(0, 2000))
def test_reservoir(count: int) -> None:
    """At most `MAX_OBSERVATIONS` values are kept, evenly spread over all that came; all of them while they are few."""
    reservoir = Reservoir()
    for value in range(count):
        reservoir.add(value)
    assert len(reservoir.values) <= MAX_OBSERVATIONS
    if count <= MAX_OBSERVATIONS:
        assert reservoir.values == list(range(count))
    else:
        assert len(reservoir.values) >= MAX_OBSERVATIONS // 2
        steps = {after - before for before, after in zip(reservoir.values, reservoir.values[1:], strict=False)}
        assert len(steps) == 1
