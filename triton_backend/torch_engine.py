# SPDX-License-Identifier: Apache-2.0
"""The engine for safetensors weights in a named architecture, run eagerly by PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from model_repository.architectures import UnknownArchitecture, architecture

from .errors import BadRequest, EngineFailed, EngineUnusable
from .parameters import BackendConfig
from .placement import Placement
from .signature import declared, mismatch
from .tensors import Array, Tensors
from .trust import read_model_file


class TorchEngine:
    """A callable over tensors in the declared order; its outputs are taken in the declared order as well."""

    def __init__(self, config: BackendConfig, module: Callable[..., Any], device: torch.device) -> None:
        self._module = module
        self._device = device
        self._inputs = [spec.name for spec in config.inputs]
        self._outputs = [(spec.name, spec.numpy_dtype) for spec in config.outputs]
        self.in_thread = device.type == "cpu" and config.threads == 1

    def run(self, inputs: Tensors) -> Tensors:
        """One forward pass without autograd."""
        with torch.inference_mode():
            given = [torch.from_numpy(inputs[name]).to(self._device) for name in self._inputs]
            try:
                answer = self._module(*given)
            except IndexError as error:
                # an embedding was asked for a row that it does not have
                raise BadRequest(f"a value is outside what the model knows: {error}") from error
        return self._named((answer,) if isinstance(answer, torch.Tensor) else answer)

    def _named(self, answers: Sequence[torch.Tensor]) -> Tensors:
        if len(answers) != len(self._outputs):
            raise EngineFailed(f"the model returned {len(answers)} tensors, {len(self._outputs)} are declared")
        pairs = zip(self._outputs, answers, strict=True)
        return {name: _as_numpy(tensor, dtype) for (name, dtype), tensor in pairs}

    def close(self) -> None:
        """Drop the weights."""
        del self._module


def open_torch(config: BackendConfig, version_folder: Path, placement: Placement) -> TorchEngine:
    """Build the architecture and load the weights strictly; raises `EngineUnusable`, `ModelFileRefused`."""
    try:
        plan = architecture(config.architecture)
    except UnknownArchitecture as error:
        raise EngineUnusable(f"parameter 'architecture': {error}") from error
    wrong = mismatch(config.inputs, declared(plan.inputs)) or mismatch(config.outputs, declared(plan.outputs))
    if wrong:
        raise EngineUnusable(f"architecture '{plan.name}': {wrong}")
    device = use_threads_and_device(config, placement)
    weights = safetensors.torch.load(read_model_file(version_folder, config.model_file, config.digest))
    module = plan.build()
    try:
        # copied, not assigned: tensors in a file's bytes are not aligned as kernels like them
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise EngineUnusable(f"{config.model_file} does not fit architecture '{plan.name}': {error}") from error
    return TorchEngine(config, module.eval().to(device), device)


def use_threads_and_device(config: BackendConfig, placement: Placement) -> torch.device:
    """Bound this process's compute threads, and say where the model runs."""
    torch.set_num_threads(config.threads)
    if placement.kind == "GPU":
        return torch.device("cuda", placement.device_id)
    if placement.kind == "MODEL" and torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("cpu")


def _as_numpy(tensor: torch.Tensor, dtype: Any) -> Array:
    array: Array = tensor.cpu().numpy()
    return array if array.dtype == dtype else array.astype(dtype)
