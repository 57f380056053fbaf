# SPDX-License-Identifier: Apache-2.0
"""The model `finetune` on a real server: samples and orders for jobs arrive as ordinary inference requests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_repo
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from governor.server import TritonServer
from telemetry.instance_page import InstancePage
from telemetry.spool import JobState, Spool, read_samples

Client = grpc.InferenceServerClient
ANSWER_S = 20.0


@contextmanager
def serving(folder: Path, repository: Path) -> Iterator[TritonServer]:
    """A server of these models, whose samples and jobs lie in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEG_SPOOL_DIR", str(folder / "spool"))
        with TritonServer(repository, run_dir=folder / "run", log_path=folder / "log", publish=True) as up:
            yield up


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The packaged configuration, and one with little room that refuses what does not fit."""
    folder = tmp_path_factory.mktemp("finetune")
    repository = folder / "repository"
    shutil.copytree(triton_repo.REPOSITORY / "finetune", repository / "finetune")
    tight = repository / "tight"
    shutil.copytree(repository / "finetune", tight)
    config = (tight / "config.pbtxt").read_text().replace('"256"', '"1"').replace("drop-oldest", "refuse")
    (tight / "config.pbtxt").write_text(config.replace('"16"', '"1"').replace('"digits_cnn,', '"small=digits_cnn,'))
    with serving(folder, repository) as up:
        yield up


@pytest.fixture
def spool(served: TritonServer) -> Iterator[Spool]:
    """The server's spool, emptied of samples and jobs afterwards."""
    spool = Spool(served.run_dir.root.parent / "spool")
    yield spool
    for model in ("digits_cnn", "bert_mini", "small"):
        spool.forget(model)


@pytest.fixture
def client(served: TritonServer) -> Iterator[Client]:
    with Client(served.grpc_url) as client:
        yield client


def tensor(name: str, array: Any, kind: Any = grpc) -> Any:
    array = np.asarray(array)
    dtype = {"f": "FP32", "i": "INT64"}.get(array.dtype.kind, "BYTES")
    given = kind.InferInput(name, list(array.shape), dtype)
    given.set_data_from_numpy(array)
    return given


def text(*rows: str) -> Any:
    return np.array([[row.encode()] for row in rows], dtype=np.object_)


def samples(labels: list[int], value: float, model: str = "digits_cnn", kind: Any = grpc) -> list[Any]:
    image = np.full((len(labels), 1, 8, 8), value, np.float32)
    names = tensor("MODEL", text(*[model] * len(labels)), kind)
    return [names, tensor("LABEL", [[label] for label in labels], kind), tensor("IMAGE", image, kind)]


def ask(client: Any, inputs: list[Any], model: str = "finetune") -> dict[str, Any]:
    limit: dict[str, Any] = {"client_timeout": ANSWER_S} if isinstance(client, Client) else {}
    answer: dict[str, Any] = json.loads(client.infer(model, inputs, **limit).as_numpy("REPLY")[0, 0])
    return answer


def command(client: Any, about: object, model: str = "finetune") -> dict[str, Any]:
    return ask(client, [tensor("COMMAND", text(json.dumps(about)))], model)


def stub_of(served: TritonServer) -> int:
    """The process of the model, however late it beats on a busy host."""
    return InstancePage.open(served.run_dir.instance_page("finetune_0_0")).pid


def stored(spool: Spool, model: str = "digits_cnn") -> list[tuple[float, int]]:
    """The first value and the label of every sample."""
    found = read_samples(spool.samples(model))
    return [(float(np.frombuffer(tensors["IMAGE"], np.float32)[0]), label) for tensors, label in found]


def test_samples_over_both_protocols(served: TritonServer, client: Client, spool: Spool) -> None:
    """A labelled tensor sent over gRPC or HTTP lies in the spool when the reply comes; nobody else may read it."""
    assert ask(client, samples([1, 2], 0.5)) == {"stored": 2, "samples": 2}
    with http.InferenceServerClient(served.http_url) as other:
        assert ask(other, samples([3], 0.25, kind=http)) == {"stored": 1, "samples": 3}
    assert stored(spool) == [(0.5, 1), (0.5, 2), (0.25, 3)]
    for path in (spool.root, *spool.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_tokens(client: Client, spool: Spool) -> None:
    """A model of two inputs is taught through the same model."""
    ids, mask = np.arange(64)[None], np.ones((1, 64), np.int64)
    rest = [tensor("INPUT_IDS", ids), tensor("ATTENTION_MASK", mask), tensor("LABEL", [[1]])]
    assert ask(client, [tensor("MODEL", text("bert_mini")), *rest])["stored"] == 1
    ((tensors, label),) = read_samples(spool.samples("bert_mini"))
    assert np.frombuffer(tensors["INPUT_IDS"], np.int64).tolist() == list(range(64))
    assert label == 1


def test_good_and_bad_at_once(served: TritonServer, client: Client, spool: Spool) -> None:
    """Of many requests at once each bad one is refused alone, each good one stored once, and the process lives on."""
    before = stub_of(served)
    good = [samples([number % 10], float(number)) for number in range(60)]
    bad = [samples([10], 0.5), samples([1], float("nan")), samples([1], float("inf")), samples([1], 0.5, "nobody")]
    bad += [[tensor("COMMAND", text(broken))] for broken in ("{", "[]", '{"job": "no such job"}')]
    bad += [samples([1], 0.5)[:2], [tensor("LABEL", [[1]])]]
    codes: Counter[str] = Counter()

    def send(inputs: list[Any]) -> None:
        with Client(served.grpc_url) as own:
            try:
                own.infer("finetune", inputs)
                codes["stored"] += 1
            except InferenceServerException as error:
                codes[str(error.status())] += 1

    mixed = [inputs for number, inputs in enumerate(good) for inputs in (inputs, bad[number % len(bad)])]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, mixed))
    assert codes == {"stored": 60, "StatusCode.INVALID_ARGUMENT": 60}
    assert sorted(stored(spool)) == [(float(number), number % 10) for number in range(60)]
    assert stub_of(served) == before


def test_a_job(client: Client, spool: Spool) -> None:
    """A job is started, asked after and cancelled by requests; its record is the spool's."""
    ask(client, samples([1, 2], 0.5))
    job = command(client, {"start": {"model": "digits_cnn", "epochs": 3, "budget": "50%"}})["job"]
    assert command(client, {"job": job})["state"] == "queued"
    assert spool.status(job).request.epochs == 3
    assert command(client, {"cancel": job}) == {"cancelled": True}
    assert spool.status(job).state is JobState.CANCELLED
    with pytest.raises(InferenceServerException, match="epochs must be") as refused:
        command(client, {"start": {"model": "digits_cnn", "epochs": -1}})
    assert "INVALID_ARGUMENT" in str(refused.value.status())


def fill(client: Client) -> None:
    for _ in range(80):
        ask(client, samples([1] * 64, 0.5, "small"), "tight")


def test_no_room_is_unavailable(client: Client, spool: Spool) -> None:
    """Where the policy is to refuse, samples that do not fit are, and so are more jobs than may wait; others go on."""
    with pytest.raises(InferenceServerException, match="no room for another sample") as full:
        fill(client)
    assert "UNAVAILABLE" in str(full.value.status())
    command(client, {"start": {"model": "small"}}, "tight")
    with pytest.raises(InferenceServerException, match="1 jobs are waiting or running") as queue:
        command(client, {"start": {"model": "small"}}, "tight")
    assert "UNAVAILABLE" in str(queue.value.status())
    assert ask(client, samples([1], 0.5))["stored"] == 1


def test_what_was_answered_survives_a_kill(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """kill -9 of the process in the midst of samples: every one that was answered is there, once, and none is torn.

    The request that it was at may never be answered and keep Triton from unloading the model, hence servers of its own.
    """
    repository = tmp_path / "repository"
    shutil.copytree(triton_repo.REPOSITORY / "finetune", repository / "finetune")
    answered: list[int] = []

    def teach(url: str) -> None:
        with Client(url) as own:
            for number in range(100_000):
                try:
                    ask(own, samples([number % 10], float(number)))
                except InferenceServerException:
                    return
                answered.append(number)

    with serving(tmp_path, repository) as up:
        teacher = threading.Thread(target=teach, args=(up.grpc_url,))
        teacher.start()
        eventually(lambda: len(answered) > 50, within_s=120.0)
        os.kill(stub_of(up), signal.SIGKILL)
        teacher.join()
    found = [int(value) for value, _ in stored(Spool(tmp_path / "spool"))]
    assert len(found) == len(set(found))
    assert found[: len(answered)] == answered
    assert len(found) <= len(answered) + 1
    with serving(tmp_path, repository) as again, Client(again.grpc_url) as own:
        assert ask(own, samples([1], -1.0))["samples"] == len(found) + 1


def test_it_is_nothing_to_govern(served: TritonServer) -> None:
    """Its instance says that it works for no board and promises nothing."""
    info = InstancePage.open(served.run_dir.instance_page("finetune_0_0")).info
    assert info is not None
    assert (info.virtual_workload, info.slo_s) == ("none", 0.0)
