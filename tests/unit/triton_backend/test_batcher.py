# SPDX-License-Identifier: Apache-2.0
"""The worker answers everybody exactly once, whatever the engine, the client or the server do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_fakes import FakeReply

from telemetry.instance_page import Counter, InstancePage, Knobs, Status
from triton_backend.batcher import Batcher
from triton_backend.errors import BadRequest
from triton_backend.inbound import Inbound
from triton_backend.parameters import BackendConfig
from triton_backend.recorder import Recorder
from triton_backend.tally import Tally
from triton_backend.tensors import Tensors

ONE = [{"name": "A", "data_type": "TYPE_FP32", "dims": ["1"]}]
OUT = [{"name": "O", "data_type": "TYPE_FP32", "dims": ["1"]}]


class ScriptedEngine:
    """Doubles its input; 1 raises, 2 is the request's fault, 3 loses the output, 4 answers one row short."""

    def __init__(self, *, in_thread: bool = False) -> None:
        self.in_thread = in_thread
        self.begun = 0
        self.batches: list[int] = []
        self.seen: list[float] = []
        self.free = threading.Event()
        self.free.set()

    def run(self, inputs: Tensors) -> Tensors:
        self.begun += 1
        assert self.free.wait(60)
        a = inputs["A"]
        self.batches.append(len(a))
        self.seen += a.ravel().tolist()
        if (a == 1).any():
            raise RuntimeError("out of memory")
        if (a == 2).any():
            raise BadRequest("no such token")
        if (a == 3).any():
            return {}
        return {"O": a[1:] * 2 if (a == 4).any() else a * 2}

    def close(self) -> None:
        self.free.set()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[InstancePage]:
    page = InstancePage.create(tmp_path / "one.page")
    yield page
    page.remove()


class Desk:
    """A batcher with its engine, and what the clients got."""

    def __init__(
        self, config: BackendConfig, page: InstancePage, engine: ScriptedEngine, clock_ns: Callable[[], int]
    ) -> None:
        self.engine, self.page, self.clock_ns = engine, page, clock_ns
        self.slept_s: list[float] = []
        recorder = Recorder(page, Tally(), Knobs(config.max_batch, 0), config.max_batch)
        self.batcher = Batcher(engine, config, recorder, clock_ns=clock_ns, sleep=self.slept_s.append)
        self.batcher.start()

    def ask(self, *values: float, reply: FakeReply | None = None, age_s: float = 0.0, **options: Any) -> FakeReply:
        reply = reply or FakeReply()
        array = np.array([[value] for value in values], np.float32)
        inbound = Inbound({"A": array}, len(values), (("A", (1,)),), options.get("priority", 0), 0)
        self.batcher.submit([(inbound, reply)], self.clock_ns() - int(age_s * 1e9))
        return reply

    def hold(self, samples: int = 1) -> FakeReply:
        """Occupy the engine until `engine.free` is set."""
        self.engine.free.clear()
        occupant = self.ask(*[0] * samples)
        until(lambda: self.page.in_flight == 1 and self.batcher.depth == 0)
        return occupant

    @property
    def statuses(self) -> list[Status]:
        return [sample.status for sample in self.page.samples_since(0)[0]]


def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


@pytest.fixture
def desk(make_config: Callable[..., BackendConfig], page: InstancePage) -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(*, in_thread: bool = False, clock_ns: Callable[[], int] = time.monotonic_ns, **changes: Any) -> Desk:
        config = make_config(input=ONE, output=OUT, parameters={"engine": "torch"}, **changes)
        desks.append(Desk(config, page, ScriptedEngine(in_thread=in_thread), clock_ns))
        return desks[-1]

    yield make
    for one in desks:
        one.engine.free.set()
        one.batcher.close()


def test_each_gets_its_own_rows(desk: Callable[..., Desk]) -> None:
    """Requests of several samples share a batch up to the limit, and each gets exactly its own rows back."""
    mine = desk()
    occupant = mine.hold()
    replies = [mine.ask(*range(10 * index, 10 * index + index + 1)) for index in range(1, 5)]
    mine.engine.free.set()
    until(lambda: all(reply.sent for reply in (*replies, occupant)))
    for index, reply in enumerate(replies, start=1):
        assert reply.outputs is not None
        expected = [2.0 * value for value in range(10 * index, 10 * index + index + 1)]
        assert reply.outputs["O"].ravel().tolist() == expected
    assert mine.engine.batches == [1, 5, 4, 5]


def test_a_failing_request_harms_no_other(desk: Callable[..., Desk]) -> None:
    """When a batch fails, each of its requests is tried alone: the good are answered, the bad get their own error."""
    mine = desk()
    mine.hold()
    replies = {value: mine.ask(value) for value in (5, 1, 6, 2, 3, 7)}
    mine.engine.free.set()
    until(lambda: all(reply.sent for reply in replies.values()))
    assert [replies[value].refusal for value in (5, 6, 7)] == [None] * 3
    assert replies[1].refusal == (Status.FAILED, "RuntimeError: out of memory")
    assert replies[2].refusal == (Status.INVALID, "no such token")
    refusal = replies[3].refusal
    assert refusal is not None
    assert "did not return output 'O'" in refusal[1]


def test_everybody_is_answered_once(desk: Callable[..., Desk]) -> None:
    """Good, failing, cancelled and undeliverable requests in any mix: one answer each, the gate ends open."""
    mine = desk()
    mine.hold()
    replies = []
    for index in range(60):
        reply = FakeReply(cancelled=index % 7 == 0, fail=index % 11 == 0)
        replies.append(mine.ask(index % 6, reply=reply, age_s=1.0))
    mine.engine.free.set()
    until(lambda: all(reply.sent for reply in replies))
    until(lambda: mine.page.in_flight == 0)
    assert [reply.sent for reply in replies] == [1] * 60
    assert mine.page.counter(Counter.REQUESTS) == 61
    assert mine.page.oldest_arrival_ns == 0
    for reply in replies[::7]:
        assert reply.refusal is not None
        assert reply.refusal[0] is Status.CANCELLED


def test_queue_size(desk: Callable[..., Desk]) -> None:
    """Beyond max_queue_size waiting requests a new one is rejected at once, and counted."""
    mine = desk(dynamic_batching={"default_queue_policy": {"max_queue_size": 3}})
    mine.hold()
    replies = [mine.ask(5) for _ in range(5)]
    assert [reply.refusal and reply.refusal[0] for reply in replies] == [None] * 3 + [Status.REJECTED] * 2
    assert mine.statuses.count(Status.REJECTED) == 2
    assert mine.page.in_flight == 4


def test_delayed_requests_go_last(desk: Callable[..., Desk]) -> None:
    """Under DELAY a request that has waited too long is not refused; it goes after the others of its level."""
    policy = {"timeout_action": "DELAY", "default_timeout_microseconds": 50_000}
    mine = desk(max_batch_size=1, dynamic_batching={"default_queue_policy": policy})
    mine.hold()
    late = mine.ask(5, age_s=1.0)
    fresh = mine.ask(6)
    mine.engine.free.set()
    until(lambda: bool(late.sent and fresh.sent))
    assert mine.engine.seen == [0, 6, 5]


def test_close_serves_what_waits(desk: Callable[..., Desk], page: InstancePage) -> None:
    """Unloading answers every request that waits, without waiting for batches to fill."""
    page.write_knobs(Knobs(8, 900_000_000), ttl_s=60)
    now_ns = time.monotonic_ns()
    # a clock that stands still: no wait ever ends by itself
    mine = desk(clock_ns=lambda: now_ns)
    mine.hold(samples=8)
    replies = [mine.ask(5) for _ in range(3)]
    mine.engine.free.set()
    mine.batcher.close()
    assert all(reply.outputs is not None for reply in replies)
    assert not mine.batcher.alive


def test_light_models_are_served_in_place(desk: Callable[..., Desk]) -> None:
    """Once known to be quick and idle, a model is served inside `execute`; never when requests wait."""
    now_ns = [time.monotonic_ns()]
    # a clock that only moves between requests: however this host stalls, the engine is quick and mostly idle
    mine = desk(in_thread=True, clock_ns=lambda: now_ns[0])
    replies = []
    for _ in range(30):
        replies.append(mine.ask(5))
        until(lambda: bool(replies[-1].sent))
        time.sleep(0.002)
        now_ns[0] += 2_000_000
    assert replies[0].deferred
    assert not replies[-1].deferred
    assert [reply.sent for reply in replies] == [1] * 30


def test_heavy_models_are_not(desk: Callable[..., Desk]) -> None:
    """A model whose time is another's (a delegate, a GPU) always queues, so that no arrival is stamped late."""
    mine = desk()
    replies = []
    for _ in range(30):
        replies.append(mine.ask(5))
        until(lambda: bool(replies[-1].sent))
    assert all(reply.deferred for reply in replies)


def test_virtual_stretch(desk: Callable[..., Desk], page: InstancePage) -> None:
    """On a virtual board the worker sleeps for the rest of the stretched time, and charges all of it."""
    page.write_stretch((3.0,) * 8)
    mine = desk()
    mine.engine.free.clear()
    reply = mine.ask(5)
    until(lambda: mine.engine.begun == 1)
    time.sleep(0.05)
    mine.engine.free.set()
    until(lambda: bool(reply.sent))
    (slept_s,) = mine.slept_s
    assert slept_s >= 0.1
    assert page.counter(Counter.BUSY_NS) == pytest.approx(1.5 * slept_s * 1e9, rel=0.01)
    assert page.counter(Counter.BUSY_BATCH_NS) == page.counter(Counter.BUSY_NS)
