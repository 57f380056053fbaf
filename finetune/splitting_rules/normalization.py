# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation: statistics by channels, each having its own, then the values by images; layer normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from .cuts import Cut, InCuts, Pause, Piecewise, Rule, Sample, spans

aten = torch.ops.aten


def forward(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """_native_batch_norm_legit_functional(input, weight, bias, mean, variance, training, momentum, eps)."""
    if sample.args[5]:
        by_images = -(-parts * 2 // 3)
        yield partial(_normalised, max(1, parts // 3), by_images)
        yield partial(_normalised, -(-parts * 3 // 4), by_images)


def _normalised(
    by_channels: int,
    by_images: int,
    pause: Pause,
    values: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, ...]:
    """The result, the batch's mean and inverse deviation, and the new running mean and variance.

    Statistics of some of the channels need a copy of them, those of all at once none. The values are then normalised as
    in evaluation, with numbers chosen so that the kernel finds the scale and shift of training: a variance of 1, no
    eps, and the inverse deviation inside the weight.
    """
    mean, variance = mean.clone(), variance.clone()
    means, variances = torch.empty_like(mean), torch.empty_like(mean)
    for start, length in spans(values.size(1), by_channels):
        found = values.narrow(1, start, length).contiguous()  # other layouts are summed in another order
        running = mean.narrow(0, start, length), variance.narrow(0, start, length)
        found = aten.batch_norm_update_stats(found, *running, momentum)
        means.narrow(0, start, length).copy_(found[0])
        variances.narrow(0, start, length).copy_(found[1])
        pause()
    deviation = (variances.double() + eps).sqrt().reciprocal().to(variances.dtype)
    scale = deviation if weight is None else deviation * weight
    made, ones, none = torch.empty_like(values), torch.ones_like(variances), values.new_empty(0)
    for start, length in spans(values.size(0), by_images):
        piece = values.narrow(0, start, length), scale, bias, means, ones, False, momentum, 0.0
        aten.native_batch_norm.out(*piece, out=made.narrow(0, start, length), save_mean=none, save_invstd=none)
        pause()
    return made, means, deviation, mean, variance


def backward(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """native_batch_norm_backward(gradient, input, weight, ...) by channels."""
    channels = sample.args[0].size(1)
    arguments = {
        position: min(1, value.dim() - 1) for position, value in enumerate(sample.args) if isinstance(value, Tensor)
    }
    results = {position: min(1, value.dim() - 1) for position, value in enumerate(sample.results) if value is not None}
    yield InCuts(sample, parts, Cut(channels, arguments, results, packed=True))


def layer_norm(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """native_layer_norm(input, shape, weight, bias, eps) by rows."""
    values, shape = sample.args[:2]
    if values.dim() > len(shape):
        yield InCuts(sample, parts, Cut(values.size(0), {0: 0}, {0: 0, 1: 0, 2: 0}))


def layer_norm_backward(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """native_layer_norm_backward(gradient, input, shape, mean, deviation, weight, bias, mask): by rows; the rest."""
    values, shape, mask = sample.args[1], sample.args[2], sample.args[7]
    if values.dim() > len(shape) and mask[0]:
        rows = Cut(values.size(0), {0: 0, 1: 0, 3: 0, 4: 0}, {0: 0}, {7: [True, False, False]})
        others = {position: 0 for position in (1, 2) if mask[position]}
        yield InCuts(sample, parts, rows, *([Cut(1, {}, others, {7: [False, *mask[1:]]})] if others else []))


RULES: dict[object, Rule] = {
    aten._native_batch_norm_legit_functional.default: forward,
    aten.native_batch_norm_backward.default: backward,
    aten.native_layer_norm.default: layer_norm,
    aten.native_layer_norm_backward.default: layer_norm_backward,
}
