# SPDX-License-Identifier: Apache-2.0
"""POET: plan and run a training step within a memory budget, out of inference's way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compilation import compile  # noqa: A004 - as `torch.compile`
    from .train import Report, TrainStep

__all__ = ["Report", "TrainStep", "compile"]


def __getattr__(name: str) -> Any:
    """Torch is imported when training is, not when a schedule is read."""
    if name in __all__:
        from . import compilation, train

        return getattr(compilation if name == "compile" else train, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
