# SPDX-License-Identifier: Apache-2.0
"""One virtual GPU: a batch waits for the operation that training has under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from backend_fakes import FakeReply

from telemetry.instance_page import STRETCH_BATCHES, InstancePage, Knobs
from telemetry.pages import HEARTBEAT
from telemetry.trainer_page import ENDLESS_NS, TrainerPage
from triton_backend.batcher import Batcher
from triton_backend.identity_engine import IdentityEngine
from triton_backend.inbound import Inbound
from triton_backend.parameters import BackendConfig
from triton_backend.recorder import Recorder
from triton_backend.tally import Tally
from triton_backend.turns import POLL_S, SCAN_NS, SILENT_NS, Turns

MS = 1_000_000


class World:
    """A trainer that beats, and time that passes only in `sleep`."""

    def __init__(self, folder: Path) -> None:
        self.page = TrainerPage.create(folder / "trainer.page")
        self.now_ns = int(self.page.words[HEARTBEAT])
        self.free_ns = 0
        self.turns = Turns(folder / "trainer.page", lambda: self.now_ns, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(1e9 * seconds)
        if self.free_ns and self.now_ns >= self.free_ns:
            self.page.occupy(0)

    def waited_s(self) -> float:
        begin_ns = self.now_ns
        self.turns.wait()
        return (self.now_ns - begin_ns) / 1e9


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.turns.close()


def test_a_free_gpu_is_taken_at_once(world: World) -> None:
    """No sleep, before the first training, after it, and where nothing ever trains."""
    assert world.waited_s() == 0.0
    world.page.occupy(world.now_ns)
    assert world.waited_s() == 0.0
    world.page.remove()
    world.now_ns += SCAN_NS
    assert world.waited_s() == 0.0


def test_an_operation_is_waited_for(world: World) -> None:
    """To the end that it has, however long that takes if it is not known."""
    world.page.occupy(world.now_ns + 7 * MS)
    assert world.waited_s() == pytest.approx(0.007)
    world.page.occupy(ENDLESS_NS)
    world.free_ns = world.now_ns + 30 * MS
    assert world.waited_s() == pytest.approx(0.030, abs=2 * POLL_S)


def test_a_dead_trainer_has_no_gpu(world: World) -> None:
    """It may have died within an operation."""
    world.page.occupy(ENDLESS_NS)
    assert world.waited_s() <= SILENT_NS / 1e9 + 2 * POLL_S
    assert world.waited_s() == 0.0


def test_the_next_trainer_is_found(world: World) -> None:
    """A new process puts its own page there; what is no page of ours is passed over."""
    world.waited_s()
    path = world.page.path
    world.page.remove()
    path.write_bytes(b"no page")
    world.now_ns += SCAN_NS
    assert world.waited_s() == 0.0
    world.page = TrainerPage.create(path)
    world.page.occupy(ENDLESS_NS)
    world.now_ns += 2 * SCAN_NS
    world.page.words[HEARTBEAT] = world.now_ns
    world.free_ns = world.now_ns + 5 * MS
    assert world.waited_s() >= 0.005
    world.page.close()


class Counting(Turns):
    """Counts the waits."""

    waits = 0

    def wait(self) -> None:
        self.waits += 1


@pytest.mark.parametrize("virtual", [False, True], ids=["real", "virtual"])
def test_only_a_virtual_board_takes_turns(
    tmp_path: Path, make_config: Callable[..., BackendConfig], *, virtual: bool
) -> None:
    """Once its clockd was seen: from the second batch on; a real one's batches ask nobody."""
    tensor = {"data_type": "TYPE_FP32", "dims": ["1"]}
    config = make_config(input=[{"name": "A", **tensor}], output=[{"name": "A", **tensor}])
    page, turns = InstancePage.create(tmp_path / "one.page"), Counting(tmp_path / "trainer.page")
    if virtual:
        page.write_stretch((1.0,) * len(STRETCH_BATCHES))
    batcher = Batcher(IdentityEngine(config), config, Recorder(page, Tally(), Knobs(8, 0), 8), turns)
    batcher.start()
    for _ in range(3):
        reply = FakeReply()
        inbound = Inbound({"A": np.zeros((1, 1), np.float32)}, 1, (("A", (1,)),), 0, 0)
        batcher.submit([(inbound, reply)], time.monotonic_ns())
        deadline_s = time.monotonic() + 30
        while not reply.sent:
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
    batcher.close()
    assert turns.waits == (2 if virtual else 0)
    page.remove()
