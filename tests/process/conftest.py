# SPDX-License-Identifier: Apache-2.0
"""One real Triton server for every test of the backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import triton_repo
import tritonclient.grpc as grpc

from governor.server import TritonServer
from telemetry.instance_page import InstancePage, Knobs


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("triton")
    repository = folder / "repository"
    repository.mkdir()
    triton_repo.build(repository)
    with TritonServer(
        repository, run_dir=folder / "run", log_path=folder / "log", strict=False, ready_s=240.0
    ) as running:
        yield running


@pytest.fixture
def client(server: TritonServer) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(server.grpc_url) as client:
        yield client


@pytest.fixture
def open_page(server: TritonServer) -> Iterator[Callable[[str], InstancePage]]:
    """Maps the page of a model's first instance, writable as the governor would; its knobs end with the test."""
    pages: list[InstancePage] = []

    def open_one(model: str) -> InstancePage:
        pages.append(InstancePage.open(server.run_dir.instance_page(f"{model}_0_0"), writable=True))
        return pages[-1]

    yield open_one
    for page in pages:
        page.write_knobs(Knobs(1, 0), ttl_s=0)
        page.close()


def eventually(condition: Callable[[], object], within_s: float = 30.0) -> None:
    """Wait until `condition` holds; fails after `within_s`, which bounds a failure and promises nothing."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition never held"
        time.sleep(0.01)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., None]:
    return eventually


@pytest.fixture
def log_of(server: TritonServer) -> Callable[[], str]:
    """The server's log so far."""
    path = server.log_path or Path()
    return path.read_text
