# SPDX-License-Identifier: Apache-2.0
"""`teg run` as a real process over a real clockd (virtual board), a real Triton and real load."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from governor.client import ClockClient
from governor.errors import ClockdUnavailable
from governor.history import FILE
from governor.load import LoadPlan, LoadReport, draw_arrivals, run_load
from governor.server import TritonServer
from telemetry.board_page import BoardPage, BoardReading
from telemetry.durable import read_log
from telemetry.instance_page import InstancePage, Knobs
from telemetry.metrics import GOVERNOR
from telemetry.rundir import RunDir

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
TEG = (sys.executable, "-c", "import sys; from governor.cli import main; sys.exit(main())")
MODEL, TRIALS, TTL_S = "digits_cnn", 6, 3.0
PATIENCE_S = 240.0
"""For what a process does after loading torch; bounds a failure and promises nothing."""
ON_THE_WAY_S = 6.0
"""What a busy host may lose between the end of a lease and our noticing."""
RATE_HZ = 25.0
SETTINGS = ("--slo-s", "0.5", "--slo-quantile", "0.9", "--knobs", "gpu_hz,batch", "--trial-s", "1.0")
MAXIMUM = (1_300_500_000, 306_000_000, 3_199_000_000, 2_201_600_000, 12)


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A child that does not outlive the block."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@dataclass
class Stack:
    """A run directory with clockd and Triton alive in it."""

    run_dir: RunDir
    grpc_url: str

    def board(self) -> BoardReading:
        page = BoardPage.open(self.run_dir.board_page)
        try:
            reading = page.read()
        finally:
            page.close()
        assert reading is not None
        return reading

    def knobs(self) -> Knobs | None:
        """The governor's batch knobs in force on the model's page."""
        page = InstancePage.open(self.run_dir.instance_page(f"{MODEL}_0_0"))
        try:
            return page.read_knobs(time.monotonic_ns())
        finally:
            page.close()

    def run(self, state_dir: Path, *arguments: str) -> subprocess.Popen[str]:
        """A governor that searches until its trials are used up, whatever this host does to the objective meanwhile."""
        settings = state_dir / "governor.toml"
        settings.write_text("regret = 0.0\nbreach_share = 1.0\n")
        return self.teg("run", "--config", str(settings), *SETTINGS, "--state-dir", str(state_dir), *arguments)

    def teg(self, *arguments: str) -> subprocess.Popen[str]:
        command = [*TEG, *arguments, "--run-dir", str(self.run_dir.root)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def answered(run_dir: RunDir) -> bool:
    try:
        with ClockClient(run_dir.socket) as client:
            return bool(client.hello())
    except ClockdUnavailable:
        return False


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("governed")
    run_dir = RunDir(folder / "run")
    run_dir.make()
    clockd = subprocess.Popen(
        [*TEG, "clockd", "--board", "virtual:agx-orin", "--run-dir", str(run_dir.root)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with ended(clockd):
        deadline_s = time.monotonic() + PATIENCE_S
        while not answered(run_dir):
            assert time.monotonic() < deadline_s, "clockd never answered"
            time.sleep(0.05)
        with TritonServer(REPOSITORY, models=[MODEL], run_dir=run_dir.root, log_path=folder / "log") as server:
            yield Stack(run_dir, server.grpc_url)


@contextlib.contextmanager
def loaded(stack: Stack) -> Iterator[list[LoadReport]]:
    """Open-loop load for as long as the block lasts; its report is in the list afterwards."""
    stop, reports = threading.Event(), list[LoadReport]()
    plan = LoadPlan(stack.grpc_url, MODEL, draw_arrivals(RATE_HZ, 5, seconds=300.0))
    thread = threading.Thread(target=lambda: reports.append(run_load(plan, stopped=stop.is_set)))
    thread.start()
    try:
        yield reports
    finally:
        stop.set()
        thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def scraped(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
            return str(reply.read().decode())
    except OSError:
        return ""


def test_it_tunes_a_served_model_and_gives_everything_back(
    stack: Stack, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    """Six trials under load, with metrics; exit code 0, clocks and knobs back, not one failed request."""
    port, pages = free_port(), [""]
    arguments = ("--trials", str(TRIALS), "--metrics-port", str(port), "--exit-when-tuned")

    def trial_counted() -> bool:
        pages.append(scraped(port))
        return "teg_trials_total" in pages[-1]

    with loaded(stack) as reports:
        with ended(stack.run(tmp_path, *arguments)) as governor:
            eventually(trial_counted, PATIENCE_S)
            assert governor.wait(PATIENCE_S) == 0
            assert stack.knobs() is None
            output = governor.stdout.read() if governor.stdout else ""
        eventually(lambda: stack.board().lease_pid == 0 and stack.board().observed == MAXIMUM)
    rows = list(read_log(tmp_path / FILE))
    outcomes = [row["outcome"] for row in rows if row["kind"] == "trial"]
    # a trial that this host spoiled by a stall is repeated
    assert len(outcomes) - outcomes.count("invalid") <= TRIALS <= len(outcomes)
    assert [row["feasible"] for row in rows if row["kind"] == "hold"] == [True]
    assert len(re.findall(r"^trial ", output, re.MULTILINE)) == len(outcomes)
    shown = {line.split()[2] for line in pages[-1].splitlines() if line.startswith("# TYPE")}
    assert shown <= {metric.name for metric in GOVERNOR}
    assert {"teg_board_power_watts", "teg_clock_hertz", "teg_governor_up", "teg_slo_seconds"} <= shown
    (report,) = reports
    assert report.failed == 0
    assert report.requests > 100


def test_a_killed_governor_leaves_nothing_behind(stack: Stack, tmp_path: Path, eventually: Callable[..., None]) -> None:
    """kill -9 inside a trial: clocks are back, and the knobs expired, within the time to live and a second."""
    with loaded(stack) as reports, ended(stack.run(tmp_path, "--metrics-port", "0")) as governor:
        eventually(lambda: any(row["kind"] == "trial" for row in read_log(tmp_path / FILE)), PATIENCE_S)
        eventually(lambda: stack.board().observed != MAXIMUM and stack.knobs() is not None)
        os.kill(governor.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        governor.wait(30)
        eventually(lambda: stack.board().observed == MAXIMUM and stack.board().lease_pid == 0)
        eventually(lambda: stack.knobs() is None)
        assert time.monotonic() - killed_s < TTL_S + 1 + ON_THE_WAY_S
    assert reports[0].failed == 0


def test_an_interrupted_governor_exits_cleanly(stack: Stack, tmp_path: Path, eventually: Callable[..., None]) -> None:
    """While it tunes `teg status` names it; SIGTERM inside a trial: exit code 0, lease and knobs given back first."""

    def shown() -> bool:
        status = json.loads(stack.teg("status", "--json").communicate(timeout=PATIENCE_S)[0])
        models = [entry["model"] for entry in status["instances"]]
        return (status["board"] or {}).get("lease_pid") == run.pid and models == [MODEL]

    with loaded(stack), ended(stack.run(tmp_path, "--metrics-port", "0")) as run:
        eventually(lambda: stack.board().lease_pid == run.pid, PATIENCE_S)
        eventually(shown)
        eventually(lambda: stack.board().lease_pid == run.pid and stack.knobs() is not None)
        run.terminate()
        assert run.wait(30) == 0
        assert stack.knobs() is None
        eventually(lambda: stack.board().lease_pid == 0 and stack.board().observed == MAXIMUM)
