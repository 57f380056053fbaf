# SPDX-License-Identifier: Apache-2.0
"""Convolutions by image or by group; their gradients one after the other, that of the weights by output channel.

A weight's gradient is never summed over pieces of the batch: that rounds differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from .cuts import Cut, InCuts, Piecewise, Rule, Sample

aten = torch.ops.aten

GROUPS = 8
"""Position of the number of groups among the arguments of `convolution`; one further in `convolution_backward`."""
MASK = 10
"""Position of what is wanted of input's, weight's and bias's gradient."""


def forward(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)."""
    image, weight, bias, *_, transposed, _, groups = sample.args
    yield InCuts(sample, parts, Cut(image.size(0), {0: 0}, {0: 0}))
    if transposed:
        return
    own = {1: 0} if bias is None else {1: 0, 2: 0}
    if groups > 1:
        yield InCuts(sample, parts, Cut(groups, {0: 1, **own}, {0: 1}, counted=GROUPS, grain=_grain(groups)))
    else:
        yield InCuts(sample, parts, Cut(weight.size(0), own, {0: 1}, grain=_grain(weight.size(0))))


def backward(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """convolution_backward(gradient, input, weight, ..., transposed, output_padding, groups, output_mask)."""
    gradient, _, weight = sample.args[:3]
    transposed, _, groups, mask = sample.args[7:11]
    if transposed:
        return
    input_alone, rest = {MASK: [True, False, False]}, {MASK: [False, mask[1], mask[2]]}
    others = {position: 0 for position in (1, 2) if mask[position]}
    if groups > 1:
        by_group = {0: 1, 1: 1, 2: 0}
        images = Cut(gradient.size(0), {0: 0, 1: 0}, {0: 0}, input_alone)
        towards_input = [images, Cut(groups, by_group, {0: 1}, input_alone, counted=GROUPS + 1, grain=_grain(groups))]
        towards_weight = [
            Cut(groups, by_group, others, rest, counted=GROUPS + 1, packed=packed, grain=_grain(groups))
            for packed in (False, True)
        ]
    else:
        channels = weight.size(0)
        towards_input = [Cut(gradient.size(0), {0: 0, 1: 0}, {0: 0}, input_alone)]
        towards_weight = [
            Cut(channels, {0: 1, 2: 0}, others, rest, packed=packed, grain=_grain(channels)) for packed in (False, True)
        ] + [Cut(1, {}, others, rest)]
    for first, second in product(towards_input if mask[0] else [None], towards_weight if others else [None]):
        yield InCuts(sample, parts, *(cut for cut in (first, second) if cut is not None))


def _grain(channels: int) -> int:
    """Libraries compute channels in blocks of 16 on wide machines; a piece that breaks one is slower."""
    return min(16, channels)


RULES: dict[object, Rule] = {aten.convolution.default: forward, aten.convolution_backward.default: backward}
