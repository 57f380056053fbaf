# SPDX-License-Identifier: Apache-2.0
"""Model configurations as Triton hands them over, requests as its Python binding gives them, and a way back."""

from __future__ import annotations

from typing import Any

from telemetry.instance_page import Status
from triton_backend.tensors import Tensors


def model_config(**changes: Any) -> dict[str, Any]:
    """The JSON of a two-input identity model; `parameters` is given as plain texts."""
    parameters = {"engine": "identity", **changes.pop("parameters", {})}
    tensors = [
        {"name": "A", "data_type": "TYPE_FP32", "dims": ["4"]},
        {"name": "B", "data_type": "TYPE_INT64", "dims": ["-1", "2"]},
    ]
    return {
        "name": "pair",
        "max_batch_size": 8,
        "input": tensors,
        "output": [{**tensor, "name": f"{tensor['name']}2"} for tensor in tensors],
        "parameters": {name: {"string_value": text} for name, text in parameters.items()},
        **changes,
    }


class FakeTensor:
    def __init__(self, name: str, array: Any) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        if isinstance(self._array, Exception):
            raise self._array
        return self._array


class FakeRequest:
    """What the backend reads of a request."""

    def __init__(self, tensors: list[tuple[str, Any]], parameters: str = "{}", timeout_us: int = 0) -> None:
        self._tensors = [FakeTensor(name, array) for name, array in tensors]
        self._parameters = parameters
        self._timeout_us = timeout_us

    def inputs(self) -> list[FakeTensor]:
        return self._tensors

    def parameters(self) -> str:
        return self._parameters

    def timeout(self) -> int:
        return self._timeout_us


class FakeReply:
    """Collects what a client would get; `fail` makes sending fail as a vanished server does."""

    def __init__(self, *, cancelled: bool = False, fail: bool = False) -> None:
        self.deferred = False
        self.outputs: Tensors | None = None
        self.refusal: tuple[Status, str] | None = None
        self.sent = 0
        self._cancelled = cancelled
        self._fail = fail

    def defer(self) -> None:
        self.deferred = True

    def cancelled(self) -> bool:
        return self._cancelled

    def answer(self, outputs: Tensors) -> None:
        if self._fail:
            raise RuntimeError("the server has gone")
        self.sent += 1
        self.outputs = outputs

    def refuse(self, status: Status, message: str) -> None:
        self.sent += 1
        self.refusal = status, message
