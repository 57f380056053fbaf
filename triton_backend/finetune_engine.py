# SPDX-License-Identifier: Apache-2.0
"""The engine of the model `finetune`: it takes labelled samples and orders for jobs in, and writes them to the spool.

Nothing is trained here and nothing else is written or read: `teg finetune worker` does the work.

```
sample    MODEL [n, 1], LABEL [n, 1], and that model's tensors [n, ...]   ->  {"stored": n, "samples": in the store}
command   COMMAND [1, 1]: {"start": {"model": ..., ...}}                  ->  {"job": id}
                          {"job": id}                                     ->  its state
                          {"cancel": id}                                  ->  {"cancelled": whether it still ran}
                          {"samples": model}                              ->  {"samples": in the store}
```
A sample that is answered survives the death of any process; a power loss costs at most the last `FLUSH_S` seconds, for
which no answer waits.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_repository.architectures import Architecture, TensorSpec, UnknownArchitecture, architecture
from telemetry.errors import FieldsMismatch, JobInvalid, QueueFull, StoreBusy, StoreFull, UnknownJob
from telemetry.samples import count_samples
from telemetry.spool import Field, JobRequest, SampleStore, Spool, default_spool_dir

from .errors import BadRequest, EngineUnusable, Unavailable
from .parameters import BackendConfig, Intake
from .tensors import Array, Tensors

MODEL, LABEL, COMMAND, REPLY = "MODEL", "LABEL", "COMMAND", "REPLY"
FLUSH_S = 0.5
MAX_COMMAND_BYTES = 16_384
_DTYPES = {"FP32": np.dtype(np.float32), "INT64": np.dtype(np.int64)}
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """What samples of one model look like."""

    inputs: tuple[TensorSpec, ...]
    classes: int

    @property
    def fields(self) -> tuple[Field, ...]:
        """The same in the spool's terms."""
        return tuple(Field(spec.name, spec.dtype, spec.dims) for spec in self.inputs)


class FinetuneEngine:
    """Stores are opened with their first sample; one process may write to each."""

    in_thread = False

    def __init__(self, intake: Intake, known: Mapping[str, Known], spool: Spool) -> None:
        self._intake = intake
        self._known = known
        self._spool = spool
        self._stores: dict[str, SampleStore] = {}
        self._changed, self._closing = threading.Event(), threading.Event()
        self._flusher = threading.Thread(target=self._flush, name="governed-flush", daemon=True)

    def start(self) -> None:
        """Start the thread that flushes."""
        self._flusher.start()

    def run(self, inputs: Tensors) -> Tensors:
        """The reply to one request, in each of its rows; raises `BadRequest`, or `Unavailable`: later, perhaps."""
        rows = len(next(iter(inputs.values())))
        try:
            reply = self._obey(inputs) if COMMAND in inputs else self._store(inputs)
        except (StoreFull, StoreBusy, FieldsMismatch, QueueFull, OSError) as error:
            raise Unavailable(str(error)) from error
        text = json.dumps(reply, separators=(",", ":")).encode()
        return {REPLY: np.full((rows, 1), text, dtype=np.object_)}

    def close(self) -> None:
        """Bring what was stored to the disk, and let another process store."""
        self._closing.set()
        self._changed.set()
        if self._flusher.is_alive():
            self._flusher.join()
        for store in self._stores.values():
            store.close()

    def _store(self, inputs: Tensors) -> dict[str, Any]:
        model = self._model_of(inputs)
        known = self._known[model]
        labels = checked(known, inputs)
        store = self._stores.get(model)
        if store is None:
            store = self._spool.store(model, known.fields, self._intake.limit_bytes, self._intake.policy)
            self._stores[model] = store
        tensors = {spec.name: np.ascontiguousarray(inputs[spec.name]) for spec in known.inputs}
        for row, label in enumerate(labels):
            try:
                store.add({name: memoryview(tensor[row]).cast("B") for name, tensor in tensors.items()}, label)
            except StoreFull as error:
                raise Unavailable(f"{row} of {len(labels)} samples stored: {error}") from error
        self._changed.set()
        return {"stored": len(labels), "samples": store.count}

    def _model_of(self, inputs: Tensors) -> str:
        if MODEL not in inputs:
            raise BadRequest(f"input '{MODEL}' is missing: a sample names its model, a command is in '{COMMAND}'")
        names = {_text(name) for name in inputs[MODEL].ravel()}
        if len(names) != 1:
            raise BadRequest("the samples of one request are of one model")
        return self._trained(names.pop())

    def _trained(self, model: object) -> str:
        if not isinstance(model, str) or model not in self._known:
            raise BadRequest(f"model {str(model)[:64]!r} is not trained here; trained are {', '.join(self._known)}")
        return model

    def _obey(self, inputs: Tensors) -> dict[str, Any]:
        raw = inputs[COMMAND].ravel()
        given = set(inputs) - {COMMAND}
        if len(raw) != 1 or any(inputs[name].any() for name in given):
            raise BadRequest(f"a command comes alone: one row of '{COMMAND}' and nothing else")
        if not (text := _text(raw[0])):
            return {"trained": list(self._known)}  # the canary's
        verb, about = _command(text)
        if verb == "start":
            return {"job": self._start(about)}
        if verb == "samples":
            return {"samples": self._count(self._trained(about))}
        try:
            if verb == "cancel":
                return {"cancelled": self._spool.cancel(str(about))}
            return self._spool.status(str(about)).to_json()
        except UnknownJob as error:
            raise BadRequest(str(error)) from error

    def _start(self, about: object) -> str:
        try:
            request = JobRequest.from_json(about)
        except JobInvalid as error:
            raise BadRequest(str(error)) from error
        self._trained(request.model)
        return self._spool.submit(request)

    def _count(self, model: str) -> int:
        return self._stores[model].count if model in self._stores else count_samples(self._spool.samples(model))

    def _flush(self) -> None:
        while not self._closing.is_set():
            self._changed.wait()
            self._closing.wait(FLUSH_S)
            self._changed.clear()
            for store in tuple(self._stores.values()):
                try:
                    store.flush()
                except OSError:
                    logger.exception("samples are in %s, but not on the disk for sure", store.folder)


def open_finetune(config: BackendConfig) -> FinetuneEngine:
    """The engine over this user's spool; raises `EngineUnusable`."""
    intake = config.intake
    if intake is None:
        raise EngineUnusable("engine 'finetune' needs the parameter 'train'")
    _check_tensors(config)
    known = {}
    for model, name in intake.models.items():
        try:
            known[model] = _known(architecture(name))
        except UnknownArchitecture as error:
            raise EngineUnusable(f"parameter 'train': {error}") from error
    spool = Spool(default_spool_dir(), intake.max_jobs)
    try:
        spool.make()
    except OSError as error:
        raise EngineUnusable(f"no spool: {error}") from error
    engine = FinetuneEngine(intake, known, spool)
    engine.start()
    return engine


def checked(known: Known, inputs: Tensors) -> list[int]:
    """The labels of a request's samples, every value of which was looked at; raises `BadRequest`."""
    wanted = {spec.name for spec in known.inputs} | {LABEL}
    for name in sorted(wanted ^ (inputs.keys() - {MODEL})):
        raise BadRequest(f"input '{name}' is {'missing' if name in wanted else 'none of this model'}")
    for spec in known.inputs:
        _check_values(spec, inputs[spec.name])
    labels = inputs[LABEL]
    if labels.shape[1:] != (1,) or labels.min() < 0 or labels.max() >= known.classes:
        raise BadRequest(f"input '{LABEL}' must be one of 0 to {known.classes - 1}")
    return [int(label) for label in labels.ravel()]


def _check_values(spec: TensorSpec, array: Array) -> None:
    if array.shape[1:] != spec.dims or array.dtype != _DTYPES[spec.dtype]:
        raise BadRequest(
            f"input '{spec.name}' is {array.dtype} {list(array.shape[1:])}, not {spec.dtype} {list(spec.dims)}"
        )
    if spec.dtype == "FP32" and not np.isfinite(array).all():
        raise BadRequest(f"input '{spec.name}' holds NaN or infinity")
    if spec.below is not None and (array.min() < 0 or array.max() >= spec.below):
        raise BadRequest(f"input '{spec.name}' must lie from 0 to {spec.below - 1}")


def _known(found: Architecture) -> Known:
    return Known(found.inputs, found.outputs[0].dims[0])


def _check_tensors(config: BackendConfig) -> None:
    """What config.pbtxt must state besides the tensors of the models trained."""
    inputs = {spec.name: spec for spec in config.inputs}
    for name, dtype in ((MODEL, "TYPE_STRING"), (LABEL, "TYPE_INT64"), (COMMAND, "TYPE_STRING")):
        spec = inputs.get(name)
        if spec is None or (spec.dtype, spec.dims) != (dtype, (1,)):
            raise EngineUnusable(f"config.pbtxt must state the input {name}, {dtype} [1], optional")
    if not config.batched or [(spec.name, spec.dtype, spec.dims) for spec in config.outputs] != [
        (REPLY, "TYPE_STRING", (1,))
    ]:
        raise EngineUnusable(f"config.pbtxt must state the one output {REPLY}, TYPE_STRING [1], and a max_batch_size")


def _text(raw: object) -> str:
    """Triton's text as such; that it is UTF-8 was checked, unless that was switched off."""
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)


def _command(text: str) -> tuple[str, object]:
    """The one verb of a command and what it is about; raises `BadRequest`."""
    if len(text) > MAX_COMMAND_BYTES:
        raise BadRequest(f"a command has at most {MAX_COMMAND_BYTES} bytes")
    try:
        command = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"'{COMMAND}' is no JSON: {error}") from error
    if not isinstance(command, dict) or len(command) != 1 or not set(command) <= {"start", "job", "cancel", "samples"}:
        raise BadRequest(f"'{COMMAND}' must be an object with one of start, job, cancel, samples")
    return next(iter(command.items()))
