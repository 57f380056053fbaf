# SPDX-License-Identifier: Apache-2.0
"""The Triton server, or one model's process (its stub), is killed under `teg serve`."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from governor.canary import CanaryFailed, ask
from governor.serving import Served, read_served
from telemetry.rundir import RunDir

from .outages import held
from .record import Tally
from .stage import DEADLINE_S, due, until
from .zygote import ROOT

NOT_READY_WITHIN_S = 5.0
MODELS = ("one", "two")
KILLS = 4
"""For each `teg serve`: with more in a row its breaks between two tries grow long."""
TOGETHER = 2
TEG = (sys.executable, "-c", "import sys; from governor.cli import main; sys.exit(main())")


@dataclass(slots=True)
class Running:
    """One `teg serve` and what it said."""

    process: subprocess.Popen[bytes]
    run_dir: RunDir
    log: Path

    @property
    def served(self) -> Served:
        """Where it says it stands."""
        found = read_served(self.run_dir.root)
        if found is None:
            raise TimeoutError(f"teg serve has gone: {self.log.read_text()[-1000:]}")
        return found

    def stub(self, model: str) -> int:
        """The process of a model's instance."""
        return next(page.pid for page in self.run_dir.open_instances() if page.info and page.info.model == model)


def killed(tally: Tally) -> None:
    """Row 23: not ready within 5 s by a real inference, started again, counted, and named; training held meanwhile."""
    with ThreadPoolExecutor(TOGETHER) as pool:
        for done in [pool.submit(_serve_and_kill, tally, number) for number in range(tally.few(26))]:
            done.result()
    held(tally)


def _serve_and_kill(tally: Tally, number: int) -> None:
    rng = random.Random(number)
    with _serving(tally, publish=number % 2 == 0) as running:
        for times in range(1, KILLS + 1):
            kind, before = rng.choice(("stub", "server")), running.served.faults
            if not _kill(tally, running, kind, rng.choice(MODELS), rng.random()):
                return
            after = running.served.faults
            tally.same(sum(after.values()), times, f"faults counted after a {kind}'s death, {after}")
            # a stub that dies while it counts metrics takes this Triton along
            if kind == "stub" and after.get("server") != before.get("server"):
                tally.note("took_the_server_along", tally.notes.get("took_the_server_along", 0) + 1)
            else:
                tally.same(after.get(kind), before.get(kind, 0) + 1, f"{kind}s counted")
        said, faults = running.log.read_text(), running.served.faults
        tally.same(said.count("stub of model"), faults.get("stub", 0), "lines that name a stub's death")
        tally.same(said.count("server died"), faults.get("server", 0), "lines that name the server's death")


def _kill(tally: Tally, running: Running, kind: str, model: str, after_s: float) -> bool:
    """One kill and what comes of it; whether the models answer again."""
    time.sleep(after_s)
    before = running.served
    expected = {model} if kind == "stub" else set(MODELS)
    tally.inject(real=True, kind=kind)
    os.kill(running.stub(model) if kind == "stub" else before.server_pid, signal.SIGKILL)
    try:
        seen_s = until(lambda: expected <= set(running.served.down), f"{kind}: not ready", due(NOT_READY_WITHIN_S))
        tally.worst("slowest_not_ready_s", seen_s)
        if kind == "stub" and _health(before) == 200:
            tally.note("triton_said_ready", tally.notes.get("triton_said_ready", 0) + 1)
        tally.worst("slowest_ready_again_s", until(lambda: not running.served.down, f"{kind}: ready again"))
        for name in MODELS:
            ask(running.served.grpc_url, name)
    except (TimeoutError, CanaryFailed) as error:
        return tally.expect(False, f"{kind} of {model}: {error}")
    after = running.served
    return tally.same((after.grpc, after.http, after.metrics), (before.grpc, before.http, before.metrics), "ports")


@contextmanager
def _serving(tally: Tally, *, publish: bool) -> Iterator[Running]:
    """`teg serve` of two models that answer with their inputs; it must end well and leave nothing running."""
    with tempfile.TemporaryDirectory(prefix="teg-faults-") as made:
        folder = Path(made)
        for model in MODELS:
            shutil.copytree(ROOT / "model_repository" / "identity", folder / "models" / model)
        command = [*TEG, "serve", "--repository", str(folder / "models"), "--run-dir", str(folder / "run")]
        command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--log", str(folder / "triton.log")]
        command += ["--publish"] if publish else []
        log = folder / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT)
        running = Running(process, RunDir(folder / "run"), log)
        try:
            until(lambda: read_served(running.run_dir.root), "teg serve is up")
            yield running
            group = running.served.server_pid
            process.terminate()
            tally.same(process.wait(DEADLINE_S), 0, "exit code")
            tally.expect(not _group_lives(group), "a process of the server was left behind")
        finally:
            process.kill()
            process.wait()
        tally.expect("Traceback" not in log.read_text(), f"traceback: {log.read_text()[-1500:]}")


def _group_lives(group: int) -> bool:
    """Whether a process of the group runs; one that only waits for init to notice its end does not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, found = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(found) == group and state != "Z":
            return True
    return False


def _health(served: Served) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{served.http}/v2/health/ready", timeout=5) as reply:
            return int(reply.status)
    except OSError:
        return 0
