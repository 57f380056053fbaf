# SPDX-License-Identifier: Apache-2.0
"""Trained weights rolled out on a real server under load: kept, or taken back, and no request fails for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import triton_repo
import tritonclient.grpc as grpc
from safetensors.torch import load_file, save_file
from tritonclient.utils import InferenceServerException

from governor.errors import CannotPublish
from governor.rollout import find_target, publish_trained
from governor.server import TritonServer
from governor.serving import read_rollout
from governor.supervision import Supervisor
from governor.unwatched import UNWATCHED_S
from governor.versions import RolledBack, RolledOut, Trial, Versions
from telemetry.instance_page import Counter as Word
from telemetry.instance_page import InstancePage

Weights = dict[str, torch.Tensor]
Eventually = Callable[..., None]
IMAGE = np.random.default_rng(0).random((1, 1, 8, 8), np.float32)
WATCH_S = 2.0
PUBLISH = """
import sys
from pathlib import Path
from safetensors.torch import load_file
from governor.rollout import publish_trained
publish_trained(Path(sys.argv[1]), "digits_cnn", load_file(sys.argv[2]), job=sys.argv[3], watch_s=600.0)
"""


class Clients:
    """So many clients, each with one request after the other; the versions that answered, and the errors."""

    def __init__(self, url: str, count: int = 1) -> None:
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        self.versions: Counter[str] = Counter()
        self.errors: list[str] = []

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        given = grpc.InferInput("IMAGE", IMAGE.shape, "FP32")
        given.set_data_from_numpy(IMAGE)
        with grpc.InferenceServerClient(self._url) as client:
            while not self._stop.wait(0.01):
                try:
                    answer = client.infer("digits_cnn", [given], client_timeout=30)
                    self.versions[answer.get_response().model_version] += 1
                except InferenceServerException as error:
                    self.errors.append(error.message())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("rollout")
    repository = folder / "repository"
    model = repository / "digits_cnn"
    model.mkdir(parents=True)
    shutil.copy(triton_repo.REPOSITORY / "digits_cnn" / "labels.txt", model)
    config = (triton_repo.REPOSITORY / "digits_cnn" / "config.pbtxt").read_text()
    (model / "config.pbtxt").write_text(config.replace('"50"', '"500"'))
    shutil.copytree(triton_repo.REPOSITORY / "digits_cnn" / "1", model / "1")
    shutil.copytree(triton_repo.REPOSITORY / "identity", repository / "identity")
    run_dir = folder / "run"
    with TritonServer(repository, run_dir=run_dir, log_path=folder / "log", publish=True, ready_s=240.0) as up:
        yield up


@pytest.fixture
def run_dir(server: TritonServer) -> Path:
    return server.run_dir.root


@pytest.fixture
def versions(server: TritonServer) -> Versions:
    return Versions(server.repository / "digits_cnn")


@pytest.fixture
def weights(run_dir: Path) -> Weights:
    """The serving version's, a little changed."""
    found = load_file(find_target(run_dir, "digits_cnn").weights)
    return {name: tensor + 0.01 * torch.randn(tensor.shape) for name, tensor in found.items()}


def serving(server: TritonServer) -> int:
    return find_target(server.run_dir.root, "digits_cnn").version


def page_of(server: TritonServer, version: int, eventually: Eventually) -> InstancePage:
    """The page of a version's instance, as soon as it is there."""

    def there() -> InstancePage | None:
        page = InstancePage.open(server.run_dir.instance_page("digits_cnn_0_0"), writable=True)
        if page.info is not None and page.info.version == str(version):
            return page
        page.close()
        return None

    found: list[InstancePage] = []
    eventually(lambda: found or ((page := there()) and found.append(page)) or found)
    return found[0]


def test_no_request_fails(server: TritonServer, versions: Versions, weights: Weights, run_dir: Path) -> None:
    """Under load the next version takes over, answers as its weights do, says where it came from, and stays."""
    base, number = serving(server), versions.fresh
    with Clients(server.grpc_url) as clients:
        done = publish_trained(run_dir, "digits_cnn", weights, job="kept", about={"steps": 7}, watch_s=WATCH_S)
    assert isinstance(done, RolledOut)
    assert done.version == number == serving(server)
    assert done.requests > 20
    assert not clients.errors
    assert set(clients.versions) == {str(base), str(number)}
    said = json.loads((versions.path(done.version) / "published.json").read_text())
    assert said == {"job": "kept", "base": base, "steps": 7}
    assert torch.equal(load_file(versions.path(done.version) / "model.safetensors")["0.bias"], weights["0.bias"])
    assert versions.trial is None
    assert read_rollout(run_dir) is None
    again = publish_trained(run_dir, "digits_cnn", weights, job="kept", watch_s=WATCH_S)
    assert again == RolledOut(done.version)
    assert versions.fresh == done.version + 1


@pytest.mark.external
def test_one_that_makes_requests_late_is_taken_back(
    server: TritonServer, versions: Versions, weights: Weights, run_dir: Path, eventually: Eventually
) -> None:
    """A version whose requests break the objective goes, the one before it answers again, and no request fails."""
    base, number = serving(server), versions.fresh

    def slow_down() -> None:
        page = page_of(server, number, eventually)
        page.write_stretch((700.0,) * 8)  # as a virtual board's clockd would, for a version this much heavier
        page.close()

    slowing = threading.Thread(target=slow_down)
    slowing.start()
    with Clients(server.grpc_url, count=4) as clients:
        done = publish_trained(run_dir, "digits_cnn", weights, job="slow", watch_s=60.0)
        slowing.join()
        before = clients.versions[str(base)]
        eventually(lambda: clients.versions[str(base)] > before)
    assert isinstance(done, RolledBack)
    assert "took over 500 ms" in done.reason
    assert serving(server) == base
    assert not clients.errors
    assert versions.outcome_of("slow") == done
    assert publish_trained(run_dir, "digits_cnn", weights, job="slow") == done


def test_one_that_dies_is_taken_back(
    server: TritonServer, versions: Versions, weights: Weights, run_dir: Path, eventually: Eventually
) -> None:
    """A version whose process dies fails its canary; the one before it answers again."""
    base, number = serving(server), versions.fresh

    def kill() -> None:
        # One that dies within its load, or while it answers, may take this Triton along: a lock in shared memory stays
        # with it (boost::interprocess::lock_exception). `teg serve` starts another one then; here there is none.
        eventually(lambda: serving(server) == number, within_s=90.0)
        page = page_of(server, number, eventually)
        eventually(lambda: page.counter(Word.REQUESTS) > 0 and not page.in_flight)
        time.sleep(0.1)
        os.kill(page.pid, signal.SIGKILL)
        page.close()

    killing = threading.Thread(target=kill)
    killing.start()
    done = publish_trained(run_dir, "digits_cnn", weights, job="dead", watch_s=60.0)
    killing.join()
    assert isinstance(done, RolledBack)
    assert "its canary failed" in done.reason
    assert serving(server) == base
    with Clients(server.grpc_url) as clients:
        eventually(lambda: clients.versions[str(base)] > 3)
    assert not clients.errors


def test_one_that_does_not_load_is_taken_back(
    server: TritonServer, versions: Versions, weights: Weights, run_dir: Path
) -> None:
    """Weights that a crash left damaged are never served: the version before them answers all along."""
    base = serving(server)
    damaged = Trial(versions.fresh, base, "damaged")
    versions.begin(damaged, {}, lambda folder: (folder / "model.safetensors").write_bytes(b"torn") and None)
    with Clients(server.grpc_url) as clients:
        done = publish_trained(run_dir, "digits_cnn", weights, job="damaged", watch_s=WATCH_S)
    assert isinstance(done, RolledBack)
    assert "it does not load" in done.reason
    assert not clients.errors
    assert set(clients.versions) == {str(base)}


def test_one_that_answers_otherwise_is_taken_back(
    server: TritonServer, versions: Versions, weights: Weights, run_dir: Path
) -> None:
    """The canary knows what these weights answer: a version of other weights does not pass for them."""
    base = serving(server)
    other = {name: torch.randn(tensor.shape) for name, tensor in weights.items()}
    versions.begin(
        Trial(versions.fresh, base, "other"), {}, lambda folder: save_file(other, folder / "model.safetensors")
    )
    done = publish_trained(run_dir, "digits_cnn", weights, job="other", watch_s=WATCH_S)
    assert isinstance(done, RolledBack)
    assert "answers otherwise than its weights" in done.reason
    assert serving(server) == base


def test_a_killed_publisher_is_taken_up(
    server: TritonServer, versions: Versions, weights: Weights, run_dir: Path, eventually: Eventually, tmp_path: Path
) -> None:
    """Killed while it watches, a job goes on with the same version when it is called again."""
    save_file(weights, tmp_path / "weights")
    base, number = serving(server), versions.fresh
    command = [sys.executable, "-c", PUBLISH, str(run_dir), str(tmp_path / "weights"), "killed"]
    publisher = subprocess.Popen(command)
    eventually(lambda: serving(server) == number, within_s=90.0)
    publisher.kill()
    publisher.wait()
    assert versions.trial == Trial(number, base, "killed")
    assert read_rollout(run_dir) is None
    done = publish_trained(run_dir, "digits_cnn", weights, job="killed", watch_s=WATCH_S)
    assert isinstance(done, RolledOut)
    assert done.version == number


def test_an_abandoned_version_is_taken_back_first(
    server: TritonServer, versions: Versions, weights: Weights, run_dir: Path
) -> None:
    """A job that finds another one's version on trial and nobody who watches it does not build on it."""
    base, number = serving(server), versions.fresh
    versions.begin(Trial(number, base, "lost"), {}, lambda folder: save_file(weights, folder / "model.safetensors"))
    damaged = {name: torch.full_like(tensor, float("nan")) for name, tensor in weights.items()}
    with pytest.raises(CannotPublish, match="NaN"):
        publish_trained(run_dir, "digits_cnn", damaged, job="next")
    assert versions.outcome_of("lost") == RolledBack(number, "whoever published it did not watch it")
    assert serving(server) == base


@pytest.mark.external
def test_one_that_nobody_watches_is_taken_back(
    server: TritonServer, versions: Versions, weights: Weights, run_dir: Path, eventually: Eventually
) -> None:
    """Its publisher was killed for good: the supervisor has the version before it served, and no request fails."""
    now_s = 0.0
    supervisor = Supervisor(server, clock=lambda: now_s)
    base, number = serving(server), versions.fresh
    versions.begin(Trial(number, base, "gone"), {}, lambda folder: save_file(weights, folder / "model.safetensors"))
    with Clients(server.grpc_url) as clients:
        with grpc.InferenceServerClient(server.grpc_url) as client:
            client.load_model("digits_cnn", headers=server.grpc_headers)
        eventually(lambda: clients.versions[str(number)] > 0)
        supervisor.look()
        assert versions.trial == Trial(number, base, "gone")
        now_s = UNWATCHED_S
        supervisor.look()
        answered = clients.versions[str(base)]
        eventually(lambda: clients.versions[str(base)] > answered)
    done = versions.outcome_of("gone")
    assert isinstance(done, RolledBack)
    assert "nobody watched it" in done.reason
    assert (serving(server), server.failed, clients.errors) == (base, {}, [])


def test_what_cannot_be_published(server: TritonServer, versions: Versions, weights: Weights, run_dir: Path) -> None:
    """Refused before anything is written, and whether waiting may help is said."""
    before = sorted(path.name for path in versions.folder.iterdir())
    halves = {name: tensor[:1] for name, tensor in weights.items()}
    broken = weights | {"0.bias": torch.full_like(weights["0.bias"], float("nan"))}
    for model, given, words in (
        ("digits_cnn", halves, "size mismatch"),
        ("digits_cnn", broken, "NaN or infinity"),
        ("identity", weights, "engine 'torch'"),
        ("nobody", weights, "not served; served are digits_cnn, identity"),
    ):
        with pytest.raises(CannotPublish, match=words) as refused:
            publish_trained(run_dir, model, given, job="refused")
        assert not refused.value.waiting
    with pytest.raises(CannotPublish, match="no server runs") as refused:
        publish_trained(run_dir / "elsewhere", "digits_cnn", weights, job="refused")
    assert refused.value.waiting
    assert sorted(path.name for path in versions.folder.iterdir()) == before


def test_a_server_without_the_mode_is_not_asked(run_dir: Path, tmp_path: Path) -> None:
    """Without --publish no version is written that nobody would load."""
    (tmp_path / "serve.json").write_text(
        json.dumps(json.loads((run_dir / "serve.json").read_text()) | {"publish": False})
    )
    with pytest.raises(CannotPublish, match="teg serve --publish"):
        find_target(tmp_path, "digits_cnn")
