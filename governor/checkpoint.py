# SPDX-License-Identifier: Apache-2.0
"""Local Hugging Face checkpoints: a folder with `config.json` and safetensors files, as `save_pretrained` writes it.

Only safetensors are read, no code that a checkpoint carries is run, and nothing is fetched. Every weight must find its
place in the architecture and every place its weight.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_NOT_SEEN_IN_SHAPES = (
    "model_type",
    "layer_type",
    "hidden_act",
    "num_attention_heads",
    "layer_norm_eps",
    "batch_norm_eps",
    "strides",
    "depthwise_padding",
    "pooling_type",
    "downsample_in_first_stage",
)
"""Settings that change a network's answers but no tensor's shape; the rest shows when the weights are put in."""


class CheckpointUnfit(Exception):
    """The folder holds no checkpoint of this architecture; `folder` says which."""

    def __init__(self, folder: Path, reason: str) -> None:
        self.folder = folder
        super().__init__(f"checkpoint {folder}: {reason}")


def read_checkpoint(folder: Path, module: nn.Module) -> dict[str, Tensor]:
    """The weights in `folder` as 32-bit floats, named as in the state of `module`, a wrapped transformers classifier.

    Raises `CheckpointUnfit` if the module wraps none, the folder is not such a checkpoint, or anything does not match.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import PreTrainedModel

    wrapped = getattr(module, "model", None)
    if not isinstance(wrapped, PreTrainedModel):
        raise CheckpointUnfit(folder, "this architecture has no Hugging Face counterpart to load from")
    _check_settings(folder, wrapped.config.to_dict())
    try:
        answer: Any = type(wrapped).from_pretrained(
            folder,
            config=wrapped.config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointUnfit(folder, str(error)) from error
    loaded, report = answer
    _check_report(folder, report)
    return {f"model.{name}": tensor for name, tensor in loaded.state_dict().items()}


def _check_settings(folder: Path, ours: dict[str, Any]) -> None:
    if not any(folder.glob("*.safetensors")):
        raise CheckpointUnfit(folder, "holds no safetensors file (other formats can carry code and are not read)")
    try:
        theirs = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointUnfit(folder, f"config.json cannot be read: {error}") from error
    for name in _NOT_SEEN_IN_SHAPES:
        if name in ours and name in theirs and theirs[name] != ours[name]:
            raise CheckpointUnfit(folder, f"its {name} is {theirs[name]!r}, the architecture's is {ours[name]!r}")


def _check_report(folder: Path, report: dict[str, Any]) -> None:
    complaints = {
        "has no": sorted(report["missing_keys"]),
        "has besides": sorted(report["unexpected_keys"]),
        "has in another shape": sorted(str(entry[0]) for entry in report["mismatched_keys"]),
    }
    found = [f"{verb} {', '.join(names[:5])}{' ...' * (len(names) > 5)}" for verb, names in complaints.items() if names]
    if found:
        raise CheckpointUnfit(folder, "; it ".join(found))
