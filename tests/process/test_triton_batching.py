# SPDX-License-Identifier: Apache-2.0
"""The governed queue in a real server: limits, waits, levels, timeouts, cancellation, and the governor's knobs."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from governor.server import TritonServer
from telemetry.instance_page import Counter, InstancePage, Knobs, Status


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
    answers: Answers, open_page: Callable[[str], InstancePage], eventually: Callable[..., None]
) -> Callable[[str, float], None]:
    """Occupies a model with one request of the given length, so that what follows must queue."""

    def occupy(model: str, sleep_ms: float) -> None:
        page = open_page(model)
        eventually(lambda: page.in_flight == 0)
        answers.ask(model, x(sleep_ms), "occupant")
        eventually(lambda: page.in_flight == 1)
        time.sleep(0.02)  # the worker takes what it has been given at once; nothing shows the moment from outside

    return occupy


def test_batches_form_behind_a_busy_engine(
    answers: Answers, busy: Callable[[str, float], None], eventually: Callable[..., None]
) -> None:
    """Requests that arrive while the engine works share the next batches, up to max_batch_size, each its own shape."""
    busy("passed_on", 1000)
    for index in range(10):
        answers.ask("passed_on", x(1), f"narrow {index}")
    for index in range(3):
        answers.ask("passed_on", x(1, width=5), f"wide {index}")
    eventually(lambda: answers.complete)
    assert not answers.errors
    # calls sent together may arrive in any order
    assert sorted(answers.batches[f"narrow {index}"] for index in range(10)) == [2] * 2 + [8] * 8
    assert [answers.batches[f"wide {index}"] for index in range(3)] == [3] * 3


def test_knobs_rule_while_they_are_fresh(
    answers: Answers,
    busy: Callable[[str, float], None],
    open_page: Callable[[str], InstancePage],
    eventually: Callable[..., None],
) -> None:
    """A batch limit from the page holds from the next batch on; a dead governor's expires back to config.pbtxt."""
    page = open_page("passed_on")
    page.write_knobs(Knobs(2, 0), ttl_s=30)
    eventually(lambda: page.applied == Knobs(2, 0), within_s=1)
    busy("passed_on", 600)
    for index in range(4):
        answers.ask("passed_on", x(1), f"{index}")
    eventually(lambda: answers.complete)
    assert [answers.batches[f"{index}"] for index in range(4)] == [2] * 4
    page.write_knobs(Knobs(1, 0), ttl_s=0.2)
    eventually(lambda: page.applied == Knobs(8, 0), within_s=2)


def test_knobs_out_of_range_are_ignored_and_counted(
    open_page: Callable[[str], InstancePage], eventually: Callable[..., None]
) -> None:
    """A limit above max_batch_size or a wait above 1 s changes nothing, and is counted once."""
    page = open_page("passed_on")
    for knobs in (Knobs(9, 0), Knobs(0, 0), Knobs(4, 2_000_000_000)):
        before = page.counter(Counter.KNOBS_IGNORED)
        page.write_knobs(knobs, ttl_s=10)
        eventually(lambda before=before: page.counter(Counter.KNOBS_IGNORED) == before + 1, within_s=2)
        assert page.applied == Knobs(8, 0)
    page.write_knobs(Knobs(8, 0), ttl_s=0)


def test_batch_wait_fills_batches(
    answers: Answers, open_page: Callable[[str], InstancePage], eventually: Callable[..., None]
) -> None:
    """With a wait, requests that come one after the other share a batch; lowering it releases them."""
    page = open_page("passed_on")
    page.write_knobs(Knobs(3, 900_000_000), ttl_s=30)
    eventually(lambda: page.applied == Knobs(3, 900_000_000), within_s=1)
    begun_s = time.monotonic()
    for index in range(3):
        answers.ask("passed_on", x(1), f"{index}")
    eventually(lambda: answers.complete)
    assert list(answers.batches.values()) == [3, 3, 3]
    assert time.monotonic() - begun_s < 0.9, "a full batch does not wait"
    answers.ask("passed_on", x(1), "lonely")
    page.write_knobs(Knobs(3, 0), ttl_s=0.01)
    eventually(lambda: answers.complete)
    assert answers.batches["lonely"] == 1
    assert time.monotonic() - begun_s < 1.5


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

    clients = [threading.Thread(target=hammer, args=(number,)) for number in range(4)]
    for thread in clients:
        thread.start()
    generator = random.Random(3)
    before = page.counter(Counter.SAMPLES)
    for _ in range(60):
        knobs = Knobs(generator.choice((1, 2, 3, 5, 64)), generator.choice((0, 0, 2_000_000)))
        page.write_knobs(knobs, ttl_s=5)
        time.sleep(0.03)
    stop.set()
    for thread in clients:
        thread.join()
    page.write_knobs(Knobs(1, 0), ttl_s=0)
    assert not failures
    assert min(counts) > 10
    samples, _, _ = page.samples_since(before)
    assert {sample.status for sample in samples} == {Status.OK}
    eventually(lambda: page.in_flight == 0)


def test_queue_limit(answers: Answers, busy: Callable[[str, float], None], eventually: Callable[..., None]) -> None:
    """max_queue_size holds for requests that wait behind us, not only in Triton's own queue."""
    busy("bounded", 1500)
    for index in range(16):
        answers.ask("bounded", x(1), f"{index}")
    eventually(lambda: answers.complete)
    assert len(answers.errors) == 12
    for error in answers.errors.values():
        assert error.status() == "StatusCode.UNAVAILABLE"
        assert "maximum queue size" in error.message()


def test_levels(
    answers: Answers,
    busy: Callable[[str, float], None],
    open_page: Callable[[str], InstancePage],
    eventually: Callable[..., None],
) -> None:
    """A request of level 1 overtakes those of the default level that wait, and level 3 is overtaken by them."""
    page = open_page("levels")
    busy("levels", 1500)
    answers.ask("levels", x(30), "low", parameters={"teg_priority": 3})
    for _ in range(3):
        answers.ask("levels", x(30), "default")
    answers.ask("levels", x(30), "high", parameters={"teg_priority": 1})
    eventually(lambda: page.in_flight == 6, within_s=1.4)
    eventually(lambda: answers.complete)
    assert answers.order == ["occupant", "high", "default", "default", "default", "low"]


def test_timeouts(
    answers: Answers,
    busy: Callable[[str, float], None],
    open_page: Callable[[str], InstancePage],
    eventually: Callable[..., None],
) -> None:
    """Who has waited longer than the policy allows, or than it asked for itself, is refused unserved."""
    page = open_page("hasty")
    busy("hasty", 300)
    answers.ask("hasty", x(800), "in time")
    eventually(lambda: page.in_flight == 2)  # calls sent together may arrive in any order
    answers.ask("hasty", x(1), "impatient", timeout=20_000)
    answers.ask("hasty", x(1), "too late")
    eventually(lambda: answers.complete)
    assert "in time" in answers.batches
    assert set(answers.errors) == {"impatient", "too late"}
    assert all(error.status() == "StatusCode.UNAVAILABLE" for error in answers.errors.values())


def test_cancellation(
    answers: Answers,
    busy: Callable[[str, float], None],
    open_page: Callable[[str], InstancePage],
    eventually: Callable[..., None],
) -> None:
    """A request cancelled while it waits is never executed, and leaves the gate."""
    page = open_page("passed_on")
    busy("passed_on", 1000)
    before = page.counter(Counter.SAMPLES)
    call = answers.ask("passed_on", x(250, width=3), "cancelled")
    answers.ask("passed_on", x(1, width=4), "kept")
    eventually(lambda: page.in_flight == 3)
    call.cancel()
    eventually(lambda: answers.complete)
    eventually(lambda: page.in_flight == 0)
    samples, _, _ = page.samples_since(before)
    assert sorted(sample.status for sample in samples) == [Status.OK, Status.OK, Status.CANCELLED]
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
        for _ in range(5):
            client.infer("bert_mini", inputs)
        return (page.counter(Counter.BUSY_NS) - before) / 5e9

    try:
        plain_s = busy_s()
        page.write_stretch((8.0,) * 8)
        cursor = page.counter(Counter.SAMPLES)
        stretched_s = busy_s()
        samples, _, _ = page.samples_since(cursor)
    finally:
        page.write_stretch((1.0,) * 8)
    assert 4 < stretched_s / plain_s < 16
    # in wall time as well: the answer left only when the stretched time was over
    assert min(sample.service_s for sample in samples) > 4 * plain_s
