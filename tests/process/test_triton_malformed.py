# SPDX-License-Identifier: Apache-2.0
"""Malformed requests among good ones: each is refused alone, and nothing else notices."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from governor.server import TritonServer
from telemetry.instance_page import InstancePage

BAD = 3000


def given(name: str, shape: tuple[int, ...], dtype: str, raw: bytes) -> Any:
    tensor = grpc.InferInput(name, list(shape), dtype)
    tensor._raw_content = raw  # what set_data_from_numpy would set, without its checks
    return tensor


def malformed(generator: random.Random) -> tuple[str, list[Any]]:
    """One request that breaks exactly one rule, for the model named."""
    a = given("A", (1, 4), "FP32", np.ones((1, 4), np.float32).tobytes())
    b = given("B", (1, 2), "INT64", np.ones((1, 2), np.int64).tobytes())
    width = generator.choice([0, 1, 3, 5, 64])
    batch = generator.choice([0, 9, 100])
    choices: list[tuple[str, list[Any]]] = [
        ("pair", [a]),
        ("pair", [a, a]),
        ("pair", [a, b, given("C", (1, 1), "FP32", b"\0" * 4)]),
        ("pair", [given("A", (1, width), "FP32", b"\0" * 4 * width), b]),
        ("pair", [given("A", (batch, 4), "FP32", b"\0" * 16 * batch), b]),
        ("pair", [given("A", (1, 4), "FP64", b"\0" * 32), b]),
        ("pair", [given("A", (1, 4), "FP32", generator.randbytes(generator.choice([0, 3, 15, 17, 400]))), b]),
        ("pair", [given("A", (2, 4), "FP32", b"\0" * 32), b]),
        ("pair", [given("A", (1, -4), "FP32", b"\0" * 16), b]),
        ("pair", [given("A", (1, 4), "FP32", np.array([1, np.nan, 1, 1], np.float32).tobytes()), b]),
        ("echo_bytes", [given("IN", (1, 1), "BYTES", b"\x02\0\0\0\xff\xfe")]),
        ("echo_bytes", [given("IN", (1, 1), "BYTES", b"\xff\xff\xff\x7fab")]),
        ("echo_bytes", [given("IN", (1, 2), "BYTES", b"\x01\0\0\0a")]),
    ]
    return generator.choice(choices)


def test_malformed_among_good(
    server: TritonServer,
    open_page: Callable[[str], InstancePage],
    log_of: Callable[[], str],
    eventually: Callable[..., None],
) -> None:
    """Thousands of generated malformed requests are refused one by one; good ones beside them are all answered right,
    from the same processes, whose memory does not grow."""
    models = ("pair", "echo_bytes")
    pids = [open_page(model).pid for model in models]
    resident_kb = [_resident_kb(pid) for pid in pids]
    stop = threading.Event()
    wrong: list[str] = []
    good = [0]

    def be_good() -> None:
        with grpc.InferenceServerClient(server.grpc_url) as client:
            while not stop.is_set():
                array = np.random.default_rng(good[0]).random((2, 4), np.float32)
                first, second = grpc.InferInput("A", (2, 4), "FP32"), grpc.InferInput("B", (2, 2), "INT64")
                first.set_data_from_numpy(array)
                second.set_data_from_numpy(np.full((2, 2), good[0]))
                answer = client.infer("pair", [first, second], client_timeout=60)
                if not np.array_equal(answer.as_numpy("A2"), array) or answer.as_numpy("B2")[0, 0] != good[0]:
                    wrong.append(f"answer {good[0]}")
                good[0] += 1

    worker = threading.Thread(target=be_good)
    worker.start()
    generator = random.Random(28)
    codes: dict[str, int] = {}
    with grpc.InferenceServerClient(server.grpc_url) as client:
        for _ in range(BAD):
            model, inputs = malformed(generator)
            try:
                client.infer(model, inputs, client_timeout=60)
                code = "answered"
            except InferenceServerException as error:
                code = str(error.status())
            codes[code] = codes.get(code, 0) + 1
    eventually(lambda: good[0] > 200 or not worker.is_alive())
    stop.set()
    worker.join()
    assert codes == {"StatusCode.INVALID_ARGUMENT": BAD}
    assert not wrong
    assert good[0] > 200
    assert [open_page(model).pid for model in models] == pids
    for pid, before_kb in zip(pids, resident_kb, strict=True):
        assert _resident_kb(pid) < before_kb * 1.05 + 2048
    assert "Traceback" not in log_of()


def _resident_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
