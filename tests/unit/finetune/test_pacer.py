# SPDX-License-Identifier: Apache-2.0
"""The gate between training and inference, on real pages and a clock of our own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.pacer import (
    ALONE,
    AWAKE_NS,
    DEBT_NS,
    EARLY,
    EVERY,
    IDLE_NS,
    NO_GOVERNOR,
    POLL_S,
    RESTING_S,
    YIELD_NS,
    Free,
    Gate,
    Heart,
    step_aside,
)
from telemetry.instance_page import BOOKS, InstanceInfo, InstancePage
from telemetry.pages import HEARTBEAT, STALE_NS
from telemetry.rundir import RunDir
from telemetry.trainer_page import ENDLESS_NS, TrainerLimits, TrainerPage

MS = 1_000_000
FREELY = TrainerLimits(1.0, 0.03)


class World:
    """A run directory with two instances and a trainer, and time that passes only in `sleep` and `work`."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDir(folder)
        self.run_dir.make()
        self.instances = [self.instance(f"m_0_{number}") for number in range(2)]
        self.trainer = TrainerPage.create(self.run_dir.trainer_page)
        self.now_ns = int(self.instances[0].words[HEARTBEAT])
        self.own_ns = 0
        self.slept: list[float] = []
        self.due: list[tuple[int, InstancePage]] = []
        self.idled = self.gave_way = self.interrupted_ns = 0
        self.freed_after = 0
        """Calls of `idle` after which the governor lets go; 0: it does not."""
        self.gate = self.gated()

    def gated(self, *, governed: bool = True) -> Gate:
        clock = {"clock_ns": lambda: self.now_ns, "thread_ns": lambda: self.own_ns}
        return Gate(
            self.run_dir,
            self.trainer,
            governed=governed,
            idle=self.idle,
            sleep=self.sleep,
            give_way=self.give_way,
            **clock,
        )

    def instance(self, name: str, workload: str = "resnet") -> InstancePage:
        page = InstancePage.create(self.run_dir.instance_page(name))
        page.write_info(InstanceInfo(name, "1", name, workload, 8, 0, 0.05, 0.99, 1.0))
        return page

    def idle(self) -> None:
        self.idled += 1
        if self.idled == self.freed_after:
            self.limit()

    def give_way(self) -> None:
        """Others run: what is left of a request, or who waits for this core."""
        self.gave_way += 1
        if any(page.in_flight for page in self.instances):
            self.pass_(10_000)
        self.pass_(self.interrupted_ns)

    def limit(self, limits: TrainerLimits = FREELY) -> None:
        """The governor says so for a minute."""
        self.trainer.write_limits(limits, 60.0)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.pass_(round(seconds * 1e9))

    def pass_(self, span_ns: int) -> None:
        """Time passes; the instances beat, and requests are answered when they are due."""
        self.now_ns += span_ns
        for page in self.instances:
            page.words[HEARTBEAT] = self.now_ns
        for at_ns, page in self.due:
            if self.now_ns >= at_ns:
                page.set_gate(0, 0)

    def work(self, own_ns: int, others_ns: int = 0) -> None:
        """This thread computes, and others take the processor from it."""
        self.own_ns += own_ns
        self.now_ns += own_ns + others_ns

    def request(self, page: InstancePage, for_ns: int) -> None:
        """A request that is answered after so long."""
        page.set_gate(1, self.now_ns)
        self.due = [(self.now_ns + for_ns, page)]

    def slice(self, busy_ns: int) -> None:
        """One slice that is cut after so long."""
        assert self.gate.clear()
        self.work(busy_ns)
        self.gate.clear()
        self.gate.slice_done(busy_ns / 1e9)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.limit()
    yield world
    world.gate.close()
    for page in (*world.instances, world.trainer):
        page.remove()


def test_with_nobody_in_flight_the_gate_is_open(world: World) -> None:
    """It is closed until the first look around; that takes no time."""
    assert not world.gate.clear()
    world.gave_way = 0
    assert world.gate.wait() == 0.0
    assert world.gave_way == 1, "the kernel owes who has slept nothing"
    assert world.gate.clear()
    assert not world.slept


def test_it_waits_while_any_request_is_in_flight(world: World) -> None:
    """Closed from its arrival to its answer; the trainer resumes one look later at most."""
    world.gate.wait()
    world.request(world.instances[1], 20 * MS)
    assert not world.gate.clear()
    waited_s = world.gate.wait()
    assert 0.020 <= waited_s <= 0.020 + 2 * POLL_S
    assert world.gate.clear()


def test_a_short_request_holds_it_no_longer_than_it_takes(world: World) -> None:
    """The trainer stays awake; for a long one it does not, nor while it rests or is held."""
    world.gate.wait()
    world.request(world.instances[1], MS // 5)
    assert world.gate.wait() == pytest.approx(0.0002, abs=1e-5)
    assert not world.slept
    world.request(world.instances[1], 10 * MS)
    assert world.gate.wait() == pytest.approx(0.010, abs=2 * POLL_S)
    assert sum(world.slept) >= (10 * MS - AWAKE_NS) / 1e9


def test_work_yields_between_operations(world: World) -> None:
    """Every so often, not at each look; what others do meanwhile is no stretch of training."""
    world.gate.wait()
    assert world.gate.clear()
    world.gave_way = 0
    for _ in range(100):
        world.work(YIELD_NS // 10)
        assert world.gate.clear()
    assert world.gave_way == 10
    world.interrupted_ns = 4 * MS
    world.work(YIELD_NS)
    world.gate.clear()
    assert world.gave_way == 11
    assert max(world.trainer.stretches_since(0)[0]) <= YIELD_NS / 1e9


def test_a_dead_instance_does_not_hold_it(world: World) -> None:
    """A page whose owner stopped beating may say what it likes, also to `clear`."""
    world.gate.wait()
    world.instances[0].set_gate(3, 1)
    world.instances[0].words[HEARTBEAT] = world.now_ns - STALE_NS - 1
    assert world.gate.wait() == 0.0
    assert world.gate.clear()
    assert not world.slept


def test_an_instance_that_falls_silent_holds_it_until_it_counts_as_gone(world: World) -> None:
    """Who hangs or has just died is about to be started again: from half a second on nothing trains beside it."""
    world.gate.wait()
    silent = world.instances.pop()
    silent.words[HEARTBEAT] = world.now_ns - 600 * MS
    assert world.gate.wait() == pytest.approx(0.4, abs=0.03)
    silent.words[HEARTBEAT] = world.now_ns
    world.instances.append(silent)
    assert world.gate.wait() == 0.0


def test_instances_may_come_and_go(world: World) -> None:
    """One that comes is heeded within a slice and a scan; what merely keeps books is not."""
    world.gate.wait()
    late = world.instance("late")
    world.instances.append(late)
    books = world.instance("books", BOOKS)
    books.set_gate(1, 1)
    world.sleep(0.3)
    world.gate.wait()
    assert world.gate.clear()
    late.set_gate(1, 1)
    assert not world.gate.clear()
    late.remove()
    world.instances.remove(late)
    world.sleep(0.3)
    assert world.gate.wait() == 0.0
    assert world.gate.clear()
    books.remove()


def test_a_slice_ends_when_its_time_is_over(world: World) -> None:
    """With nobody in flight as well, so that what the governor says is heard; then the next one begins at once."""
    world.gate.wait()
    assert world.gate.clear()
    world.work(29 * MS)
    assert world.gate.clear()
    world.work(2 * MS)
    assert not world.gate.clear()
    world.gate.slice_done(0.031)
    assert world.gate.wait() == 0.0
    assert world.gate.clear()


@pytest.mark.parametrize(("duty", "rest_s"), [(1.0, 0.0), (0.5, 0.030), (0.25, 0.090), (0.1, 0.270)])
def test_it_rests_between_slices_as_the_duty_says(world: World, duty: float, rest_s: float) -> None:
    """After 30 ms of work, so long a rest that training takes its share of the idle time; the page is charged."""
    world.limit(TrainerLimits(duty, 0.03))
    world.gate.wait()
    world.slice(30 * MS)
    assert (world.trainer.busy_ns, world.trainer.slices) == (30 * MS, 1)
    assert world.gate.wait() == pytest.approx(rest_s, abs=RESTING_S)
    assert world.gate.clear()


def test_time_that_inference_takes_is_rest(world: World) -> None:
    """A rest begins at the end of its slice, whoever cut that short."""
    world.limit(TrainerLimits(0.5, 0.03))
    world.gate.wait()
    world.slice(30 * MS)
    world.request(world.instances[0], 20 * MS)
    assert world.gate.wait() == pytest.approx(0.030, abs=RESTING_S)
    world.slice(30 * MS)
    world.request(world.instances[0], 50 * MS)
    assert world.gate.wait() == pytest.approx(0.050, abs=2 * POLL_S)


def test_the_governor_may_hold_it(world: World) -> None:
    """With its reason, and `idle` is called meanwhile; then it goes on without a rest."""
    world.limit(TrainerLimits(0.0, 0.0, "tuning"))
    assert world.gate.held() == "tuning"
    world.freed_after = 4
    assert world.gate.wait() == pytest.approx(4 * IDLE_NS / 1e9, abs=0.1)
    assert world.gate.held() is None


def test_without_limits_nothing_trains(world: World) -> None:
    """A governor that is gone has expired limits: training is held, unless it was told to do without one."""
    world.trainer.write_limits(FREELY, -1.0)
    assert world.gate.held() == NO_GOVERNOR
    free = world.gated(governed=False)
    assert free.held() is None
    assert free.wait() == 0.0
    assert free.clear()
    world.work(int(1.1e9 * ALONE.slice_s))
    assert not free.clear()
    world.limit(TrainerLimits(0.0, 0.0, "tuning"))
    assert free.held() == "tuning"
    free.close()


def test_what_idle_raises_ends_the_wait(world: World) -> None:
    """That is how a process that is told to stop gets out of a step."""

    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    gate = Gate(world.run_dir, world.trainer, idle=stop, clock_ns=lambda: world.now_ns, sleep=world.sleep)
    world.limit(TrainerLimits(0.0, 0.0, "tuning"))
    with pytest.raises(Stop):
        gate.wait()
    gate.close()


def test_every_operation_has_its_turn_to_be_noted(world: World) -> None:
    """Of steps of 24 operations, one of them long, an even sample; what lies between steps and slices is none."""
    for step in range(17 * (EVERY + 1)):
        if not world.gate.clear():
            world.gate.slice_done(0.0)
            world.gate.wait()
            world.gate.clear()
        for op in range(24):
            world.work(5 * MS if op == 7 else MS // 2)
            if not world.gate.clear():
                world.gate.slice_done(0.001)
                world.gate.wait()
                world.gate.clear()
        world.gate.slice_done(0.001)
        world.work(50 * MS)
        world.instances[0].words[HEARTBEAT] = world.instances[1].words[HEARTBEAT] = world.now_ns
        assert world.trainer.stretches_since(0)[1] >= min(4, step), "the first ones are told of at once"
    noted, count = world.trainer.stretches_since(0)
    early = EARLY * sum(range(1, EVERY + 1))
    assert count == pytest.approx(EARLY * EVERY + (17 * 17 * 24 - early) / 17, rel=0.02)
    assert set(noted) == {0.005, 0.0005}
    assert noted.count(0.005) / len(noted) == pytest.approx(1 / 24, rel=0.5)


def test_on_a_virtual_board_operations_are_stretched_and_charged(world: World) -> None:
    """Slept off as soon as a millisecond has come together, by this thread's own time and nobody else's."""
    world.trainer.write_slowdown(3.0)
    world.gate.wait()
    assert world.gate.clear()
    world.work(DEBT_NS // 4, others_ns=5 * MS)
    assert world.gate.clear()
    world.work(DEBT_NS // 4, others_ns=5 * MS)
    assert not world.gate.clear()
    world.gate.slice_done(0.011)
    assert world.trainer.busy_ns == 3 * DEBT_NS // 2
    assert world.gate.wait() == pytest.approx(DEBT_NS / 1e9)
    assert world.gate.clear()


def test_on_a_virtual_board_training_has_the_gpu_until_its_operation_has_ended(world: World) -> None:
    """Occupied while it computes and while that is stretched; free when the gate is closed, and on a real board."""
    page = world.trainer
    world.gate.wait()
    world.gate.clear()
    assert page.occupied_until_ns == 0
    page.write_slowdown(2.0)
    world.work(31 * MS)
    world.gate.clear()
    world.gate.slice_done(0.031)
    world.gate.wait()
    assert world.gate.clear()
    assert page.occupied_until_ns == ENDLESS_NS
    world.work(4 * MS)
    world.instances[0].set_gate(1, world.now_ns)
    assert not world.gate.clear()
    world.gate.slice_done(0.004)
    assert page.occupied_until_ns == world.now_ns + 4 * MS
    world.due.append((world.now_ns, world.instances[0]))
    world.gate.wait()
    assert page.occupied_until_ns == 0


def test_looking_at_the_gate_allocates_nothing(world: World) -> None:
    """Ten thousand looks leave not a byte behind in this module."""
    world.gate.wait()
    clear = world.gate.clear
    assert clear()
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
from telemetry.rundir import RunDir
from telemetry.trainer_page import TrainerPage
run_dir = RunDir(Path(sys.argv[1]))
run_dir.make()
page = InstancePage.create(run_dir.instance_page("m"))
gate = Gate(run_dir, TrainerPage.create(run_dir.trainer_page), governed=False, clock_ns=lambda: 1)
gate.wait()
assert gate.clear()
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


def test_a_thread_that_steps_aside_is_the_only_one() -> None:
    """Whoever else runs goes first, this process's other threads included."""
    found: list[int] = []

    def train() -> None:
        step_aside()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [19]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_a_heart_beats_while_its_process_is_busy(world: World) -> None:
    """From a thread of its own, which ends with its scope."""
    world.trainer.words[HEARTBEAT] = 0
    beaten = threading.Event()
    with Heart(world.trainer):
        for _ in range(1000):
            if world.trainer.words[HEARTBEAT]:
                beaten.set()
                break
            beaten.wait(0.01)
    assert beaten.is_set()
    assert not any(thread.name == "trainer-heart" for thread in threading.enumerate())


def test_alone_on_the_device_nothing_is_waited_for() -> None:
    """`Free` is always clear."""
    free = Free()
    free.slice_done(1.0)
    assert free.clear()
    assert free.wait() == 0.0
