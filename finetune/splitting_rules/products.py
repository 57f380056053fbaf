# SPDX-License-Identifier: Apache-2.0
"""Matrix products by columns or rows of the result: each piece is a product over the same inner dimension."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .cuts import Cut, InCuts, Piecewise, Rule, Sample

aten = torch.ops.aten

GRAIN = 16
"""Rows and columns of a piece are multiples of this, so that the kernels' blocks fall as in the whole product."""


def products(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """mm(a, b) and addmm(bias, a, b)."""
    added = len(sample.args) - 2
    left, right = sample.args[added : added + 2]
    columns, rows = {added + 1: 1}, {added: 0}
    if added:
        bias = sample.args[0]
        if bias.size(-1) > 1:
            columns[0] = bias.dim() - 1
        if bias.dim() == 2 and bias.size(0) > 1:
            rows[0] = 0
    for extent, arguments, dimension in ((right.size(1), columns, 1), (left.size(0), rows, 0)):
        yield InCuts(sample, parts, Cut(extent, arguments, {0: dimension}, grain=min(GRAIN, extent)))


def batched(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """bmm(a, b) and baddbmm(c, a, b) by batch, which changes no product."""
    everywhere = {position: 0 for position in range(len(sample.args)) if sample.args[position].dim() == 3}
    yield InCuts(sample, parts, Cut(sample.args[-1].size(0), everywhere, {0: 0}))


RULES: dict[object, Rule] = {
    aten.mm.default: products,
    aten.addmm.default: products,
    aten.bmm.default: batched,
    aten.baddbmm.default: batched,
}
