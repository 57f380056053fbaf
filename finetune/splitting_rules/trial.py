# SPDX-License-Identifier: Apache-2.0
"""Arguments like those of the step for trying an operation, and whether two results are the same bit for bit.

Tensors have the sizes, strides and alignment of the step's; their numbers are drawn anew, so no step needs to run.
"""

from __future__ import annotations

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


class Draws:
    """Samples of a captured step's operations; the numbers of each kind are drawn once."""

    def __init__(self, captured: Captured) -> None:
        self._geometries = captured.memory.geometries
        generator = torch.Generator().manual_seed(0)
        normal = torch.randn(POOL, generator=generator)
        magnitudes = torch.randint(-4, 5, (POOL,), generator=generator)
        uneven = normal * 10.0**magnitudes * (torch.rand(POOL, generator=generator) < 0.7)
        self._pools = {"positive": torch.rand(POOL, generator=generator), "normal": normal, "uneven": uneven}

    def sample(self, node: Node, numbers: Numbers) -> Sample:
        """A node's operation on numbers of that kind, not computed yet."""
        highest = _highest(node)
        made = {
            value: self._tensor(self._geometries[value], numbers, highest, position)
            for position, value in enumerate(node.all_input_nodes)
        }
        args = torch.fx.node.map_arg(node.args, made.__getitem__)
        kwargs = torch.fx.node.map_arg(node.kwargs, made.__getitem__)
        return Sample(node.target, tuple(args), kwargs)

    def _tensor(self, geometry: Geometry, numbers: Numbers, highest: int, position: int) -> Tensor:
        shift = geometry.offset % ALIGNMENT_BYTES
        lengths = zip(geometry.size, geometry.stride, strict=True)
        count = 0 if 0 in geometry.size else shift + 1 + sum((size - 1) * stride for size, stride in lengths)
        flat = _from(self._pools[numbers], count, POOL // 7 * position)
        if geometry.dtype is torch.bool:
            flat = flat > 0.5
        elif not geometry.dtype.is_floating_point:
            flat = flat.abs() * 1e6 % highest
        return flat.to(geometry.dtype).as_strided(geometry.size, geometry.stride, shift)


def _from(pool: Tensor, count: int, start: int) -> Tensor:
    """So many numbers of a pool, over and over, from a place in it."""
    first = pool[start : start + count]
    again, rest = divmod(count - len(first), len(pool))
    return torch.cat([first, *[pool] * again, pool[:rest]])


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
