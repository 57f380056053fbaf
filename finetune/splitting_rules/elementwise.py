# SPDX-License-Identifier: Apache-2.0
"""Operations whose results each need few elements: pointwise ones, copies, softmax, sums over dimensions, by image.

Slices are taken along the outermost dimension in memory that has enough of it, so that the kernels' inner loops see
the same runs of memory, and the same share of them in vectors, as in the whole operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..capturing.storages import Geometry
from .cuts import Cut, InCuts, Pause, Piecewise, Rule, Sample, empty, spans

aten = torch.ops.aten

LANES = 32
"""Neighbours in memory are summed in vectors, several at once."""


def pointwise(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """Any operation of broadcast arguments."""
    result: Tensor = sample.result
    for dimension in _outer(result, range(result.dim()), parts):
        yield InCuts(sample, parts, _broadcast(sample.args, result, dimension))


def softmax(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """_softmax(x, dim, ...), _softmax_backward_data(gradient, result, dim, ...) and the same of the logarithm."""
    result: Tensor = sample.result
    along = next(value for value in sample.args if isinstance(value, int)) % max(1, result.dim())
    for dimension in _outer(result, (d for d in range(result.dim()) if d != along), parts):
        yield InCuts(sample, parts, _broadcast(sample.args, result, dimension))


def reduction(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """sum(x, dims, keepdim) and mean, along a dimension that is not summed over."""
    values, summed = sample.args[:2]
    gone = {dimension % values.dim() for dimension in summed or range(values.dim())}
    keeps = len(sample.args) > 2 and sample.args[2]
    kept = [dimension for dimension in range(values.dim()) if dimension not in gone]
    for dimension in _outer(values, kept, parts):
        left = dimension if keeps else kept.index(dimension)
        extent = values.size(dimension)
        grain = min(LANES, extent) if values.stride(dimension) == 1 else 1
        yield InCuts(sample, parts, Cut(extent, {0: dimension}, {0: left}, grain=grain))


def by_image(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """Pooling and fused attention, and their gradients; not with a mask per image."""
    if any(isinstance(value, Tensor) and value.size(0) > 1 for value in sample.kwargs.values()):
        return
    tensors = {position: 0 for position, value in enumerate(sample.args) if isinstance(value, Tensor)}
    results = dict.fromkeys(range(len(sample.results)), 0)
    yield InCuts(sample, parts, Cut(sample.args[0].size(0), tensors, results))


def padding(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """constant_pad_nd(x, pad, value), along a dimension that is not padded."""
    result: Tensor = sample.result
    unpadded = range(result.dim() - len(sample.args[1]) // 2)
    for dimension in _outer(result, unpadded, parts):
        yield partial(_padded, Geometry.of(result), dimension, parts)


def _padded(
    geometry: Geometry, dimension: int, parts: int, pause: Pause, source: Tensor, pad: Sequence[int], value: float = 0.0
) -> Tensor:
    made = empty(geometry)
    into = made
    for number, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        along = source.dim() - 1 - number
        source = source.narrow(along, max(0, -before), source.size(along) + min(0, before) + min(0, after))
        into = into.narrow(along, max(0, before), into.size(along) - max(0, before) - max(0, after))
    for start, length in spans(geometry.size[dimension], parts):
        if max(pad) > 0:
            made.narrow(dimension, start, length).fill_(value)
        into.narrow(dimension, start, length).copy_(source.narrow(dimension, start, length))
        pause()
    return made


def joining(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """cat(tensors, dim): one tensor after another, large ones by slices."""
    yield partial(_joined, Geometry.of(sample.result), parts)


def _joined(geometry: Geometry, parts: int, pause: Pause, tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    made, end = empty(geometry), 0
    for tensor in tensors:
        if tensor.dim() != made.dim():
            continue  # cat takes empty tensors of one dimension for nothing
        into = made.narrow(dim, end, tensor.size(dim))
        end += tensor.size(dim)
        share = -(-parts * tensor.numel() // max(1, made.numel()))
        for start, length in spans(tensor.size(0), share):
            into.narrow(0, start, length).copy_(tensor.narrow(0, start, length))
            pause()
    return made


def copy(sample: Sample, parts: int) -> Iterator[Piecewise]:
    """A copy to another layout or number type."""
    result: Tensor = sample.result
    itself = replace(sample, target=_itself)
    for dimension in _outer(result, range(result.dim()), parts):
        yield InCuts(itself, parts, _broadcast(sample.args, result, dimension))


def _itself(source: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What writing it into a result of another layout or type copies."""
    return source


def _outer(tensor: Tensor, among: Iterable[int], parts: int) -> list[int]:
    """The outermost dimension in memory that is long enough to be shared out, else the longest; none of none."""
    known = sorted(among, key=tensor.stride, reverse=True)
    enough = [dimension for dimension in known if tensor.size(dimension) >= parts]
    return (enough or sorted(known, key=tensor.size, reverse=True))[:1]


def _broadcast(args: Iterable[Any], result: Tensor, dimension: int) -> Cut:
    from_end = dimension - result.dim()
    extent = result.size(dimension)
    cut = {
        position: value.dim() + from_end
        for position, value in enumerate(args)
        if isinstance(value, Tensor) and value.dim() + from_end >= 0 and value.size(from_end) == extent
    }
    return Cut(extent, cut, {0: dimension})


RULES: dict[object, Rule] = {
    aten._softmax.default: softmax,
    aten._softmax_backward_data.default: softmax,
    aten._log_softmax.default: softmax,
    aten._log_softmax_backward_data.default: softmax,
    aten.sum.dim_IntList: reduction,
    aten.mean.dim: reduction,
    aten.max_pool2d_with_indices.default: by_image,
    aten.max_pool2d_with_indices_backward.default: by_image,
    aten.avg_pool2d.default: by_image,
    aten.avg_pool2d_backward.default: by_image,
    aten._scaled_dot_product_flash_attention_for_cpu.default: by_image,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: by_image,
    aten.constant_pad_nd.default: padding,
    aten.cat.default: joining,
    aten._to_copy.default: copy,
    aten.clone.default: copy,
}
