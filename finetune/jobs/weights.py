# SPDX-License-Identifier: Apache-2.0
"""Weights as files: those of the version that serves, held against its digest, and those that a job came to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from telemetry.durable import replace

from ..errors import WeightsRefused

DIGESTS = "digest.json"


def read_served(file: Path) -> dict[str, Tensor]:
    """The weights of a version that was published, which must be what its `digest.json` says; safetensors only.

    Raises `WeightsRefused`.
    """
    if file.suffix != ".safetensors":
        raise WeightsRefused(file, "only safetensors can be trained")
    try:
        content = _regular(file)
        pinned = json.loads(_regular(file.parent / DIGESTS))["files"][file.name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsRefused(file, f"cannot be read with its digest: {error}") from error
    if hashlib.sha256(content).hexdigest() != pinned:
        raise WeightsRefused(file, f"is not what {DIGESTS} says")
    return _loaded(file, content)


def give(module: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """Copy weights into a module of the same architecture; raises `WeightsRefused`."""
    try:
        module.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        raise WeightsRefused(file, f"is of another architecture: {error}") from error


def write_weights(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Put weights at `file` as safetensors, whole or not at all, mode 0600; raises `OSError` (disk full)."""
    # cloned: tied weights are one tensor, and the format knows no two names for one
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}
    replace(file, safetensors.torch.save(tensors), mode=0o600)


def _loaded(file: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise WeightsRefused(file, f"is not safetensors: {error}") from error


def _regular(path: Path) -> bytes:
    """A file's content; a link in its place is not followed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()
