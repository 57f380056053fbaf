# SPDX-License-Identifier: Apache-2.0
"""Readiness by a real inference: Triton's health endpoints stay green when a model's process has died."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

POLL_S = 0.05
CANARY_S = 30.0
"""How long one inference may take; the first one of a model is slow."""


class CanaryFailed(Exception):
    """A model did not answer; the message says how."""


def answers(url: str, models: Sequence[str], deadline_s: float, check_alive: Callable[[], None]) -> dict[str, str]:
    """Wait for the server, then ask every model once; what went wrong, by model.

    The server opens its port when it has loaded, or failed to load, every model. `check_alive` raises if it has died.
    """
    while not _listens(url):
        check_alive()
        if time.monotonic() > deadline_s:
            return dict.fromkeys(models, "the server did not come up in time")
        time.sleep(POLL_S)
    reasons = {}
    for model in models:
        try:
            ask(url, model, max(1.0, min(CANARY_S, deadline_s - time.monotonic())))
        except CanaryFailed as error:
            reasons[model] = str(error)
    return reasons


def ask(url: str, model: str, timeout_s: float = CANARY_S) -> None:
    """One inference over a connection of its own; raises `CanaryFailed`."""
    with triton.InferenceServerClient(url) as client:
        infer_once(client, model, timeout_s)


def infer_once(client: Any, model: str, timeout_s: float = CANARY_S) -> None:
    """One inference with inputs of zeros, made from the model's metadata; raises `CanaryFailed`.

    Optional inputs are left out; where all are, the texts are given, empty: Triton takes no request without inputs.
    """
    try:
        config = client.get_model_config(model, client_timeout=timeout_s).config
        metadata = client.get_model_metadata(model, client_timeout=timeout_s)
        optional = {tensor.name for tensor in config.input if tensor.optional}
        needed = [tensor for tensor in metadata.inputs if tensor.name not in optional]
        asked = needed or [tensor for tensor in metadata.inputs if tensor.datatype == "BYTES"]
        inputs = [_zeros(tensor, batched=config.max_batch_size > 0) for tensor in asked]
        client.infer(model, inputs, client_timeout=timeout_s)
    except InferenceServerException as error:
        raise CanaryFailed(error.message()) from error


def _zeros(tensor: Any, *, batched: bool) -> Any:
    # a batch of one; any other open dimension is as good as 1
    shape = [1 if size < 0 else size for size in tensor.shape]
    if batched:
        shape[0] = 1
    dtype = triton_to_np_dtype(tensor.datatype)
    data = np.full(shape, b"", dtype=np.object_) if tensor.datatype == "BYTES" else np.zeros(shape, dtype)
    given = triton.InferInput(tensor.name, shape, tensor.datatype)
    given.set_data_from_numpy(data)
    return given


def _listens(url: str) -> bool:
    # a plain connection: a gRPC channel that met a closed port waits ever longer before it tries again
    host, _, port = url.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
            return True
    except OSError:
        return False
