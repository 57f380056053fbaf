# SPDX-License-Identifier: Apache-2.0
"""Triton as a child process: on loopback, locked down, judged ready by a real inference, ended without remains."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from telemetry import durable
from telemetry.rundir import RunDir, default_run_dir

from .backend_folder import assemble_backends, assemble_repository, cache_folder, find_installation, models_in
from .canary import CANARY_S, answers, ask
from .errors import ModelsFailed, ServerBusy, ServerFailed
from .ports import ANY, Ports, claim
from .server_process import STOP_S, end_server, start_server
from .serving import KEY_HEADER, SERVED, Served, grpc_headers, url, write_served

HASTE_S = 2.0
"""What the requests in flight get when a server is started anew."""
RESTRICTED = "shared-memory,model-repository,trace,logging"


class TritonServer:
    """A Triton server that lives as long as the `with` block.

    `models` are those to serve, by default all of the repository. With `strict` a model that does not answer its canary
    fails the start (`ModelsFailed`); without, it is listed in `failed`. `run_dir` is where instance pages go. The child
    gets SIGTERM when the thread that started it dies, so start it from the main thread.
    """

    def __init__(
        self,
        repository: Path,
        *,
        models: Sequence[str] | None = None,
        run_dir: Path | None = None,
        log_path: Path | None = None,
        ports: Ports = ANY,
        address: str = "127.0.0.1",
        binary: Path | None = None,
        publish: bool = False,
        auto_complete: bool = False,
        strict: bool = True,
        ready_s: float = 120.0,
        extra_args: Sequence[str] = (),
        extra_backends: Sequence[Path] = (),
    ) -> None:
        self.repository = repository
        self.models = list(models) if models is not None else models_in(repository)
        self.run_dir = RunDir(run_dir or default_run_dir())
        self.log_path = log_path
        self.address = str(ipaddress.ip_address(address))
        self.ports = ports
        self.failed: dict[str, str] = {}
        """Models that do not answer, and why."""
        self.faults: Counter[str] = Counter()
        """What died and was started again, by kind: `server`, `stub`."""
        self.api_key = ""
        self.publish = publish
        self._binary = binary
        self._auto_complete = auto_complete
        self._strict = strict
        self._ready_s = ready_s
        self._extra_args = list(extra_args)
        self._extra_backends = list(extra_backends)
        self._shm_prefix = f"teg_{secrets.token_hex(6)}_"
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running().pid

    @property
    def http_url(self) -> str:
        """`host:port`, as Triton's HTTP client wants it."""
        return self._url(self.ports.http)

    @property
    def grpc_url(self) -> str:
        """`host:port`, as Triton's gRPC client wants it."""
        return self._url(self.ports.grpc)

    @property
    def metrics_url(self) -> str:
        """The full address of the metrics page."""
        return f"http://{self._url(self.ports.metrics)}/metrics"

    @property
    def http_headers(self) -> dict[str, str]:
        """What an HTTP request to a restricted interface must carry."""
        return {KEY_HEADER: self.api_key}

    @property
    def grpc_headers(self) -> dict[str, str]:
        """What a gRPC call of a restricted interface must carry."""
        return grpc_headers(self.api_key)

    def start(self) -> None:
        """Start the server and wait until every model has answered an inference.

        Raises `ServerBusy`, `ServerNotInstalled`, `ModelNotFound`, `ServerFailed`, `ModelsFailed`; then nothing is left
        running.
        """
        self.run_dir.make()
        self._take_lock()
        try:
            self._launch()
            self._await_ready()
            self._refuse_failed()
            self.say()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server, by force if it does not go, and remove what it leaves behind."""
        self._end()
        if self._lock is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            for path in (self.run_dir.root / SERVED, self.run_dir.api_key):
                path.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def restart(self) -> None:
        """End what is left of the server and start it anew, on the same ports and with the same key.

        It is not waited for long: a server that has lost a stub never ends by itself. A model that does not answer its
        canary then is listed in `failed`. Raises `ServerBusy`, `ServerFailed`.
        """
        self._end(HASTE_S)
        self._launch()
        self._await_ready()
        self.say()

    def wait(self) -> int:
        """Block until the server ends; its exit code, negative for a signal."""
        return self._running().wait()

    def ended(self) -> int | None:
        """The server's exit code, negative for a signal; None while it runs."""
        return self._process.poll() if self._process else 0

    def say(self) -> None:
        """Write down in the run directory where the server stands."""
        answering = tuple(model for model in self.models if model not in self.failed)
        pid = self._process.pid if self._process else 0
        standing = Served(os.getpid(), pid, self.address, **asdict(self.ports), models=answering)
        standing = replace(standing, repository=str(self.repository.resolve()), publish=self.publish)
        write_served(self.run_dir.root, replace(standing, down=dict(self.failed), faults=dict(self.faults)))

    def canary(self, model: str, timeout_s: float = CANARY_S) -> None:
        """One inference; raises `CanaryFailed`."""
        ask(self.grpc_url, model, timeout_s)

    @property
    def _folder(self) -> Path:
        return cache_folder(self.run_dir.root)

    def _url(self, port: int) -> str:
        return url(self.address, port)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerFailed("the server is not running", self.log_path)
        return self._process

    def _take_lock(self) -> None:
        lock = open(self.run_dir.root / "serve.lock", "w")  # noqa: SIM115 - held until `stop`
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise ServerBusy(f"another server uses the run directory {self.run_dir.root}") from error
        self._lock = lock

    def _launch(self) -> None:
        installation = find_installation(self._binary)
        shutil.rmtree(self._folder, ignore_errors=True)
        backends, repository = self._folder / "backends", self._folder / "repository"
        for folder in (backends, repository):
            folder.mkdir(parents=True)
        assemble_backends(installation, backends, self._extra_backends)
        assemble_repository(self.repository, self.models, repository)
        self.ports = claim(self.ports, self.address)
        self.api_key = self.api_key or secrets.token_urlsafe(24)
        durable.replace(self.run_dir.api_key, self.api_key.encode(), mode=0o600)
        inherited = filter(None, [os.environ.get("LD_LIBRARY_PATH")])
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": ":".join([*map(str, installation.library_path), *inherited]),
            "TEG_RUN_DIR": str(self.run_dir.root),
        }
        arguments = self._arguments(backends, repository)
        self._process = start_server(installation.binary, arguments, environment, self.log_path)

    def _arguments(self, backends: Path, repository: Path) -> list[str]:
        arguments = [
            f"--model-repository={repository}",
            f"--backend-directory={backends}",
            f"--model-control-mode={'explicit' if self.publish else 'none'}",
            "--exit-on-error=false",
            "--strict-readiness=false",
            "--exit-timeout-secs=5",
            f"--http-restricted-api={RESTRICTED}:{KEY_HEADER}={self.api_key}",
            f"--grpc-restricted-protocol={RESTRICTED}:{KEY_HEADER}={self.api_key}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
        ]
        for name, port in asdict(self.ports).items():
            arguments += [f"--{name}-address={self.address}", f"--{name}-port={port}"]
        if not self._auto_complete:
            arguments.append("--disable-auto-complete-config")
        if self.publish:
            arguments += [f"--load-model={model}" for model in self.models]
        return [*arguments, *self._extra_args]

    def _await_ready(self) -> None:
        deadline_s = time.monotonic() + self._ready_s
        self.failed = answers(self.grpc_url, self.models, deadline_s, self._alive)

    def _refuse_failed(self) -> None:
        if self.failed and self._strict:
            raise ModelsFailed(self.failed, self.log_path)

    def _alive(self) -> None:
        if (code := self.ended()) is not None:
            raise ServerFailed(f"tritonserver ended with {code} before it was ready", self.log_path)

    def _end(self, stop_s: float = STOP_S) -> None:
        if self._process is not None:
            end_server(self._process, self._shm_prefix, stop_s)
            self._process = None
