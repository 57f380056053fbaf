# SPDX-License-Identifier: Apache-2.0
"""The gate between training and inference, on real pages and a clock of our own."""

from __future__ import annotations

import platform
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.pacer import POLL_S, Free, Gate
from telemetry.instance_page import InstancePage
from telemetry.pages import HEARTBEAT, STALE_NS
from telemetry.trainer_page import TrainerLimits, TrainerPage


class World:
    """Two instance pages and a trainer's, and time that passes only in `sleep`."""

    def __init__(self, folder: Path) -> None:
        self.instances = [InstancePage.create(folder / f"m_0_{number}.page") for number in range(2)]
        self.trainer = TrainerPage.create(folder / "trainer.page")
        self.now_ns = int(self.instances[0].words[HEARTBEAT])
        self.slept = 0
        self.answer_at_ns = 0
        self.gate = Gate(self.instances, self.trainer, lambda: self.now_ns, self.sleep)

    def sleep(self, seconds: float) -> None:
        """Time passes; the instances beat, and the request is answered when it is due."""
        self.slept += 1
        self.now_ns += round(seconds * 1e9)
        for page in self.instances:
            page.words[HEARTBEAT] = self.now_ns
        if self.answer_at_ns and self.now_ns >= self.answer_at_ns:
            self.instances[1].set_gate(0, 0)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for page in (*world.instances, world.trainer):
        page.remove()


def test_with_nobody_in_flight_the_gate_is_open(world: World) -> None:
    """No wait and no sleep."""
    assert world.gate.clear()
    assert world.gate.wait() == 0.0
    assert world.slept == 0


def test_it_waits_while_any_request_is_in_flight(world: World) -> None:
    """Closed from its arrival to its answer; the trainer resumes one look later at most."""
    world.instances[1].set_gate(1, world.now_ns)
    world.answer_at_ns = world.now_ns + 20_000_000
    assert not world.gate.clear()
    waited_s = world.gate.wait()
    assert 0.020 <= waited_s <= 0.020 + 2 * POLL_S
    assert world.gate.clear()


def test_a_dead_instance_does_not_hold_it(world: World) -> None:
    """A page whose owner stopped beating may say what it likes."""
    world.instances[0].set_gate(3, 1)
    world.instances[0].words[HEARTBEAT] = world.now_ns - STALE_NS - 1
    assert world.gate.wait() == 0.0
    assert world.slept == 0


@pytest.mark.parametrize(("duty", "rest_s"), [(1.0, 0.0), (0.5, 0.030), (0.25, 0.090), (0.1, 0.270)])
def test_it_rests_between_slices_as_the_duty_says(world: World, duty: float, rest_s: float) -> None:
    """After 30 ms of work, so long a rest that training takes its share of the time; the page is charged."""
    world.trainer.write_limits(TrainerLimits(duty, 0.03), 60.0)
    world.gate.slice_done(0.030)
    assert (world.trainer.busy_ns, world.trainer.slices) == (30_000_000, 1)
    assert world.gate.wait() == pytest.approx(rest_s, abs=2 * POLL_S)
    assert world.gate.clear()


def test_limits_that_expired_ask_for_no_rest(world: World) -> None:
    """A governor that is gone no longer paces; the gate itself still holds."""
    world.trainer.write_limits(TrainerLimits(0.1, 0.03), -1.0)
    world.gate.slice_done(0.030)
    assert world.gate.clear()
    world.instances[0].set_gate(1, world.now_ns)
    assert not world.gate.clear()


def test_looking_at_the_gate_allocates_nothing(world: World) -> None:
    """Ten thousand looks leave not a byte behind in this module."""
    clear = world.gate.clear
    clear()
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    for _ in range(10_000):
        clear()
    grown = tracemalloc.take_snapshot().compare_to(before, "filename")
    tracemalloc.stop()
    assert sum(row.size_diff for row in grown if "pacer" in str(row.traceback)) < 512


LOOKS = """
import ctypes, sys
from pathlib import Path
from finetune.pacer import Gate
from telemetry.instance_page import InstancePage
from telemetry.trainer_page import TrainerPage
folder = Path(sys.argv[1])
gate = Gate([InstancePage.create(folder / "m.page")], TrainerPage.create(folder / "t.page"), lambda: 0, lambda s: None)
gate.clear()
libc = ctypes.CDLL(None)
libc.prctl(22, 1)  # PR_SET_SECCOMP, strict: any system call but read, write and exit now kills the process
for _ in range(100_000):
    gate.clear()
libc.syscall(60 if sys.argv[2] == "x86_64" else 93, 0)  # exit
"""


def test_looking_at_the_gate_makes_no_system_call(tmp_path: Path) -> None:
    """The kernel would kill the process for one, and does for any other."""
    command = [sys.executable, "-c", LOOKS, str(tmp_path), platform.machine()]
    assert subprocess.run(command, check=False, timeout=240).returncode == 0
    sleeping = LOOKS.replace("    gate.clear()\n", "    __import__('os').getppid()\n")
    command[2] = sleeping
    assert subprocess.run(command, check=False, timeout=240).returncode == -9


def test_alone_on_the_device_nothing_is_waited_for() -> None:
    """`Free` is always clear."""
    free = Free()
    free.slice_done(1.0)
    assert free.clear()
    assert free.wait() == 0.0
