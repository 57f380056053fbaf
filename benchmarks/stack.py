# SPDX-License-Identifier: Apache-2.0
"""The whole product on this host: clockd on a virtual board, Triton with models, and `teg` verbs as children."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from governor.client import ClockClient
from governor.errors import ClockdUnavailable
from governor.server import TritonServer
from telemetry.rundir import RunDir

TEG = (sys.executable, "-c", "import sys; from governor.cli import main; sys.exit(main())")
REPOSITORY = Path(__file__).resolve().parents[1] / "model_repository"
READY_S = 20.0
STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs: the run directory, and Triton's gRPC address."""

    run_dir: RunDir
    grpc_url: str


@contextmanager
def running(
    folder: Path,
    *models: str,
    board: str = "virtual:agx-orin",
    repository: Path = REPOSITORY,
    publish: bool = False,
) -> Iterator[Stack]:
    """Clockd and Triton serving `models`, with their logs in `folder`; both are ended on the way out.

    With `publish` Triton takes new versions while it runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run_dir = RunDir(folder / "run")
    run_dir.make()
    with ExitStack() as stack:
        log = stack.enter_context((folder / "clockd.log").open("w"))
        arguments = (*TEG, "clockd", "--board", board, "--run-dir", str(run_dir.root))
        stack.enter_context(child(subprocess.Popen(arguments, stderr=log)))
        _await_clockd(run_dir)
        log_path = folder / "triton.log"
        server = stack.enter_context(
            TritonServer(repository, models=models, run_dir=run_dir.root, log_path=log_path, publish=publish)
        )
        yield Stack(run_dir, server.grpc_url)


@contextmanager
def child(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is asked to end, and made to if it does not, when the block is left."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_clockd(run_dir: RunDir) -> None:
    deadline_s = time.monotonic() + READY_S
    while True:
        try:
            with ClockClient(run_dir.socket) as client:
                client.hello()
                return
        except ClockdUnavailable:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
