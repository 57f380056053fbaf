# SPDX-License-Identifier: Apache-2.0
"""Nested values with tensors in them, as PyTorch's state dicts are, to JSON and back without a bit of difference.

JSON holds what it can hold itself; the rest are objects of one `$` key: `{"$tensor": name}`, `{"$tuple": [...]}`,
`{"$float": "inf"}`, `{"$dict": [[key, value], ...]}` for keys that are not plain texts. Floats are written with as many
digits as tell them from all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..capturing.torch_private import storage_key
from ..errors import CheckpointInvalid

Json = Any


class Taken:
    """The tensors met while encoding, by name; one that is met again under another name is kept once (tied weights)."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[object, ...], str] = {}

    def add(self, where: str, tensor: Tensor) -> str:
        """The name under which a tensor is kept; raises `CheckpointInvalid` if it cannot be or another one has it."""
        if tensor.layout is not torch.strided or tensor.is_meta:
            raise CheckpointInvalid(where, f"is {tensor.layout} on {tensor.device}, not plain memory")
        key = (storage_key(tensor), tensor.dtype, tensor.storage_offset(), tensor.shape, tensor.stride())
        name = self._names.setdefault(key, where)
        if name == where and self.tensors.setdefault(where, tensor) is not tensor:
            raise CheckpointInvalid(where, "is the name of two tensors")
        return name


def encode(value: object, where: str, taken: Taken) -> Json:
    """A value as JSON, its tensors put into `taken`; `where` names it. Raises `CheckpointInvalid` for other types."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"$float": str(float(value))}
        case Tensor():
            return {"$tensor": taken.add(where, value)}
        case list():
            return [encode(item, f"{where}.{number}", taken) for number, item in enumerate(value)]
        case tuple():
            return {"$tuple": encode(list(value), where, taken)}
        case Mapping() if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: encode(item, f"{where}.{key}", taken) for key, item in value.items()}
        case Mapping() if all(isinstance(key, str | int | float) for key in value):
            return {
                "$dict": [[encode(key, where, taken), encode(value[key], f"{where}.{key}", taken)] for key in value]
            }
    raise CheckpointInvalid(where, f"is a {type(value).__name__}, which no checkpoint can hold")


def decode(found: Json, where: str, tensors: Mapping[str, Tensor]) -> Any:
    """What `encode` was given; raises `CheckpointInvalid` for JSON that it never made."""
    match found:
        case None | bool() | int() | float() | str():
            return found
        case list():
            return [decode(item, f"{where}.{number}", tensors) for number, item in enumerate(found)]
        case {"$tensor": str(name), **rest} if not rest and name in tensors:
            return tensors[name]
        case {"$tuple": [*items], **rest} if not rest:
            return tuple(decode(items, where, tensors))
        case {"$float": "inf" | "-inf" | "nan" as text, **rest} if not rest:
            return float(text)
        case {"$dict": [*pairs], **rest} if not rest:
            return dict(_pair(pair, where, tensors) for pair in pairs)
        case dict() if not any(key.startswith("$") for key in found):
            return {key: decode(item, f"{where}.{key}", tensors) for key, item in found.items()}
    raise CheckpointInvalid(where, "is nothing that a checkpoint holds")


def _pair(found: Json, where: str, tensors: Mapping[str, Tensor]) -> tuple[str | int | float, Any]:
    match found:
        case [(str() | int() | float() | {"$float": str()}) as key, value]:
            return decode(key, where, tensors), decode(value, f"{where}.{key}", tensors)
    raise CheckpointInvalid(where, "has a key that is neither text nor number")
