# SPDX-License-Identifier: Apache-2.0
"""The instance page: gate, counters, ring, knobs and stretch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.instance_page import (
    RING,
    STRETCH_BATCHES,
    Counter,
    InstanceInfo,
    InstancePage,
    Knobs,
    Sample,
    Status,
)
from telemetry.pages import HEARTBEAT

INFO = InstanceInfo("digits_cnn", "1", "digits_cnn_0_0", "resnet", 64, 500_000, 0.05, 0.99, 1.0)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[InstancePage]:
    made = InstancePage.create(tmp_path / "digits_cnn_0_0.page")
    yield made
    made.close()


def sample(number: int) -> Sample:
    return Sample(number * 10, number * 10 + 2, number * 10 + 5, number % 7 + 1, Status(number % 6))


def test_a_new_page_says_nothing(page: InstancePage) -> None:
    """Nothing in flight, no knobs, no description, no samples, no stretch."""
    assert (page.in_flight, page.oldest_arrival_ns) == (0, 0)
    assert (page.info, page.applied, page.read_knobs(0)) == (None, None, None)
    assert page.samples_since(0) == ([], 0, 0)
    assert page.stretch(1) == 1.0
    assert all(page.counter(counter) == 0 for counter in Counter)


def test_the_gate_is_seen_by_other_mappings(page: InstancePage) -> None:
    """A trainer that mapped the page sees a request in flight without asking anybody."""
    trainer = InstancePage.open(page.path)
    page.set_gate(3, 1234)
    assert (trainer.in_flight, trainer.oldest_arrival_ns) == (3, 1234)
    page.set_gate(0, 0)
    assert trainer.in_flight == 0
    trainer.close()


def test_the_description_comes_back(page: InstancePage) -> None:
    """Names, limits and the objective are read as written; a name too long is cut, not refused."""
    page.write_info(INFO)
    assert page.info == INFO
    page.write_info(InstanceInfo("m" * 80, "1", "i", "w", 1, 0, 0.0, 0.99, 1.0))
    assert page.info is not None
    assert page.info.model == "m" * 64


def test_counters_only_count_their_own(page: InstancePage) -> None:
    """Each counter has its own word, apart from the gate's and the header's."""
    beaten_ns = page.words[HEARTBEAT]
    page.set_gate(5, 6)
    for number, counter in enumerate(Counter, start=1):
        page.count(counter, number)
    assert [page.counter(counter) for counter in Counter] == list(range(1, len(Counter) + 1))
    assert (page.in_flight, page.oldest_arrival_ns) == (5, 6)
    assert page.words[HEARTBEAT] == beaten_ns


def test_samples_come_back_in_order(page: InstancePage) -> None:
    """A reader that keeps its cursor gets every sample once."""
    for number in range(10):
        page.add_sample(sample(number))
    first, cursor, lost = page.samples_since(0)
    assert (first, cursor, lost) == ([sample(n) for n in range(10)], 10, 0)
    page.add_sample(sample(10))
    assert page.samples_since(cursor) == ([sample(10)], 11, 0)
    assert page.samples_since(11) == ([], 11, 0)


def test_a_late_reader_is_told_what_it_missed(page: InstancePage) -> None:
    """The ring keeps the newest samples and counts those that were overwritten unread."""
    for number in range(RING + 25):
        page.add_sample(sample(number))
    samples, cursor, lost = page.samples_since(5)
    assert (cursor, lost) == (RING + 25, 20)
    assert samples == [sample(n) for n in range(25, RING + 25)]


def test_latency_and_service_are_seconds() -> None:
    """Latency counts from the arrival, service from the start of the batch."""
    seen = Sample(1_000_000_000, 1_500_000_000, 3_000_000_000, 4, Status.OK)
    assert (seen.latency_s, seen.service_s) == (2.0, 1.5)


def test_knobs_expire(page: InstancePage) -> None:
    """Knobs hold until their time is up, and not one nanosecond longer; then config.pbtxt holds again."""
    before_ns = time.monotonic_ns()
    page.write_knobs(Knobs(8, 2_000_000), ttl_s=5.0)
    after_ns = time.monotonic_ns()
    assert page.read_knobs(after_ns) == Knobs(8, 2_000_000)
    assert page.read_knobs(before_ns + 5_000_000_000 - 1) == Knobs(8, 2_000_000)
    assert page.read_knobs(after_ns + 5_000_000_000) is None


def test_knobs_are_renewed(page: InstancePage) -> None:
    """Writing again sets both values and a new expiry."""
    page.write_knobs(Knobs(8, 0), ttl_s=0.0)
    assert page.read_knobs(time.monotonic_ns()) is None
    page.write_knobs(Knobs(2, 7), ttl_s=60.0)
    assert page.read_knobs(time.monotonic_ns()) == Knobs(2, 7)
    page.write_applied(Knobs(2, 7))
    assert page.applied == Knobs(2, 7)


def test_stretch_is_that_of_the_nearest_sizes(page: InstancePage) -> None:
    """At a published batch size the factor is exact, between two it lies on their line, beyond the last it stays."""
    factors = tuple(1.0 + 0.25 * n for n in range(len(STRETCH_BATCHES)))
    page.write_stretch(factors)
    assert [page.stretch(batch) for batch in STRETCH_BATCHES] == list(factors)
    assert page.stretch(3) == pytest.approx((factors[1] + factors[2]) / 2)
    assert page.stretch(1000) == factors[-1]


@given(st.integers(1, 500))
def test_stretch_lies_within_what_was_published(batch: int) -> None:
    """No batch size is stretched more or less than any that was published."""
    memory = InstancePage.__new__(InstancePage)
    memory.memory = bytearray(InstancePage.size)  # type: ignore[assignment]
    memory.write_stretch((1.5, 1.1, 2.0, 1.7, 3.0, 1.2, 1.9, 1.4))
    assert 1.1 <= memory.stretch(batch) <= 3.0
