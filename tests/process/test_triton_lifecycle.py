# SPDX-License-Identifier: Apache-2.0
"""`teg serve` from start to end: what it writes, whom it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_repo
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from governor.backend_folder import cache_folder
from governor.canary import infer_once
from governor.cli import serve as serve_cli
from governor.server import TritonServer
from governor.versions import RolledBack, Trial, Versions
from telemetry.instance_page import InstancePage
from telemetry.rundir import RunDir

Serve = Callable[..., "subprocess.Popen[bytes]"]
PATIENCE_S = 90.0
"""For the start and the end of a process; bounds a failure and promises nothing."""

SERVE = """
import argparse, sys
from governor.cli import serve
parser = argparse.ArgumentParser()
serve.add_parser(parser.add_subparsers())
args = parser.parse_args()
sys.exit(args.handler(args))
"""
"""`teg serve` without the other verbs."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "identity").symlink_to(triton_repo.REPOSITORY / "identity")
    (folder / "__pycache__").mkdir()
    sleeper = 'backend: "python"\nmax_batch_size: 32\ninstance_group [ { kind: KIND_CPU } ]\n' + triton_repo.X_TO_Y
    triton_repo.add(folder, "sleeper", sleeper, {"model.py": triton_repo.SLEEPER})
    triton_repo.delegated(folder, "passed_on", max_batch_size=1)
    return folder


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def teg_serve(repository: Path, run_dir: RunDir, tmp_path: Path) -> Iterator[Serve]:
    """Starts the verb on free ports: a server of the test before may be on its way out of the usual ones."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SERVE, "serve", "--repository", str(repository)]
        command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        command += ["--run-dir", str(run_dir.root), "--log", str(tmp_path / "log"), *options]
        with (tmp_path / "err").open("ab") as err:
            started.append(subprocess.Popen(command, stdout=err, stderr=err))
        return started[-1]

    yield start
    for process in started:
        process.terminate()  # killed, it would leave shared memory behind where a stub has died
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def state_of(run_dir: RunDir) -> dict[str, Any]:
    path = run_dir.root / "serve.json"
    state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return state


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_serve_until_sigterm(teg_serve: Serve, run_dir: RunDir, eventually: Callable[..., None]) -> None:
    """Only the models named are served; the key is private; SIGTERM ends everything with exit code 0."""
    process = teg_serve("--models", "identity")
    eventually(lambda: state_of(run_dir), within_s=PATIENCE_S)
    state = state_of(run_dir)
    assert state["models"] == ["identity"]
    assert state["pid"] == process.pid
    assert stat.S_IMODE(run_dir.api_key.stat().st_mode) == 0o600
    with grpc.InferenceServerClient(f"127.0.0.1:{state['grpc']}") as client:
        assert client.is_model_ready("identity")
        assert not client.is_model_ready("sleeper")
    stubs = [page.pid for page in run_dir.open_instances()]
    assert len(stubs) == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    assert gone(state["server_pid"])
    eventually(lambda: all(gone(pid) for pid in stubs))
    assert not state_of(run_dir)
    assert not list(run_dir.instances.iterdir())
    assert not run_dir.api_key.exists()


def test_a_second_server_is_refused(
    teg_serve: Serve, run_dir: RunDir, eventually: Callable[..., None], tmp_path: Path
) -> None:
    """One run directory has one server; the second exits with 3 and does not disturb the first."""
    teg_serve("--models", "identity")
    eventually(lambda: state_of(run_dir), within_s=PATIENCE_S)
    before = state_of(run_dir)
    assert teg_serve("--models", "identity").wait(PATIENCE_S) == 3
    assert "another server" in (tmp_path / "err").read_text()
    assert state_of(run_dir) == before
    with grpc.InferenceServerClient(f"127.0.0.1:{before['grpc']}") as client:
        assert client.is_model_ready("identity")


def test_a_killed_parent_takes_the_server_along(
    teg_serve: Serve, run_dir: RunDir, eventually: Callable[..., None]
) -> None:
    """kill -9 of `teg serve` leaves no server and no stub, and the run directory can be used again."""
    process = teg_serve("--models", "identity")
    eventually(lambda: state_of(run_dir), within_s=PATIENCE_S)
    server_pid = state_of(run_dir)["server_pid"]
    stubs = [page.pid for page in run_dir.open_instances()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    eventually(lambda: gone(server_pid) and all(gone(pid) for pid in stubs), within_s=PATIENCE_S)
    again = teg_serve("--models", "identity")
    eventually(lambda: state_of(run_dir).get("pid") == again.pid, within_s=PATIENCE_S)


def test_a_server_waits_for_its_ports(
    teg_serve: Serve, run_dir: RunDir, eventually: Callable[..., None], tmp_path: Path
) -> None:
    """A port of a server that is on its way out is waited for; one that stays taken is named, with exit code 3."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert teg_serve("--models", "identity", "--grpc-port", port).wait(PATIENCE_S) == 3
        assert f"--grpc-port: 127.0.0.1:{port}" in (tmp_path / "err").read_text()
        process = teg_serve("--models", "identity", "--grpc-port", port)
        # assembled just before the ports are claimed
        eventually((cache_folder(run_dir.root) / "repository" / "identity").exists, within_s=PATIENCE_S)
        time.sleep(0.5)
        assert process.poll() is None
    eventually(lambda: state_of(run_dir).get("pid") == process.pid, within_s=PATIENCE_S)
    assert state_of(run_dir)["grpc"] == int(port)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--address", "10.0.0.1"], 3, "not loopback"),
        (["--address", "nowhere"], 2, "--address"),
        (["--models", "nobody"], 2, "no model 'nobody'"),
        (["--tritonserver", "/nowhere/tritonserver"], 2, "not a file"),
        (["--models", "unable"], 1, "model 'unable'"),
    ],
)
def test_refusals(
    teg_serve: Serve, repository: Path, tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    """What cannot be served says why, in its exit code too."""
    triton_repo.identity(repository, "unable", triton_repo.X_TO_Y, slo_ms="soon")
    assert teg_serve(*options).wait(PATIENCE_S) == code
    assert words in (tmp_path / "err").read_text()


def test_unload_answers_what_waits(
    repository: Path, run_dir: RunDir, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    """Unloading a model with requests outstanding loses none of them; only a publisher with the key can."""
    answers: list[Any] = []
    hold = triton_repo.Hold(run_dir.root)
    given = grpc.InferInput("X", (1, 2), "FP32")
    given.set_data_from_numpy(np.full((1, 2), triton_repo.HELD, np.float32))
    with TritonServer(repository, run_dir=run_dir.root, log_path=tmp_path / "log", publish=True) as server:
        page = InstancePage.open(run_dir.instance_page("passed_on_0_0"))
        with grpc.InferenceServerClient(server.grpc_url) as client, ThreadPoolExecutor(1) as other:
            hold.begin()
            try:
                for _ in range(8):
                    client.async_infer("passed_on", [given], lambda result, error: answers.append(error))
                eventually(lambda: page.in_flight == 8)
                with pytest.raises(InferenceServerException):
                    client.unload_model("passed_on")
                unloaded = other.submit(client.unload_model, "passed_on", headers=server.grpc_headers)
                eventually(lambda: not client.is_model_ready("passed_on"))
                assert not answers
            finally:
                hold.end()
            unloaded.result(PATIENCE_S)
            eventually(lambda: len(answers) == 8)
        page.close()
    assert answers == [None] * 8


def test_a_stub_that_dies_is_noticed_and_started_again(
    teg_serve: Serve, run_dir: RunDir, eventually: Callable[..., None], tmp_path: Path
) -> None:
    """kill -9 of a model's process: Triton calls it ready, we do not within 5 s, and soon it serves again.

    With `--publish` the other models go on; without, the server is started again, on the same ports with the same key.
    """
    for options in (("--publish",), ()):
        process = teg_serve("--models", "identity,sleeper", *options)
        eventually(lambda: state_of(run_dir), within_s=PATIENCE_S)
        before, key = state_of(run_dir), run_dir.api_key.read_text()
        (stub,) = (page.pid for page in run_dir.open_instances())
        with grpc.InferenceServerClient(f"127.0.0.1:{before['grpc']}") as client:
            killed_s = time.monotonic()
            os.kill(stub, signal.SIGKILL)
            eventually(lambda: state_of(run_dir)["models"] == ["sleeper"])
            assert time.monotonic() - killed_s < 5.0
            assert "not healthy" in state_of(run_dir)["down"]["identity"]
            assert client.is_model_ready("identity")
            eventually(lambda: state_of(run_dir)["models"] == ["identity", "sleeper"], within_s=PATIENCE_S)
        after = state_of(run_dir)
        assert after["faults"] == {"stub": 1}
        assert after["down"] == {}
        assert (after["grpc"], run_dir.api_key.read_text()) == (before["grpc"], key)
        assert (after["server_pid"] == before["server_pid"]) == bool(options)
        assert "stub of model 'identity' died" in (tmp_path / "err").read_text()
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        assert "Traceback" not in (tmp_path / "err").read_text()


def test_a_server_that_dies_is_started_again(
    teg_serve: Serve, run_dir: RunDir, eventually: Callable[..., None], tmp_path: Path
) -> None:
    """kill -9 of the server: nothing is said to be ready, until it serves again on the same ports; twice in a row."""
    process = teg_serve("--models", "identity")
    eventually(lambda: state_of(run_dir), within_s=PATIENCE_S)
    before = state_of(run_dir)
    for times in (1, 2):
        os.kill(state_of(run_dir)["server_pid"], signal.SIGKILL)
        eventually(lambda: state_of(run_dir)["models"] == [], within_s=5.0)
        eventually(lambda: state_of(run_dir)["models"] == ["identity"], within_s=PATIENCE_S)
        assert state_of(run_dir)["faults"] == {"server": times}
        with grpc.InferenceServerClient(f"127.0.0.1:{before['grpc']}") as client:
            infer_once(client, "identity")
    assert (tmp_path / "err").read_text().count("server died") == 2
    process.terminate()
    assert process.wait(PATIENCE_S) == 0
    assert not state_of(run_dir)


def test_without_supervision_it_ends_with_the_server(
    teg_serve: Serve, run_dir: RunDir, eventually: Callable[..., None], tmp_path: Path
) -> None:
    """For a service manager that starts things again itself: exit code 1, and nothing left behind."""
    process = teg_serve("--models", "identity", "--no-supervision")
    eventually(lambda: state_of(run_dir), within_s=PATIENCE_S)
    os.kill(state_of(run_dir)["server_pid"], signal.SIGKILL)
    assert process.wait(PATIENCE_S) == 1
    assert "tritonserver ended with -9" in (tmp_path / "err").read_text()
    assert not state_of(run_dir)


@pytest.mark.parametrize("who", ["stub", "server"])
def test_a_version_that_kills_is_taken_back(
    teg_serve: Serve, repository: Path, run_dir: RunDir, eventually: Callable[..., None], who: str
) -> None:
    """What dies while a version is on trial comes back without it, whoever watched that version."""
    shutil.copytree((repository / "identity").resolve(), repository / "own")
    versions = Versions(repository / "own")
    versions.begin(Trial(2, 1, "a job"), {}, lambda folder: (folder / "notes").write_text("none") and None)
    teg_serve("--models", "own", "--publish")
    eventually(lambda: state_of(run_dir), within_s=PATIENCE_S)

    def served() -> list[str]:
        with grpc.InferenceServerClient(f"127.0.0.1:{state_of(run_dir)['grpc']}") as client:
            return list(client.get_model_metadata("own").versions)

    assert served() == ["2"]
    (stub,) = (page.pid for page in run_dir.open_instances())
    os.kill(stub if who == "stub" else state_of(run_dir)["server_pid"], signal.SIGKILL)
    eventually(lambda: not state_of(run_dir)["models"])
    eventually(lambda: state_of(run_dir)["models"] == ["own"], within_s=PATIENCE_S)
    assert served() == ["1"]
    assert versions.trial is None
    assert versions.outcome_of("a job") == RolledBack(2, f"{REASON[who]} died while it was on trial")


REASON = {"stub": "its process", "server": "the server"}


def test_example_models_are_the_default() -> None:
    """Without --repository the packaged models are served."""
    assert serve_cli._example_models() == triton_repo.REPOSITORY
