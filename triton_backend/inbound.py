# SPDX-License-Identifier: Apache-2.0
"""One request as validated numpy tensors, or one `BadRequest` that names what is wrong.

Triton has checked most of this for what comes over its ports; what comes from another model of the server (BLS), and
what no server can know (NaN, text that is not UTF-8, inputs that disagree on their batch), is checked here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import BadRequest
from .parameters import BackendConfig
from .queueing import Shapes
from .tensors import Array, Tensors, TensorSpec

PRIORITY = "teg_priority"
"""The request parameter that names a priority level; Triton's own `priority` never reaches a Python-based backend."""


class RequestTensor(Protocol):
    """A tensor of a request, as Triton's Python binding gives it."""

    def name(self) -> str: ...
    def as_numpy(self) -> Array: ...


class Request(Protocol):
    """What is read of a request, as Triton's Python binding gives it."""

    def inputs(self) -> Sequence[RequestTensor]: ...
    def parameters(self) -> str: ...
    def timeout(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Inbound:
    """A good request. Its arrays may be views of Triton's shared memory: valid only until `execute` returns."""

    tensors: Tensors
    samples: int
    shapes: Shapes
    """Requests with equal `shapes` may share a batch."""
    priority: int
    """The level asked for, 0 if none."""
    timeout_ns: int
    """0 if the request states none."""

    def kept(self) -> Inbound:
        """The same with copies of its own, for later."""
        copies = {name: array.copy() for name, array in self.tensors.items()}
        return Inbound(copies, self.samples, self.shapes, self.priority, self.timeout_ns)


class Gatekeeper:
    """Reads the requests of one model."""

    def __init__(self, config: BackendConfig) -> None:
        self._specs = {spec.name: spec for spec in config.inputs}
        self._required = tuple(spec.name for spec in config.inputs if not spec.optional)
        self._max_batch_size = config.max_batch_size
        self._forbid_nan = config.forbid_nan
        self._forbid_bad_utf8 = config.forbid_bad_utf8

    def read(self, request: Request) -> Inbound:
        """The request, checked; raises `BadRequest`."""
        tensors: Tensors = {}
        for tensor in request.inputs():
            name = tensor.name()
            spec = self._specs.get(name)
            if spec is None or name in tensors:
                raise BadRequest(f"input '{name}' is {'given twice' if spec else 'unknown'}")
            tensors[name] = self._checked(spec, tensor)
        for name in self._required:
            if name not in tensors:
                raise BadRequest(f"input '{name}' is missing")
        samples = self._samples(tensors)
        skip = 1 if self._max_batch_size else 0
        shapes = tuple((name, tensors[name].shape[skip:]) for name in self._specs if name in tensors)
        timeout_ns = max(0, request.timeout()) * 1000
        return Inbound(tensors, samples, shapes, _priority(request.parameters()), timeout_ns)

    def _checked(self, spec: TensorSpec, tensor: RequestTensor) -> Array:
        try:
            array = tensor.as_numpy()
        except (ValueError, TypeError, UnicodeError, OverflowError, RuntimeError) as error:
            raise BadRequest(f"input '{spec.name}' cannot be decoded: {error}") from error
        if array.dtype != spec.numpy_dtype and not (spec.dtype == "TYPE_STRING" and array.dtype.kind in "SO"):
            raise BadRequest(f"input '{spec.name}' holds {array.dtype}, expected {spec.dtype}")
        own = array.shape[1:] if self._max_batch_size else array.shape
        if (self._max_batch_size and not array.ndim) or not spec.fits(own):
            raise BadRequest(f"input '{spec.name}' has shape {array.shape}, expected {self._expected(spec)}")
        if self._forbid_nan and array.dtype.kind == "f" and _has_nan(array):
            raise BadRequest(f"input '{spec.name}' holds NaN")
        if self._forbid_bad_utf8 and array.dtype.kind in "SO":
            _refuse_bad_text(spec.name, array)
        return array

    def _expected(self, spec: TensorSpec) -> str:
        return str([*(["batch"] if self._max_batch_size else []), *spec.dims])

    def _samples(self, tensors: Mapping[str, Array]) -> int:
        if not self._max_batch_size:
            return 1
        counts = {array.shape[0] for array in tensors.values()}
        if len(counts) != 1:
            raise BadRequest(f"inputs disagree on the batch size: {sorted(counts)}")
        (samples,) = counts
        if not 1 <= samples <= self._max_batch_size:
            raise BadRequest(f"batch size {samples} is outside 1 to {self._max_batch_size}")
        return int(samples)


def _has_nan(array: Array) -> bool:
    # the minimum of numbers is NaN exactly if one of them is: one pass, and no temporary as `isnan(array).any()` makes
    return array.size > 0 and math.isnan(array.min())


def _refuse_bad_text(name: str, array: Array) -> None:
    for element in array.flat:
        if isinstance(element, bytes):
            try:
                element.decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadRequest(f"input '{name}' holds text that is not UTF-8 (byte {error.start})") from error


def _priority(parameters: str) -> int:
    if not parameters or PRIORITY not in parameters:
        return 0
    value: Any = json.loads(parameters).get(PRIORITY)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadRequest(f"request parameter '{PRIORITY}' must be a whole number, got {value!r}")
    return value
