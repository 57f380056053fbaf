# SPDX-License-Identifier: Apache-2.0
"""An engine turns one batch of input tensors into output tensors; the factory knows which one a model asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from .parameters import BackendConfig
from .placement import Placement
from .tensors import Tensors


class Engine(Protocol):
    """One loaded model. `run` is called by one thread at a time, not always the same."""

    in_thread: bool
    """Whether the work is done by the calling thread, so that its CPU time is the work's time."""

    def run(self, inputs: Tensors) -> Tensors:
        """The outputs by name for one batch.

        Raises `BadRequest` where the values of a request are to blame, `Unavailable` where it may be taken later; any
        other error is the engine's own.
        """
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


def open_engine(config: BackendConfig, version_folder: Path, placement: Placement, triton: Any) -> Engine:
    """The engine that `config` asks for, loaded; `triton` is Triton's `triton_python_backend_utils`.

    Raises `EngineUnusable`, `ModelFileRefused`. Each runtime is imported only where a model needs it.
    """
    if config.engine == "torch":
        from .torch_engine import open_torch

        return open_torch(config, version_folder, placement)
    if config.engine == "pt2":
        from .pt2_engine import open_pt2

        return open_pt2(config, version_folder, placement)
    if config.engine == "onnx":
        from .onnx_engine import open_onnx

        return open_onnx(config, version_folder, placement)
    if config.engine == "delegate":
        from .delegate_engine import DelegateEngine

        return DelegateEngine(config, triton)
    if config.engine == "finetune":
        from .finetune_engine import open_finetune

        return open_finetune(config)
    from .identity_engine import IdentityEngine

    return IdentityEngine(config)
