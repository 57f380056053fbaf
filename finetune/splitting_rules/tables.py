# SPDX-License-Identifier: Apache-2.0
"""Gradients of lookup tables, and dropout: what is neither a cut of arguments nor of results alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ..capturing.dropout import dropout, dropout_backward
from .cuts import Pause, Piecewise, Rule, Sample, spans
from .elementwise import pointwise

aten = torch.ops.aten


def embedding_backward(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """embedding_dense_backward(gradient, indices, rows, padding, scale): zeros by rows, then the gradients in order."""
    if sample.args[4]:
        return  # scaled by how often a row is looked up

    def run(pause: Pause, gradient: Tensor, indices: Tensor, rows: int, padding: int, scale: bool) -> Tensor:
        made = gradient.new_empty((rows, gradient.size(-1)))
        for start, length in spans(rows, parts):
            made.narrow(0, start, length).zero_()
            pause()
        flat = indices.reshape(-1)
        used = flat != padding
        made.index_add_(0, flat[used], gradient.reshape(flat.numel(), -1)[used])
        pause()
        return made

    yield run


def dropout_forward(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """Our own dropout by slices; the random numbers as well where they are drawn one after the other, else at once."""
    shares = spans(sample.args[0].size(0), parts)

    def run(pause: Pause, values: Tensor, p: float, *, at_once: bool = False) -> tuple[Tensor, Tensor]:
        kept = torch.empty_like(values)
        mask = torch.empty_like(kept, dtype=torch.bool)
        if at_once:
            kept.bernoulli_(1.0 - p)
            pause()
        for start, length in shares:
            piece = kept.narrow(0, start, length)
            if not at_once:
                piece.bernoulli_(1.0 - p)
            mask.narrow(0, start, length).copy_(piece)
            torch.mul(values.narrow(0, start, length), piece.div_(1.0 - p), out=piece)
            pause()
        return kept, mask

    yield run
    yield partial(run, at_once=True)


RULES: dict[object, Rule] = {
    aten.embedding_dense_backward.default: embedding_backward,
    dropout: dropout_forward,
    dropout_backward: pointwise,
}
