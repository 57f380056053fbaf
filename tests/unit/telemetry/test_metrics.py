# SPDX-License-Identifier: Apache-2.0
"""Metric names follow Prometheus, each defined once."""

from __future__ import annotations

import re

import pytest

from telemetry.metrics import BACKEND, BATCH_BUCKETS, GOVERNOR, LATENCY_BUCKETS_S, Metric

ALL = (*BACKEND, *GOVERNOR)
BASE_UNITS = ("seconds", "joules", "watts", "hertz", "celsius", "bytes", "ratio")
OTHER_UNITS = r"_(ms|us|ns|millis\w*|minutes|hours|mw|kw|khz|mhz|ghz|kb|mb|kib|mib|percent|kelvin)(_|$)"


def test_each_name_is_defined_once() -> None:
    """Two families of one name would be refused by every scraper."""
    names = [metric.name for metric in ALL]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: Metric) -> None:
    """Prefix `teg_`, snake case, base units only, and `_total` on counters and on nothing else."""
    assert re.fullmatch(r"teg_[a-z][a-z0-9]*(_[a-z0-9]+)*", metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert not re.search(OTHER_UNITS, metric.name)
    assert not metric.name.endswith(("_count", "_sum", "_bucket"))
    units = [unit for unit in BASE_UNITS if unit in metric.name.split("_")]
    assert len(units) <= 1, "one unit a name"


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_help_is_a_sentence(metric: Metric) -> None:
    """Each family says what it is, in one line that ends with a full stop and is not the name again."""
    assert metric.help.endswith(".")
    assert "\n" not in metric.help
    assert len(metric.help.split()) >= 2


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_labels_are_names_that_prometheus_takes(metric: Metric) -> None:
    """Labels are snake case, distinct, and not among those that Prometheus keeps for itself."""
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in metric.labels)
    assert len(set(metric.labels)) == len(metric.labels)
    assert not {"le", "quantile_", "job", "instance"} & set(metric.labels)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_histograms_alone_have_buckets(metric: Metric) -> None:
    """Buckets ascend and are finite; the endless one is added by who exports."""
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_buckets_cover_what_is_served() -> None:
    """Latency buckets reach from a millisecond to seconds; batch buckets hold every power of two up to 64."""
    assert LATENCY_BUCKETS_S[0] <= 0.001
    assert LATENCY_BUCKETS_S[-1] >= 2.5
    assert BATCH_BUCKETS == (1, 2, 4, 8, 16, 32, 64)


def test_the_backend_names_model_and_version() -> None:
    """Each of the backend's families carries the labels by which Triton's own are told apart."""
    assert all(metric.labels[:2] == ("model", "version") for metric in BACKEND)
