# SPDX-License-Identifier: Apache-2.0
"""A real server answers through every client and engine."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import triton_repo
import tritonclient.grpc as grpc
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http
import tritonclient.http.aio as http_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from governor.server import TritonServer
from model_repository.architectures import architecture
from telemetry.instance_page import Counter, InstancePage

GENERATOR = np.random.default_rng(7)


def tensor(kind: Any, name: str, array: np.ndarray, dtype: str = "FP32") -> Any:
    given = kind.InferInput(name, array.shape, dtype)
    given.set_data_from_numpy(array)
    return given


def scrape(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    with closing(HTTPConnection(parts.netloc, timeout=30)) as connection:
        connection.request("GET", parts.path)
        return connection.getresponse().read().decode()


def pair(kind: Any, a: np.ndarray, b: np.ndarray) -> list[Any]:
    return [tensor(kind, "A", a), tensor(kind, "B", b, "INT64")]


@pytest.fixture
def numbers() -> tuple[np.ndarray, np.ndarray]:
    return GENERATOR.random((3, 4), np.float32), GENERATOR.integers(-(2**60), 2**60, (3, 2))


def check(result: Any, numbers: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.array_equal(result.as_numpy("A2"), numbers[0])
    assert np.array_equal(result.as_numpy("B2"), numbers[1])


def test_grpc_and_http(server: TritonServer, numbers: tuple[np.ndarray, np.ndarray]) -> None:
    """Both protocols carry tensors unharmed."""
    for kind, url in ((grpc, server.grpc_url), (http, server.http_url)):
        with kind.InferenceServerClient(url) as client:
            check(client.infer("pair", pair(kind, *numbers)), numbers)


def test_aio_clients(server: TritonServer, numbers: tuple[np.ndarray, np.ndarray]) -> None:
    """Many concurrent requests of both asynchronous clients each get their own answer."""

    async def ask(kind: Any, wire: Any, url: str) -> None:
        async with kind.InferenceServerClient(url) as client:
            mine = [(numbers[0] + index, numbers[1] + index) for index in range(12)]
            results = await asyncio.gather(*(client.infer("pair", pair(wire, *one)) for one in mine))
            for result, one in zip(results, mine, strict=True):
                check(result, one)

    asyncio.run(ask(grpc_aio, grpc, server.grpc_url))
    asyncio.run(ask(http_aio, http, server.http_url))


def test_system_shared_memory(server: TritonServer, eventually: Callable[..., None]) -> None:
    """A client that holds the API key may pass tensors through shared memory, whose registration is restricted."""
    array = GENERATOR.random((2, 1000), np.float32)
    region = shm.create_shared_memory_region("teg_in", "/teg_test_in", array.nbytes)
    try:
        shm.set_shared_memory_region(region, [array])
        with grpc.InferenceServerClient(server.grpc_url) as client:
            with pytest.raises(InferenceServerException):
                client.register_system_shared_memory("teg_in", "/teg_test_in", array.nbytes)
            client.register_system_shared_memory("teg_in", "/teg_test_in", array.nbytes, headers=server.grpc_headers)
            given = grpc.InferInput("IN", array.shape, "FP32")
            given.set_shared_memory("teg_in", array.nbytes)
            assert np.array_equal(client.infer("echo_open", [given]).as_numpy("OUT"), array)
            # Triton gives the region back a moment after the answer
            eventually(lambda: unregistered(client, "teg_in", server.grpc_headers))
    finally:
        shm.destroy_shared_memory_region(region)


def unregistered(client: grpc.InferenceServerClient, region: str, headers: dict[str, str]) -> bool:
    try:
        client.unregister_system_shared_memory(region, headers=headers)
    except InferenceServerException:
        return False
    return True


def test_restricted_over_http(server: TritonServer) -> None:
    """The repository interface wants the API key over HTTP too."""
    with http.InferenceServerClient(server.http_url) as client:
        with pytest.raises(InferenceServerException) as refused:
            client.get_model_repository_index()
        assert refused.value.status() == "403"
        assert client.get_model_repository_index(headers=server.http_headers)


def test_text_and_unbatched(client: grpc.InferenceServerClient, numbers: tuple[np.ndarray, np.ndarray]) -> None:
    """Text keeps its bytes, and a model without a batch dimension serves."""
    words = np.array([["čau", "", "x" * 3000]], dtype=np.object_)
    echoed = client.infer("echo_bytes", [tensor(grpc, "IN", words, "BYTES")]).as_numpy("OUT")
    assert [word.decode() for word in echoed[0]] == list(words[0])
    result = client.infer("unbatched", pair(grpc, numbers[0][0], numbers[1][0]))
    check(result, (numbers[0][0], numbers[1][0]))


def plain(model: str, *inputs: np.ndarray) -> np.ndarray:
    torch.set_num_threads(1)
    module = architecture(model).build()
    module.load_state_dict(safetensors.torch.load_file(triton_repo.REPOSITORY / model / "1" / "model.safetensors"))
    with torch.inference_mode():
        return module.eval()(*map(torch.from_numpy, inputs)).numpy()


def test_torch_and_onnx_answers(client: grpc.InferenceServerClient) -> None:
    """A torch model answers what plain PyTorch answers, its ONNX export nearly the same."""
    images = GENERATOR.random((5, 1, 8, 8), np.float32)
    expected = plain("digits_cnn", images)
    answers = client.infer("digits_cnn", [tensor(grpc, "IMAGE", images)]).as_numpy("LOGITS")
    assert np.array_equal(answers, expected)
    exported = client.infer("digits_cnn_onnx", [tensor(grpc, "IMAGE", images)]).as_numpy("LOGITS")
    assert np.allclose(exported, expected, atol=1e-4)


def test_transformers_in_the_stub(client: grpc.InferenceServerClient) -> None:
    """A transformers model serves inside Triton; a token that it does not know is the request's fault alone."""
    ids = GENERATOR.integers(0, 1000, (2, 64))
    mask = np.ones((2, 64), np.int64)
    inputs = [tensor(grpc, "INPUT_IDS", ids, "INT64"), tensor(grpc, "ATTENTION_MASK", mask, "INT64")]
    answers = client.infer("bert_mini", inputs).as_numpy("LOGITS")
    assert np.allclose(answers, plain("bert_mini", ids, mask), atol=1e-5)
    inputs[0] = tensor(grpc, "INPUT_IDS", ids + 10**7, "INT64")
    with pytest.raises(InferenceServerException, match="outside what the model knows") as refused:
        client.infer("bert_mini", inputs)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_delegate(client: grpc.InferenceServerClient) -> None:
    """A delegate passes the other model's answers and the words of its errors on (Triton drops their codes)."""
    x = np.array([[1, 2, 3]], np.float32)
    assert np.array_equal(client.infer("passed_on", [tensor(grpc, "X", x)]).as_numpy("Y"), x)
    with pytest.raises(InferenceServerException, match="model 'sleeper': unlucky"):
        client.infer("passed_on", [tensor(grpc, "X", x * 0 + 13)])


def test_wrong_config(server: TritonServer, client: grpc.InferenceServerClient) -> None:
    """A malformed parameter refuses that model, naming what is allowed, and no other."""
    assert list(server.failed) == ["wrong"]
    index = client.get_model_repository_index(headers=server.grpc_headers)
    reasons = {model.name: model.reason for model in index.models}
    assert "parameter 'threads': expected a whole number from 1 to 64, got 'many'" in reasons["wrong"]
    assert client.is_model_ready("pair")


def test_warm_up(open_page: Callable[[str], InstancePage]) -> None:
    """Triton's warm-up request ran before the model was ready: three samples in one batch, then the canary."""
    page = open_page("echo_open")
    samples, _, _ = page.samples_since(0)
    assert samples[0].batch == 3


def test_metrics(
    server: TritonServer,
    client: grpc.InferenceServerClient,
    open_page: Callable[[str], InstancePage],
    eventually: Callable[..., None],
) -> None:
    """What was served appears on Triton's own metrics page, by model and outcome; nothing is lost on the way."""
    series = 'model="echo_open",version="1"'
    array = np.ones((1, 3), np.float32)
    for _ in range(5):
        client.infer("echo_open", [tensor(grpc, "IN", array)])
    with pytest.raises(InferenceServerException, match="NaN"):
        client.infer("echo_open", [tensor(grpc, "IN", array * np.nan)])

    def values() -> dict[str, float]:
        lines = [line.rsplit(" ", 1) for line in scrape(server.metrics_url).splitlines() if line.startswith("teg_")]
        return {name: float(value) for name, value in lines if 'model="echo_open"' in name}

    def outcomes() -> dict[str, float]:
        return {name: value for name, value in values().items() if name.startswith("teg_requests_total")}

    eventually(lambda: sum(outcomes().values()) == open_page("echo_open").counter(Counter.REQUESTS))
    assert outcomes()['teg_requests_total{model="echo_open",status="ok",version="1"}'] >= 5
    assert outcomes()['teg_requests_total{model="echo_open",status="invalid",version="1"}'] >= 1
    assert values()[f"teg_batch_limit{{{series}}}"] == 8
    assert values()[f"teg_request_seconds_count{{{series}}}"] >= 5
    assert values()[f"teg_metric_drops_total{{{series}}}"] == 0


def test_page_describes_the_instance(open_page: Callable[[str], InstancePage], eventually: Callable[..., None]) -> None:
    """The page says what a governor must know, and beats while idle."""
    page = open_page("digits_cnn")
    info = page.info
    assert info is not None
    assert (info.model, info.version, info.instance, info.max_batch) == ("digits_cnn", "1", "digits_cnn_0_0", 64)
    assert info.slo_s == 0.05
    eventually(page.alive)
    assert page.counter(Counter.REQUESTS) >= 1
