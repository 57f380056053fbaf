# SPDX-License-Identifier: Apache-2.0
"""Fills in the inputs and outputs that config.pbtxt leaves out, from the model file or the named architecture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_repository.architectures import UnknownArchitecture, architecture

from .errors import EngineUnusable
from .parameters import BackendConfig, parse
from .signature import declared
from .tensors import TensorSpec

Signature = tuple[Sequence[TensorSpec], Sequence[TensorSpec]]


def complete(config: Any, version_folder: Path) -> Any:
    """Triton's `ModelConfig` with its missing tensors added; what is stated stays as it is. Raises `BackendError`."""
    stated = parse(config.as_dict())
    if stated.inputs and stated.outputs:
        return config
    inputs, outputs = _signature(stated, version_folder)
    if not stated.inputs:
        for spec in inputs:
            config.add_input(_entry(spec))
    if not stated.outputs:
        for spec in outputs:
            config.add_output(_entry(spec))
    return config


def _signature(config: BackendConfig, version_folder: Path) -> Signature:
    if config.engine == "onnx":
        from .onnx_engine import signature_of

        return signature_of(config, version_folder)
    if config.engine == "torch":
        try:
            plan = architecture(config.architecture)
        except UnknownArchitecture as error:
            raise EngineUnusable(f"parameter 'architecture': {error}") from error
        return declared(plan.inputs), declared(plan.outputs)
    if config.engine == "identity":
        # whichever side is stated is the other one too, under names of its own
        return _renamed(config.outputs, "INPUT"), _renamed(config.inputs, "OUTPUT")
    raise EngineUnusable(f"engine '{config.engine}' cannot tell its tensors: state inputs and outputs in config.pbtxt")


def _renamed(specs: Sequence[TensorSpec], stem: str) -> list[TensorSpec]:
    return [TensorSpec(f"{stem}{index}", spec.dtype, spec.dims) for index, spec in enumerate(specs)]


def _entry(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": spec.dtype, "dims": list(spec.dims)}
