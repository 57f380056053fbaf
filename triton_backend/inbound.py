# SPDX-License-Identifier: Apache-2.0
"""One request as validated numpy tensors, or one `BadRequest` that names what is wrong.

Triton has checked most of this for what comes over its ports; what comes from another model of the server (BLS), and
what no server can know (NaN, text that is not UTF-8, inputs that disagree on their batch), is checked here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
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
        self._required = [spec.name for spec in config.inputs if not spec.optional]
        self._batched = config.batched
        self._max_batch = config.max_batch
        self._forbid_nan = config.forbid_nan
        self._forbid_bad_utf8 = config.forbid_bad_utf8

    def read(self, request: Request) -> Inbound:
        """The request, checked; raises `BadRequest`."""
        tensors: Tensors = {}
        shapes = []
        samples = 0
        for tensor in request.inputs():
            name = tensor.name()
            spec = self._specs.get(name)
            if spec is None or name in tensors:
                raise BadRequest(f"input '{name}' is {'given twice' if spec else 'unknown'}")
            tensors[name] = array = self._array(spec, tensor)
            shape = array.shape
            if self._batched:
                count, shape = (shape[0], shape[1:]) if shape else (0, (0,))
                samples = self._agreed(samples, count)
            if not spec.fits(shape):
                raise BadRequest(f"input '{name}' has shape {array.shape}, expected {self._expected(spec)}")
            shapes.append((name, shape))
        for name in self._required:
            if name not in tensors:
                raise BadRequest(f"input '{name}' is missing")
        # clients may name inputs in any order
        shapes.sort()
        timeout_ns = max(0, request.timeout()) * 1000
        return Inbound(tensors, samples or 1, tuple(shapes), _priority(request.parameters()), timeout_ns)

    def _array(self, spec: TensorSpec, tensor: RequestTensor) -> Array:
        try:
            array = tensor.as_numpy()
        except (ValueError, TypeError, UnicodeError, OverflowError, RuntimeError) as error:
            raise BadRequest(f"input '{spec.name}' cannot be decoded: {error}") from error
        kind = array.dtype.kind
        if array.dtype != spec.numpy_dtype and not (spec.dtype == "TYPE_STRING" and kind in "SO"):
            raise BadRequest(f"input '{spec.name}' holds {array.dtype}, expected {spec.dtype}")
        if kind == "f" and self._forbid_nan and _has_nan(array):
            raise BadRequest(f"input '{spec.name}' holds NaN")
        if kind in "SO" and self._forbid_bad_utf8:
            _refuse_bad_text(spec.name, array)
        return array

    def _agreed(self, samples: int, count: int) -> int:
        if samples not in (0, count):
            raise BadRequest(f"inputs disagree on the batch size: {samples} and {count}")
        if not 1 <= count <= self._max_batch:
            raise BadRequest(f"batch size {count} is outside 1 to {self._max_batch}")
        return count

    def _expected(self, spec: TensorSpec) -> str:
        return str([*(["batch"] if self._batched else []), *spec.dims])


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
