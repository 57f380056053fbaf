# SPDX-License-Identifier: Apache-2.0
"""What a model file or an architecture says of its tensors, held against config.pbtxt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from .tensors import TensorSpec


class Declared(Protocol):
    """A tensor as `model_repository.architectures` declares it."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def dims(self) -> tuple[int, ...]: ...


def declared(tensors: Iterable[Declared]) -> tuple[TensorSpec, ...]:
    """An architecture's tensors in Triton's terms."""
    return tuple(TensorSpec(tensor.name, f"TYPE_{tensor.dtype}", tuple(tensor.dims)) for tensor in tensors)


def mismatch(stated: Sequence[TensorSpec], real: Sequence[TensorSpec]) -> str:
    """What config.pbtxt states wrongly, empty if nothing; a -1 on either side fits any size."""
    names, real_names = [spec.name for spec in stated], [spec.name for spec in real]
    if names != real_names:
        return f"config.pbtxt states the tensors {names}, the model has {real_names} (the order counts)"
    for mine, theirs in zip(stated, real, strict=True):
        sizes = zip(mine.dims, theirs.dims, strict=False)
        alike = len(mine.dims) == len(theirs.dims) and all(a == b or -1 in (a, b) for a, b in sizes)
        if mine.dtype != theirs.dtype or not alike:
            real_type = f"{theirs.dtype} {theirs.dims}"
            return f"tensor '{mine.name}' is {mine.dtype} {mine.dims} in config.pbtxt, {real_type} in the model"
    return ""
