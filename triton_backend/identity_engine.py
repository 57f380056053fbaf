# SPDX-License-Identifier: Apache-2.0
"""The engine that answers each request with its own inputs: what serving costs when the model costs nothing."""

from __future__ import annotations

from .errors import EngineUnusable
from .parameters import BackendConfig
from .tensors import Tensors


class IdentityEngine:
    """The n-th output is the n-th input."""

    in_thread = True

    def __init__(self, config: BackendConfig) -> None:
        given = [(spec.dtype, spec.dims) for spec in config.inputs]
        promised = [(spec.dtype, spec.dims) for spec in config.outputs]
        if given != promised:
            raise EngineUnusable(f"identity: outputs {promised} must be the inputs {given}")
        pairs = zip(config.outputs, config.inputs, strict=True)
        self._names = [(output.name, source.name) for output, source in pairs]

    def run(self, inputs: Tensors) -> Tensors:
        """The inputs under the outputs' names."""
        return {output: inputs[source] for output, source in self._names if source in inputs}

    def close(self) -> None:
        """Nothing is held."""
