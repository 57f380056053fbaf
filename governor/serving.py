# SPDX-License-Identifier: Apache-2.0
"""What `teg serve` says of itself in the run directory, and what a publisher says while it watches a version."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from telemetry import durable
from telemetry.rundir import RunDir

SERVED, ROLLOUT = "serve.json", "rollout.json"
KEY_HEADER = "teg-api-key"
"""HTTP header of the restricted interfaces; in gRPC metadata it is `triton-grpc-protocol-teg-api-key`."""


log = logging.getLogger("teg.serve")


@dataclass(frozen=True, slots=True)
class Served:
    """A server: whose child it is, where it listens, and which of its models answer."""

    pid: int
    server_pid: int
    address: str
    http: int
    grpc: int
    metrics: int
    models: tuple[str, ...]
    """Those that answer."""
    repository: str = ""
    publish: bool = False
    """Whether the holder of the API key may load versions."""
    down: Mapping[str, str] = field(default_factory=dict)
    """Models that do not answer, and why."""
    faults: Mapping[str, int] = field(default_factory=dict)
    """What died since `teg serve` started, by kind: `server`, `stub`."""

    @property
    def grpc_url(self) -> str:
        """`host:port`, as Triton's gRPC client wants it."""
        return url(self.address, self.grpc)


@dataclass(frozen=True, slots=True)
class Watched:
    """A version that is served on trial, and the process that watches it."""

    pid: int
    model: str
    version: int
    base: int


def url(address: str, port: int) -> str:
    """`host:port`, with IPv6 addresses in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def grpc_headers(api_key: str) -> dict[str, str]:
    """What a gRPC call of a restricted interface must carry."""
    return {f"triton-grpc-protocol-{KEY_HEADER}": api_key}


def write_served(run_dir: Path, served: Served) -> None:
    """Say where the server stands; read with `read_served`."""
    durable.replace(run_dir / SERVED, json.dumps(asdict(served)).encode())


def read_served(run_dir: Path) -> Served | None:
    """The server of a run directory, None if none is alive there."""
    known = _read(run_dir / SERVED)
    try:
        return Served(**known | {"models": tuple(known["models"])}) if known else None
    except (TypeError, KeyError):
        return None


def read_key(run_dir: Path) -> str:
    """The API key of a run directory; raises `OSError` if there is none, or none for us."""
    return RunDir(run_dir).api_key.read_text()


@contextmanager
def watching(run_dir: Path, model: str, version: int, base: int) -> Iterator[None]:
    """Say for as long as the block lasts that a version is on trial: whoever may slow it down should not."""
    path = run_dir / ROLLOUT
    try:
        durable.replace(path, json.dumps(asdict(Watched(os.getpid(), model, version, base))).encode())
    except OSError as error:
        log.warning("nobody is told that version %s of %s is on trial: %s", version, model, error)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def read_rollout(run_dir: Path) -> Watched | None:
    """The version on trial in a run directory, None without one or if nobody watches it any more."""
    known = _read(run_dir / ROLLOUT)
    try:
        return Watched(**known) if known else None
    except TypeError:
        return None


def _read(path: Path) -> dict[str, Any] | None:
    """The object in a file whose writer lives, None otherwise."""
    try:
        known = json.loads(path.read_bytes())
        alive = Path(f"/proc/{int(known['pid'])}").exists()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if alive else None
