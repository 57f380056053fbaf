# SPDX-License-Identifier: Apache-2.0
"""The engine that passes each batch on to another model of the same server, so that any backend can be governed."""

from __future__ import annotations

from typing import Any

from .errors import BadRequest, EngineFailed
from .parameters import BackendConfig
from .tensors import Tensors


class DelegateEngine:
    """Calls `delegate_to` through Triton's business logic scripting (BLS); tensor names are passed on as they are."""

    in_thread = False

    def __init__(self, config: BackendConfig, triton: Any) -> None:
        self._triton = triton
        self._model = config.delegate_to
        self._outputs = [spec.name for spec in config.outputs]

    def run(self, inputs: Tensors) -> Tensors:
        """One inference of the other model; raises `BadRequest` if that refuses it."""
        triton = self._triton
        tensors = [triton.Tensor(name, array) for name, array in inputs.items()]
        request = triton.InferenceRequest(model_name=self._model, requested_output_names=self._outputs, inputs=tensors)
        response = request.exec()
        if response.has_error():
            error = response.error()
            kind = BadRequest if error.code() == triton.TritonError.INVALID_ARG else EngineFailed
            raise kind(f"model '{self._model}': {error.message()}")
        return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}

    def close(self) -> None:
        """Nothing is held: the other model belongs to the server."""
