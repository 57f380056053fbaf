# SPDX-License-Identifier: Apache-2.0
"""A served model dies while training runs beside it: what governor and gate make of that until it is well again."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.pacer import Gate, Heart
from governor.config import Config
from governor.in_turn import InTurn
from governor.loop import Governor
from governor.reader import InstanceView
from governor.simulated_trainer import SimulatedTrainer
from governor.simulation import Inline, SimulatedModel, Simulation
from governor.status import Phase
from telemetry.instance_page import InstanceInfo
from telemetry.rundir import RunDir
from telemetry.trainer_page import TrainerLimits, TrainerPage

from .record import Tally
from .zygote import ROOT

HELD_WITHIN_S = 1.0
WINDOWS, WINDOW_S = 3, 5.0
STEP_S = 0.05
STALE_S = 1.0
RATE_HZ = 12.0
KILLS, REAL_KILLS, A_WORLD = 100, 20, 10
INFO = InstanceInfo("resnet18", "1", "resnet18_0_0", "resnet", 8, 0, 0.08, 0.95, 1.0)


def held(tally: Tally) -> None:
    """Row 23, the governor's part: training held within 1 s, the safe point until three windows were clean."""
    kills = tally.few(KILLS)
    for seed in range(-(-kills // A_WORLD)):
        _governed(tally, seed, min(A_WORLD, kills - seed * A_WORLD))
    for number in range(tally.few(REAL_KILLS)):
        _gated(tally, number)


class Mortal(SimulatedModel):
    """A model whose process may be killed: it beats and answers no more."""

    killed_s: float | None = None

    def view(self, now_s: float) -> InstanceView:
        """What its page shows."""
        self.silent_s = 0.0 if self.killed_s is None else now_s - self.killed_s
        return super().view(now_s)


class Outage(Simulation):
    """A model and a trainer, both governed, in virtual time."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__([Mortal(INFO, RATE_HZ, seed)])
        self.job = self.trainer = SimulatedTrainer(INFO.model, steps=10_000_000, op_s=0.02)
        self.rng = random.Random(seed)
        self.config = Config(
            run_dir=folder, state_dir=folder / "state", knobs=("gpu_hz", "batch"), trials=6, trial_s=2.0, regret=0.0,
            tick_s=STEP_S, slo_window_s=WINDOW_S, cooldown_s=WINDOW_S,
        )  # fmt: skip
        self.governor = Governor(self.config, self.board, self, self.clock, Inline(), InTurn)

    def live(self, seconds: float, each: Callable[[], None] = lambda: None) -> None:
        """Let everything live for so long."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.step(STEP_S)
            self.governor.tick()
            each()

    def until(self, condition: Callable[[], object], within_s: float) -> bool:
        """Let everything live until the condition holds; whether it came to that."""
        until_s = self.now_s + within_s
        while not condition():
            if self.now_s > until_s:
                return False
            self.live(STEP_S)
        return True

    @property
    def trains(self) -> bool:
        """Whether the trainer may train."""
        return self.job.limits is not None and self.job.limits.duty > 0

    @property
    def safe(self) -> bool:
        """Whether no clock could be higher, and nobody limits batches."""
        limits = {model.batch_limit(self.now_s) for model in self.models}
        return self.board.point == self.board.table().maximum() and limits <= {INFO.max_batch}

    def kill(self) -> None:
        """Kill the model's process: what waits is lost, its page falls silent and is given up a second later."""
        model = self.models[0]
        assert isinstance(model, Mortal)
        model.killed_s = self.now_s
        model.offer(0.0)
        model.waiting.clear()
        if self._batch:
            model.end(self._batch[1], self.now_s)
            self._batch = None


def _governed(tally: Tally, seed: int, kills: int) -> None:
    """Kills in virtual time."""
    with tempfile.TemporaryDirectory(prefix="teg-faults-") as folder, _heard() as said:
        world = Outage(Path(folder), seed)
        for number in range(kills):
            what = f"kill {number} of world {seed}"
            if not tally.expect(world.until(lambda: world.trains, 240.0), f"{what}: training did not go on"):
                break
            _kill(tally, world, what)
        faults = world.governor.status.faults
        tally.same(faults["silent"], kills, f"world {seed}: deaths counted")
        tally.same(sum(line.startswith("silent:") for line in said), kills, f"world {seed}: lines that name one")
        tally.same(faults["tick"], 0, f"world {seed}: ticks that failed")
        world.governor.close()


def _kill(tally: Tally, world: Outage, what: str) -> None:
    world.live(world.rng.uniform(0.0, 8.0))
    tally.inject(real=False, kind="killed, in virtual time")
    world.kill()
    killed_s = world.now_s
    tally.expect(world.until(lambda: not world.trains, HELD_WITHIN_S), f"{what}: training is not held within 1 s")
    tally.worst("slowest_hold_s", world.now_s - killed_s)
    busy_s = world.job.busy_s
    world.live(max(0.0, killed_s + STALE_S + world.rng.uniform(0.0, 0.5) - world.now_s))
    world.models = []
    world.live(world.rng.uniform(0.5, 20.0))
    world.models = [Mortal(INFO, RATE_HZ, world.rng.randrange(1000))]
    unsafe: list[float] = []
    status, back_s = world.governor.status, world.now_s
    world.until(lambda: world.board.leased, 60.0)
    leased_s = world.now_s

    def look() -> None:
        if not world.safe or world.trains:
            unsafe.append(world.now_s - leased_s)

    world.live(WINDOWS * WINDOW_S - STEP_S, look)
    tally.expect(not unsafe, f"{what}: the safe point was left, or training went on, {unsafe[:2]} s after the lease")
    tally.same(world.job.busy_s <= busy_s + world.job.op_s * 4, True, f"{what}: nothing trained meanwhile")
    tally.expect(world.until(lambda: status.phase is Phase.HOLDING, 120.0), f"{what}: no point is held again")
    tally.worst("longest_until_held_again_s", world.now_s - back_s)


SERVED = """
import sys, time
from pathlib import Path
from telemetry.instance_page import InstanceInfo, InstancePage
page = InstancePage.create(Path(sys.argv[1]))
page.write_info(InstanceInfo("one", "1", "one_0_0", "resnet", 8, 0, 0.05, 0.99, 1.0))
print(flush=True)
while True:
    page.beat()
    time.sleep(0.05)
"""


def _gated(tally: Tally, number: int) -> None:
    """A real process with an instance page is killed: the gate alone holds training within a second."""
    with tempfile.TemporaryDirectory(prefix="teg-faults-") as folder:
        run_dir = RunDir(Path(folder))
        run_dir.make()
        page = TrainerPage.create(run_dir.trainer_page)
        command = [sys.executable, "-c", SERVED, str(run_dir.instance_page("one_0_0"))]
        served = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert served.stdout is not None
        served.stdout.readline()
        with Heart(page), _training(run_dir, page) as gate:
            time.sleep(0.3 + 0.01 * number)
            trained = page.busy_ns
            tally.expect(trained > 0, f"real kill {number}: nothing trained before")
            served.kill()
            served.wait()
            killed_s = time.monotonic()
            tally.inject(real=True, kind="killed for real")
            while gate.held() is None and time.monotonic() < killed_s + 5.0:
                time.sleep(0.005)
            took_s = time.monotonic() - killed_s
            tally.expect(took_s <= HELD_WITHIN_S, f"real kill {number}: held after {took_s:.2f} s")
            tally.worst("slowest_real_hold_s", took_s)
        served.stdout.close()
        page.remove()


@contextmanager
def _training(run_dir: RunDir, page: TrainerPage) -> Iterator[Gate]:
    """A thread that trains as the gate lets it."""
    stop = threading.Event()

    class Stopped(Exception):
        """Out of a wait."""

    def idle() -> None:
        if stop.is_set():
            raise Stopped

    gate = Gate(run_dir, page, idle=idle)

    def train() -> None:
        try:
            while not stop.is_set():
                page.write_limits(TrainerLimits(1.0, 0.02), 60.0)
                if not gate.clear():
                    gate.slice_done(0.001)
                    gate.wait()
                time.sleep(0.001)
        except Stopped:
            return

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield gate
    finally:
        stop.set()
        thread.join()
        gate.close()


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What the governor says."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    log, ear = logging.getLogger("teg.governor"), Ear()
    before, log.propagate = log.propagate, False
    log.addHandler(ear)
    try:
        yield said
    finally:
        log.removeHandler(ear)
        log.propagate = before
