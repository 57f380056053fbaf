# SPDX-License-Identifier: Apache-2.0
"""The governed queue in a real server: limits, waits, levels, timeouts, cancellation, and the governor's knobs."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from triton_repo import HELD, Hold
from tritonclient.utils import InferenceServerException

from governor.server import TritonServer
from telemetry.instance_page import Counter, InstancePage, Knobs, Sample, Status
from triton_backend.recorder import GLANCE_NS

Busy = Callable[[str], Callable[[], None]]
LONG_S = 300.0
"""Time to live of knobs that must not expire in a test."""


def x(sleep_ms: float, width: int = 2, samples: int = 1, name: str = "X") -> list[Any]:
    array = np.full((samples, width), sleep_ms, np.float32)
    given = grpc.InferInput(name, array.shape, "FP32")
    given.set_data_from_numpy(array)
    return [given]


@dataclass
class Answers:
    """Collects asynchronous answers in the order in which they come."""

    client: grpc.InferenceServerClient
    order: list[str] = field(default_factory=list)
    batches: dict[str, int] = field(default_factory=dict)
    errors: dict[str, InferenceServerException] = field(default_factory=dict)
    _sent: int = 0

    def ask(self, model: str, inputs: list[Any], label: str, **options: Any) -> Any:
        self._sent += 1
        return self.client.async_infer(model, inputs, lambda result, error: self._take(label, result, error), **options)

    def _take(self, label: str, result: Any, error: InferenceServerException | None) -> None:
        if error is not None:
            self.errors[label] = error
        else:
            self.batches[label] = int(result.as_numpy("BATCH")[0, 0])
        self.order.append(label)

    @property
    def complete(self) -> bool:
        return len(self.order) == self._sent


@pytest.fixture
def answers(client: grpc.InferenceServerClient) -> Answers:
    return Answers(client)


@pytest.fixture
def busy(
    server: TritonServer,
    answers: Answers,
    open_page: Callable[[str], InstancePage],
    eventually: Callable[..., None],
) -> Iterator[Busy]:
    """Occupies a model with one request, until what comes back is called: whatever is asked until then must queue."""
    hold = Hold(server.run_dir.root)

    def occupy(model: str) -> Callable[[], None]:
        page = open_page(model)
        eventually(lambda: page.in_flight == 0)
        hold.begin()
        answers.ask(model, x(HELD), "occupant")
        eventually(hold.reached)
        return hold.end

    yield occupy
    hold.end()
    eventually(lambda: not hold.reached())


def test_batches_form_behind_a_busy_engine(
    answers: Answers, busy: Busy, open_page: Callable[[str], InstancePage], eventually: Callable[..., None]
) -> None:
    """Requests that arrive while the engine works share the next batches, up to max_batch_size, each its own shape."""
    page = open_page("passed_on")
    release = busy("passed_on")
    for index in range(10):
        answers.ask("passed_on", x(1), f"narrow {index}")
    for index in range(3):
        answers.ask("passed_on", x(1, width=5), f"wide {index}")
    eventually(lambda: page.in_flight == 14)
    release()
    eventually(lambda: answers.complete)
    assert not answers.errors
    # calls sent together may arrive in any order
    assert sorted(answers.batches[f"narrow {index}"] for index in range(10)) == [2] * 2 + [8] * 8
    assert [answers.batches[f"wide {index}"] for index in range(3)] == [3] * 3


def test_knobs_rule_while_they_are_fresh(
    answers: Answers, busy: Busy, open_page: Callable[[str], InstancePage], eventually: Callable[..., None]
) -> None:
    """A batch limit from the page holds from the next batch on; a dead governor's expires back to config.pbtxt."""
    page = open_page("passed_on")
    page.write_knobs(Knobs(2, 0), ttl_s=LONG_S)
    eventually(lambda: page.applied == Knobs(2, 0))
    release = busy("passed_on")
    for index in range(4):
        answers.ask("passed_on", x(1), f"{index}")
    eventually(lambda: page.in_flight == 5)
    release()
    eventually(lambda: answers.complete)
    assert [answers.batches[f"{index}"] for index in range(4)] == [2] * 4
    page.write_knobs(Knobs(1, 0), ttl_s=0.2)
    eventually(lambda: page.applied == Knobs(8, 0))


def test_knobs_out_of_range_are_ignored_and_counted(
    open_page: Callable[[str], InstancePage], eventually: Callable[..., None]
) -> None:
    """A limit above max_batch_size or a wait above 1 s changes nothing, and is counted once."""
    page = open_page("passed_on")
    eventually(lambda: page.applied == Knobs(8, 0))
    begun = page.counter(Counter.KNOBS_IGNORED)
    for count, knobs in enumerate((Knobs(9, 0), Knobs(0, 0), Knobs(4, 2_000_000_000)), start=1):
        page.write_knobs(knobs, ttl_s=LONG_S)
        eventually(lambda count=count: page.counter(Counter.KNOBS_IGNORED) == begun + count)
        assert page.applied == Knobs(8, 0)


def test_batch_wait_fills_batches(
    answers: Answers, open_page: Callable[[str], InstancePage], eventually: Callable[..., None]
) -> None:
    """With a wait, requests that come one after the other share a batch, which starts at once when it is full."""
    page, waits = open_page("passed_on"), Knobs(3, 900_000_000)
    page.write_knobs(waits, ttl_s=LONG_S)
    eventually(lambda: page.applied == waits)
    undisturbed = 0
    for number in range(5):
        cursor = page.counter(Counter.SAMPLES)
        for index in range(3):
            answers.ask("passed_on", x(1), f"{number} {index}")
        eventually(lambda: answers.complete)
        samples, _, _ = page.samples_since(cursor)
        for sample in samples:
            queued_s = max(queue_s(other) for other in samples if other.start_ns == sample.start_ns)
            assert sample.batch == 3 or queued_s >= 0.9
        undisturbed += [sample.batch for sample in samples if queue_s(sample) < 0.9] == [3, 3, 3]
    # a host that stalls in the middle of three requests makes two batches of them, rightly
    assert undisturbed
    assert not answers.errors


def test_lowering_the_wait_releases_who_waits(
    answers: Answers, open_page: Callable[[str], InstancePage], eventually: Callable[..., None]
) -> None:
    """A lonely request waits for company as long as the knob says, and no longer once it says less."""
    page, waits = open_page("passed_on"), Knobs(3, 900_000_000)

    def lonely_s(then: Knobs) -> float:
        page.write_knobs(waits, ttl_s=LONG_S)
        eventually(lambda: page.applied == waits)
        cursor = page.counter(Counter.SAMPLES)
        answers.ask("passed_on", x(1), "lonely")
        eventually(lambda: page.in_flight == 1 or answers.complete)
        page.write_knobs(then, ttl_s=LONG_S)
        eventually(lambda: answers.complete)
        (sample,), _, _ = page.samples_since(cursor)
        assert sample.batch == 1
        return queue_s(sample)

    assert lonely_s(waits) >= 0.9
    # the quickest of three: a host that stalls lengthens one
    assert min(lonely_s(Knobs(3, 0)) for _ in range(3)) < 0.9


def queue_s(sample: Sample) -> float:
    """How long a request waited before its batch began, by the server's own clock."""
    return (sample.start_ns - sample.arrival_ns) / 1e9


def test_batch_limit_changes_under_load_without_a_failure(
    server: TritonServer, open_page: Callable[[str], InstancePage], eventually: Callable[..., None]
) -> None:
    """Clients that hammer a torch model while its batch limit moves all the time get every answer, each its own."""
    page = open_page("digits_cnn")
    stop = threading.Event()
    failures: list[str] = []
    counts = [0] * 4

    def hammer(number: int) -> None:
        images = np.random.default_rng(number).random((1 + number, 1, 8, 8), np.float32)
        given = grpc.InferInput("IMAGE", images.shape, "FP32")
        given.set_data_from_numpy(images)
        with grpc.InferenceServerClient(server.grpc_url) as client:
            expected = client.infer("digits_cnn", [given]).as_numpy("LOGITS")
            while not stop.is_set():
                try:
                    answer = client.infer("digits_cnn", [given]).as_numpy("LOGITS")
                except InferenceServerException as error:
                    failures.append(str(error))
                    return
                if not np.allclose(answer, expected, atol=1e-4):
                    failures.append(f"client {number} got another's answer")
                counts[number] += 1

    def move() -> bool:
        knobs = Knobs(generator.choice((1, 2, 3, 5, 64)), generator.choice((0, 0, 2_000_000)))
        page.write_knobs(knobs, ttl_s=LONG_S)
        moves.append(knobs)
        time.sleep(0.02)
        return bool(failures) or (len(moves) >= 60 and min(counts) > 10)

    clients = [threading.Thread(target=hammer, args=(number,)) for number in range(4)]
    generator, moves = random.Random(3), list[Knobs]()
    before = page.counter(Counter.SAMPLES)
    for thread in clients:
        thread.start()
    try:
        eventually(move)
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    assert not failures
    samples, _, _ = page.samples_since(before)
    assert {sample.status for sample in samples} == {Status.OK}
    eventually(lambda: page.in_flight == 0)


def test_queue_limit(answers: Answers, busy: Busy, eventually: Callable[..., None]) -> None:
    """max_queue_size holds for requests that wait behind us, not only in Triton's own queue."""
    release = busy("bounded")
    for index in range(16):
        answers.ask("bounded", x(1), f"{index}")
    eventually(lambda: len(answers.errors) == 12)
    assert not answers.batches
    release()
    eventually(lambda: answers.complete)
    assert len(answers.errors) == 12
    for error in answers.errors.values():
        assert error.status() == "StatusCode.UNAVAILABLE"
        assert "maximum queue size" in error.message()


def test_levels(
    answers: Answers, busy: Busy, open_page: Callable[[str], InstancePage], eventually: Callable[..., None]
) -> None:
    """A request of level 1 overtakes those of the default level that wait, and level 3 is overtaken by them."""
    page = open_page("levels")
    release = busy("levels")
    cursor = page.counter(Counter.SAMPLES)
    for count, level in enumerate((3, None, None, None, 1), start=2):
        answers.ask("levels", x(1), f"{count}", parameters={"teg_priority": level} if level else None)
        eventually(lambda count=count: page.in_flight == count)
    release()
    eventually(lambda: answers.complete)
    assert not answers.errors
    served, _, _ = page.samples_since(cursor)
    came = sorted(sample.arrival_ns for sample in served)
    occupant, low, *default, high = range(6)
    assert [came.index(sample.arrival_ns) for sample in served] == [occupant, high, *default, low]


def test_timeouts(
    answers: Answers, busy: Busy, open_page: Callable[[str], InstancePage], eventually: Callable[..., None]
) -> None:
    """Who has waited longer than the policy allows, or than it asked for itself, is refused unserved."""
    page = open_page("hasty")
    release = busy("hasty")
    answers.ask("hasty", x(1), "in time")
    answers.ask("hasty", x(1), "impatient", timeout=20_000)
    answers.ask("hasty", x(1), "too late", parameters={"teg_priority": 2})
    eventually(lambda: page.in_flight + len(answers.errors) == 4)
    time.sleep(0.15)  # longer than the level's 100 ms; "in time" may wait for a minute
    release()
    eventually(lambda: answers.complete)
    assert "in time" in answers.batches
    assert set(answers.errors) == {"impatient", "too late"}
    assert all(error.status() == "StatusCode.UNAVAILABLE" for error in answers.errors.values())


def test_cancellation(
    answers: Answers, busy: Busy, open_page: Callable[[str], InstancePage], eventually: Callable[..., None]
) -> None:
    """A request cancelled while it waits is never executed, and leaves the gate."""
    page = open_page("passed_on")
    release = busy("passed_on")
    before = page.counter(Counter.SAMPLES)
    call = answers.ask("passed_on", x(1, width=3), "cancelled")
    answers.ask("passed_on", x(1, width=4), "kept")
    eventually(lambda: page.in_flight == 3)
    call.cancel()
    answers.ask("passed_on", x(1, width=5), "behind")
    # one connection keeps its order: the server has heard of the cancellation when it has answered what came after
    eventually(lambda: page.in_flight == 4)
    for _ in range(10):
        assert answers.client.is_model_ready("passed_on")
    release()
    eventually(lambda: answers.complete)
    eventually(lambda: page.in_flight == 0)
    samples, _, _ = page.samples_since(before)
    assert sorted(sample.status for sample in samples) == [Status.OK] * 3 + [Status.CANCELLED]
    assert page.oldest_arrival_ns == 0


def test_virtual_stretch(
    client: grpc.InferenceServerClient, open_page: Callable[[str], InstancePage], eventually: Callable[..., None]
) -> None:
    """On a virtual board a batch takes longer by the published factor, and is charged for it."""
    page = open_page("bert_mini")
    inputs = [grpc.InferInput(name, (1, 64), "INT64") for name in ("INPUT_IDS", "ATTENTION_MASK")]
    for given in inputs:
        given.set_data_from_numpy(np.ones((1, 64), np.int64))

    def busy_s() -> float:
        before = page.counter(Counter.BUSY_NS)
        client.infer("bert_mini", inputs)
        return (page.counter(Counter.BUSY_NS) - before) / 1e9

    def least_busy_s() -> float:
        """The undisturbed one of eight: the clock of a thread also runs while a virtual machine's core is taken."""
        return min(busy_s() for _ in range(8))

    try:
        plain_s = least_busy_s()
        page.write_stretch((8.0,) * 8)
        time.sleep(2e-9 * GLANCE_NS)  # older than this a factor is read again
        cursor = page.counter(Counter.SAMPLES)
        stretched_s = least_busy_s()
        samples, _, _ = page.samples_since(cursor)
    finally:
        page.write_stretch((1.0,) * 8)
    assert 4 < stretched_s / plain_s < 16
    # in wall time as well: the answer left only when the stretched time was over
    assert min(sample.service_s for sample in samples) > 4 * plain_s
