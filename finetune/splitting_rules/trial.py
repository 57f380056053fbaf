# SPDX-License-Identifier: Apache-2.0
"""Arguments like those of the step for trying an operation, and whether two results are the same bit for bit.

Tensors have the sizes, strides and alignment of the step's; their numbers are drawn anew, so no step needs to run.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import Node

from ..capturing.captured import Captured
from ..capturing.storages import Geometry
from .cuts import Sample, as_list

Numbers = Literal["positive", "normal", "uneven"]
"""Shares of 1; both signs; zeros, both signs and magnitudes from 1e-4 to 1e4."""

ALIGNMENT_BYTES = 64
"""Of torch's memory; kernels may differ with where in it a tensor begins."""
POOL = 1_000_003
"""How many numbers are drawn; a prime, so that no two rows of a tensor are the same."""

aten = torch.ops.aten
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def draw(captured: Captured, node: Node, numbers: Numbers) -> Sample:
    """A node's operation on numbers of that kind, the same ones every time; not computed yet."""
    highest = _highest(node)
    generator = torch.Generator().manual_seed(len(numbers))
    made: dict[Node, Tensor] = {
        value: _tensor(captured.memory.geometries[value], numbers, highest, generator) for value in node.all_input_nodes
    }
    args = torch.fx.node.map_arg(node.args, made.__getitem__)
    kwargs = torch.fx.node.map_arg(node.kwargs, made.__getitem__)
    return Sample(node.target, tuple(args), kwargs, None)


def same_bits(found: Any, expected: Any) -> bool:
    """Whether two results have the same tensors in the same layout, down to the sign of zero and the kind of NaN."""
    pairs = zip(as_list(found), as_list(expected), strict=True)
    return all(_same(one, other) for one, other in pairs)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    if Geometry.of(one) != Geometry.of(other):
        return False
    bits = BITS[one.element_size()]
    return torch.equal(one.view(bits), other.view(bits))


def _highest(node: Node) -> int:
    """Integers of arguments are below this; they may number rows of a table."""
    return int(node.args[2]) if node.target is aten.embedding_dense_backward.default else 2  # type: ignore[arg-type]


def _tensor(geometry: Geometry, numbers: Numbers, highest: int, generator: torch.Generator) -> Tensor:
    shift = geometry.offset % ALIGNMENT_BYTES
    reach = shift + 1 + sum((size - 1) * stride for size, stride in zip(geometry.size, geometry.stride, strict=True))
    reach = 0 if 0 in geometry.size else reach
    flat = _numbers(min(reach, POOL), geometry.dtype, numbers, highest, generator)
    if reach > POOL:
        flat = flat.repeat(math.ceil(reach / POOL))[:reach]
    return flat.as_strided(geometry.size, geometry.stride, shift)


def _numbers(count: int, dtype: torch.dtype, numbers: Numbers, highest: int, generator: torch.Generator) -> Tensor:
    if dtype is torch.bool:
        return torch.randint(0, 2, (count,), generator=generator).bool()
    if not dtype.is_floating_point:
        return torch.randint(0, highest, (count,), generator=generator, dtype=dtype)
    if numbers == "positive":
        return torch.rand(count, generator=generator).to(dtype)
    drawn = torch.randn(count, generator=generator)
    if numbers == "uneven":
        magnitudes = torch.randint(-4, 5, (count,), generator=generator)
        drawn *= 10.0**magnitudes * (torch.rand(count, generator=generator) < 0.7)
    return drawn.to(dtype)
