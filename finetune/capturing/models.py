# SPDX-License-Identifier: Apache-2.0
"""Models to plan for: a name of `model_repository.architectures`, or `module:factory` of the user's own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_repository.architectures import TensorSpec, architecture

from ..capture import Loss
from ..errors import CaptureRefused


def load(name: str, batch: int, seed: int = 0) -> tuple[nn.Module, Loss | None, tuple[Tensor, ...]]:
    """A model in train mode, its loss and an example batch of that many samples.

    A user's `factory(batch)` returns these three; it is called with the working folder importable. Raises
    `UnknownArchitecture` for a name, `CaptureRefused` for a factory that cannot be called or returns something else.
    """
    if ":" in name:
        return _users(name, batch)
    known = architecture(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = known.build()
        inputs = tuple(_example(spec, batch) for spec in known.inputs)
        target = torch.randint(0, known.outputs[0].dims[0], (batch,))
    return model.train(), nn.functional.cross_entropy, (*inputs, target)


def _example(spec: TensorSpec, batch: int) -> Tensor:
    if spec.dtype == "FP32":
        return torch.randn(batch, *spec.dims)
    # Ones are valid token numbers and an attention mask that hides nothing.
    return torch.ones(batch, *spec.dims, dtype=torch.int64)


def _users(name: str, batch: int) -> tuple[nn.Module, Loss | None, tuple[Tensor, ...]]:
    module_name, _, factory_name = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        made = _factory(name, module_name, factory_name)(batch)
    finally:
        sys.path.remove(here)
    match made:
        case (nn.Module() as model, loss, (*tensors,)) if all(isinstance(tensor, Tensor) for tensor in tensors):
            return model, loss, tuple(tensors)
    raise CaptureRefused(name, "must return (module, loss or None, tuple of tensors), the target last")


def _factory(name: str, module_name: str, factory_name: str) -> Callable[[int], Any]:
    try:
        found: Callable[[int], Any] = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise CaptureRefused(name, str(error)) from error
    return found
