# SPDX-License-Identifier: Apache-2.0
"""Teaches a served `digits_cnn` digits turned by a quarter, with nothing but a Triton client.

Needs `teg serve --models digits_cnn,finetune --publish`, `teg run` and `teg finetune worker`.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton

Array = npt.NDArray[Any]


def tensor(name: str, values: Array, dtype: str) -> triton.InferInput:
    """An input of a request."""
    given = triton.InferInput(name, list(values.shape), dtype)
    given.set_data_from_numpy(values)
    return given


def teach(client: triton.InferenceServerClient, images: Array, labels: Array) -> dict[str, Any]:
    """Send up to 64 labelled images for `digits_cnn`; the reply to the first of them."""
    count = len(labels)
    given = [
        tensor("MODEL", np.full((count, 1), b"digits_cnn", dtype=np.object_), "BYTES"),
        tensor("IMAGE", images.astype(np.float32), "FP32"),
        tensor("LABEL", labels.reshape(count, 1).astype(np.int64), "INT64"),
    ]
    return replied(client.infer("finetune", given))


def ask(client: triton.InferenceServerClient, **command: Any) -> dict[str, Any]:
    """The reply to one command."""
    text = np.array([[json.dumps(command).encode()]], dtype=np.object_)
    return replied(client.infer("finetune", [tensor("COMMAND", text, "BYTES")]))


def replied(result: triton.InferResult) -> dict[str, Any]:
    """The JSON of a reply."""
    found: dict[str, Any] = json.loads(result.as_numpy("REPLY").flat[0])
    return found


def follow(client: triton.InferenceServerClient, images: Array, labels: Array, **job: Any) -> dict[str, Any]:
    """Teach all images, have a job train on them, and wait for its end; its last state."""
    for first in range(0, len(labels), 64):
        teach(client, images[first : first + 64], labels[first : first + 64])
    started = ask(client, start={"model": "digits_cnn", "epochs": 20, "batch": 32, "budget": "50%", **job})
    while (state := ask(client, job=started["job"]))["state"] not in ("done", "failed", "cancelled"):
        time.sleep(0.5)
    return state


def main() -> None:
    """Teach, train, and say what came of it."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.rot90(raw.images[:1200], axes=(1, 2))[:, np.newaxis] / 16
    with triton.InferenceServerClient("127.0.0.1:8001") as client:
        state = follow(client, images, raw.target[:1200], learning_rate=2e-3)
    print(state["state"], state["reason"], state["accuracy_before"], state["accuracy_after"], state["version"])


if __name__ == "__main__":
    main()
