# SPDX-License-Identifier: Apache-2.0
"""The governor and clockd as real processes on a virtual board whose faults are switched on and off while they run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from governor.history import FILE
from governor.published import read_standing
from telemetry.board_page import BoardPage
from telemetry.durable import read_log
from telemetry.instance_page import Counter, InstanceInfo, InstancePage, Sample, Status
from telemetry.rundir import RunDir

TEG = (sys.executable, "-c", "import sys; from governor.cli import main; sys.exit(main())")
GOVERN = """
import sys
from pathlib import Path
from governor.cli.run import govern
from governor.config import Config
from governor.in_turn import InTurn
from telemetry.rundir import RunDir
folder = Path(sys.argv[1])
settings = {"knobs": ("gpu_hz", "emc_hz"), "trials": 60, "trial_s": 2.0, "cooldown_s": 3.0, "metrics_port": 0}
settings |= {"breach_share": 1.0, "slo_window_s": 2.0}
sys.exit(govern(Config(folder, folder / "state", **settings), RunDir(folder), InTurn))
"""
PATIENCE_S = 60.0
"""Bounds a failure and promises nothing."""
STALLS = {"clockd", "clocks", "window", "energy", "refused", "objective", "load", "fit"}
"""What a host does to trials and leases when it stalls for seconds, whatever the board does."""
RATE_HZ, SERVICE_S = 20.0, 0.012


@contextmanager
def served(run_dir: RunDir) -> Iterator[None]:
    """An instance page with Poisson traffic on it, each request as long as the virtual board says."""
    page, stop, rng = InstancePage.create(run_dir.instance_page("m_0_0")), threading.Event(), random.Random(1)
    page.write_info(InstanceInfo("m", "1", "m_0_0", "resnet", 4, 0, 0.2, 0.9, 1.0))

    def serve() -> None:
        while not stop.is_set():
            rest_s = rng.expovariate(RATE_HZ)
            while rest_s > 0 and not stop.wait(min(rest_s, 0.1)):
                rest_s -= 0.1
                page.beat()
            arrival_ns = time.monotonic_ns()
            page.set_gate(1, arrival_ns)
            stop.wait(SERVICE_S * page.stretch(1))
            end_ns = time.monotonic_ns()
            for counter in (Counter.BUSY_NS, Counter.BUSY_BATCH_NS):
                page.count(counter, end_ns - arrival_ns)
            page.count(Counter.REQUESTS)
            page.add_sample(Sample(arrival_ns, arrival_ns, end_ns, 1, Status.OK))
            page.set_gate(0, 0)
            page.beat()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        page.remove()


class Stage:
    """Clockd, traffic and a governor that are alive; `faults` switches the board's."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDir(folder / "run")
        self.run_dir.make()
        self._file = folder / "faults.json"
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        root = str(self.run_dir.root)
        self._start(*TEG, "clockd", "--board", "virtual:agx-orin", "--run-dir", root, "--faults", str(self._file))
        self._stack.enter_context(served(self.run_dir))
        self._start(sys.executable, "-c", GOVERN, root)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def faults(self, **faults: Any) -> None:
        """From now on these, and no others."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(faults))
        fresh.replace(self._file)

    def standing(self, key: str) -> dict[str, Any]:
        """What the governor says of itself."""
        found: dict[str, Any] = (read_standing(self.run_dir.root) or {}).get(key) or {}
        return found

    def outcomes(self) -> list[str]:
        """The outcome of every trial so far, or the reason why it is none."""
        rows = read_log(self.run_dir.root / "state" / FILE)
        return [row.get("reason", row["outcome"]) for row in rows if row["kind"] == "trial"]

    def leased(self) -> bool:
        """Whether anybody holds the clocks."""
        page = BoardPage.open(self.run_dir.board_page)
        try:
            reading = page.read()
        finally:
            page.close()
        return bool(reading and reading.lease_pid)

    def _start(self, *command: str) -> None:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._stack.callback(process.wait, 30)
        self._stack.callback(process.terminate)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    stage.faults(denied=["emc_hz"])
    with stage:
        yield stage


def test_it_outlives_every_fault_of_its_board(stage: Stage, eventually: Callable[..., None]) -> None:
    """A denied knob leaves; a frozen sensor, unreadable heat and a throttle spoil trials; afterwards it measures on."""

    def measures_on() -> None:
        stage.faults()
        count = len(stage.outcomes())
        eventually(lambda: "feasible" in stage.outcomes()[count:], PATIENCE_S)

    eventually(lambda: stage.standing("left_out") == {"emc_hz": "denied"}, PATIENCE_S)
    assert stage.outcomes()[:3] == ["denied"] * 3
    measures_on()
    stage.faults(sensor="frozen")
    eventually(lambda: "frozen" in stage.outcomes(), PATIENCE_S)
    measures_on()
    stage.faults(thermal="unreadable")
    eventually(lambda: "blind" in stage.standing("alarms"), PATIENCE_S)
    eventually(lambda: not stage.leased(), PATIENCE_S)
    measures_on()
    stage.faults(over_current={"oc1": 2})
    eventually(lambda: "throttled" in stage.outcomes(), PATIENCE_S)
    measures_on()
    assert stage.standing("faults").keys() - STALLS <= {"denied", "frozen", "blind", "throttled"}
