# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation by channels, each with statistics of its own; layer normalisation by rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .cuts import Cut, Piecewise, Rule, Sample, in_cuts

aten = torch.ops.aten


def batch_norm(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """Forward (input, weight, bias, mean, variance, ...) and backward (gradient, input, weight, ...)."""
    channels = sample.args[0].size(1)
    arguments = {
        position: 1 if value.dim() > 1 else 0
        for position, value in enumerate(sample.args)
        if isinstance(value, Tensor) and value.numel() >= channels
    }
    results = {
        position: 1 if value.dim() > 1 else 0
        for position, value in enumerate(sample.results)
        if value is not None and value.numel() >= channels
    }
    for packed in (False, True):
        yield in_cuts(sample, parts, Cut(channels, arguments, results, packed=packed))


RULES: dict[object, Rule] = {
    aten._native_batch_norm_legit_functional.default: batch_norm,
    aten.native_batch_norm_backward.default: batch_norm,
}
