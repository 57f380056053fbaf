# SPDX-License-Identifier: Apache-2.0
"""The world around `make demo-finetune`: handwritten digits, a camera that falls on its side, people who label.

Real digits (scikit-learn's, 8 x 8 pixels); after the shift each is turned by a quarter. Clients see only Triton: they
send images to the served model, and labelled images and commands to the model `finetune`, as ordinary requests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton

from governor import digits
from governor.load import LoadPlan, LoadReport, run_load

Array = npt.NDArray[Any]
TENSOR = "IMAGE"
ROWS, GAP_S = 2, 0.1
"""Images of one request that measures accuracy, and seconds between two: no load that anybody would notice."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images (n x 1 x 8 x 8) and the digits (n) that they show."""

    images: Array
    labels: Array

    def turned(self) -> Labelled:
        """The same as a camera on its side sees them."""
        return Labelled(np.ascontiguousarray(np.rot90(self.images, axes=(2, 3))), self.labels)

    def write(self, path: Path) -> Path:
        """The images as `teg load --input` reads them."""
        np.savez(path, **{TENSOR: self.images})
        return path


def load() -> tuple[Labelled, Labelled]:
    """Digits that people will label, and digits that no training ever sees."""
    found = digits.load()
    taught = Labelled(found.train_images.numpy(), found.train_labels.numpy())
    return taught, Labelled(found.test_images.numpy(), found.test_labels.numpy())


class Clients:
    """Requests to one server over gRPC; close it, or use it as a context."""

    def __init__(self, url: str, model: str, trainer: str) -> None:
        self._client = triton.InferenceServerClient(url)
        self._model, self._trainer = model, trainer

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *raised: object) -> None:
        self._client.close()

    def accuracy(self, seen: Labelled) -> float:
        """The share of images that the version being served recognises."""
        right = 0
        for first in range(0, len(seen.labels), ROWS):
            rows = slice(first, first + ROWS)
            reply = self._client.infer(self._model, [_tensor(TENSOR, seen.images[rows], "FP32")])
            right += int((reply.as_numpy("LOGITS").argmax(axis=1) == seen.labels[rows]).sum())
            time.sleep(GAP_S)
        return right / len(seen.labels)

    def teach(self, seen: Labelled, rows: int, gap_s: float) -> int:
        """Send labelled images to the model `finetune`, so many a request; how many requests it took."""
        starts = range(0, len(seen.labels), rows)
        for first in starts:
            images, labels = seen.images[first : first + rows], seen.labels[first : first + rows]
            model = np.full((len(labels), 1), self._model.encode(), dtype=np.object_)
            given = [
                _tensor(TENSOR, images, "FP32"),
                _tensor("MODEL", model, "BYTES"),
                _tensor("LABEL", labels.reshape(-1, 1).astype(np.int64), "INT64"),
            ]
            self._client.infer(self._trainer, given)
            time.sleep(gap_s)
        return len(starts)

    def command(self, **command: Any) -> dict[str, Any]:
        """The reply to one command of the model `finetune`."""
        text = np.array([[json.dumps(command).encode()]], dtype=np.object_)
        reply = self._client.infer(self._trainer, [_tensor("COMMAND", text, "BYTES")])
        found: dict[str, Any] = json.loads(reply.as_numpy("REPLY").reshape(-1)[0])
        return found


@contextmanager
def under_load(plan: LoadPlan, **changes: Any) -> Iterator[list[LoadReport]]:
    """The plan's requests for as long as the block lasts, which they must outlast; the report is there afterwards."""
    stop, reports = Event(), list[LoadReport]()
    plan = replace(plan, **changes)
    thread = Thread(target=lambda: reports.append(run_load(plan, stopped=stop.is_set)), name="load")
    thread.start()
    try:
        yield reports
    finally:
        stop.set()
        thread.join()


def _tensor(name: str, values: Array, dtype: str) -> Any:
    given = triton.InferInput(name, values.shape, dtype)
    given.set_data_from_numpy(values)
    return given
