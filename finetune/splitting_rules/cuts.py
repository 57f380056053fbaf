# SPDX-License-Identifier: Apache-2.0
"""An operation in pieces: slices of its arguments along a dimension give slices of its results.

The results are allocated first, in the layout of the whole operation's, and each piece writes its own slice of them:
directly where the operation can write into given memory, else by a copy of the size of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..capturing.storages import Geometry

Pause = Callable[[], object]
Piecewise = Callable[..., Any]
"""Called with a `Pause` and the operation's own arguments; gives the operation's own result.

It pauses after every piece, the last too: what the step lets go of then, which may take milliseconds, comes after.
"""

aten = torch.ops.aten
STRIDED = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.sum.dim_IntList,
    aten.mean.dim,
}
"""Operations that write into a slice with gaps as into any other, besides the pointwise ones."""

TOLERATED = 0.3
"""No further piece for this share of one."""

Rule = Callable[["Sample", int], Iterator[Piecewise]]
"""Ways to compute an operation in about so many pieces, the likely best first."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An operation with arguments like those that it meets in the step.

    Once it was computed whole, from a known random state: its result, and the random state after it.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any = None
    random_state: Tensor | None = None

    @property
    def results(self) -> list[Tensor | None]:
        """The tensors of the result."""
        return as_list(self.result)


@dataclass(frozen=True, slots=True)
class Cut:
    """Along which dimension each argument and each result is cut, by position; arguments not named are used whole.

    There are `extent` units to share out; an argument or result has the same number of elements for each. Results not
    named are not computed: `constants` say so to the operation, or `counted` is the argument that is told how many
    units a piece has. `packed`: slices of arguments are made contiguous first.
    """

    extent: int
    arguments: Mapping[int, int]
    results: Mapping[int, int]
    constants: Mapping[int, Any] = field(default_factory=dict)
    counted: int | None = None
    packed: bool = False
    grain: int = 1


def as_list(result: Any) -> list[Any]:
    """The elements of a result that may be one or several: tensors, or None."""
    return [result] if isinstance(result, Tensor) else list(result)


def spans(extent: int, parts: int, grain: int = 1) -> list[tuple[int, int]]:
    """Start and length of at most `parts` shares of about the same size, each but the last a multiple of `grain`."""
    parts = max(1, min(parts, extent // grain))
    bounds = [extent * part // parts // grain * grain for part in range(parts)] + [extent]
    return [(start, end - start) for start, end in pairwise(bounds)]


class InCuts:
    """One cut after another, which together make all results, in about `parts` pieces; a `Piecewise`."""

    def __init__(self, sample: Sample, parts: int, *cuts: Cut) -> None:
        self._target = sample.target
        self._single = isinstance(sample.result, Tensor)
        self._geometries = [None if found is None else Geometry.of(found) for found in sample.results]
        self._spans = [(cut, spans(cut.extent, -(-parts // len(cuts)), cut.grain)) for cut in cuts]

    def __call__(self, pause: Pause, *args: Any, **kwargs: Any) -> Any:
        """The operation's result."""
        results = [None if geometry is None else empty(geometry) for geometry in self._geometries]
        for cut, found in self._spans:
            for start, length in found:
                _piece(self._target, cut, args, kwargs, results, start, length)
                pause()
        return results[0] if self._single else tuple(results)

    def evened(self, spans_s: Sequence[float], longest_s: float) -> InCuts:
        """The same cuts, each in pieces of about `longest_s`, given how long each piece takes now."""
        found = copy(self)
        found._spans = []
        left = list(spans_s)
        for cut, now in self._spans:
            cut_s, left = sum(left[: len(now)]), left[len(now) :]
            found._spans.append((cut, spans(cut.extent, math.ceil(cut_s / longest_s - TOLERATED), cut.grain)))
        return found


def into(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], results: Sequence[Tensor]) -> None:
    """Compute an operation into given tensors of the right shape, one for each tensor that it returns."""
    write = _writing(target)
    if write is not None and (_minds_strides(target) or all(result.is_contiguous() for result in results)):
        overload, names = write
        overload(*args, **kwargs, **dict(zip(names, results, strict=True)))
        return
    for result, found in zip(results, as_list(target(*args, **kwargs)), strict=True):
        result.copy_(found)


def _piece(
    target: Any,
    cut: Cut,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    results: Sequence[Any],
    start: int,
    length: int,
) -> None:
    given = list(args)
    for position, dimension in cut.arguments.items():
        given[position] = _slice(args[position], dimension, cut.extent, start, length)
        if cut.packed:
            given[position] = given[position].contiguous()
    for position, constant in cut.constants.items():
        given[position] = constant
    if cut.counted is not None:
        given[cut.counted] = length
    wanted = {
        position: _slice(results[position], dimension, cut.extent, start, length)
        for position, dimension in cut.results.items()
    }
    if len(wanted) == len(results):
        into(target, given, kwargs, [wanted[position] for position in range(len(results))])
        return
    made = as_list(target(*given, **kwargs))
    for position, result in wanted.items():
        result.copy_(made[position])


def _slice(tensor: Tensor, dimension: int, extent: int, start: int, length: int) -> Tensor:
    unit = tensor.size(dimension) // extent
    return tensor.narrow(dimension, start * unit, length * unit)


def empty(geometry: Geometry) -> Tensor:
    """Memory for a result, in its layout."""
    return torch.empty_strided(geometry.size, geometry.stride, dtype=geometry.dtype)


def _rectify(values: Tensor, *, out: Tensor) -> None:
    """`relu`, as it is defined, into given memory."""
    aten.clamp_min.out(values, 0, out=out)


@cache
def _minds_strides(target: Any) -> bool:
    """Whether an operation may write into a slice with gaps; some, softmax among them, take it for one without."""
    return target in STRIDED or torch.Tag.pointwise in target.tags


@cache
def _writing(target: Any) -> tuple[Any, tuple[str, ...]] | None:
    """The variant of an operation that writes into given tensors, and what it calls them; None if it has none."""
    if not isinstance(target, torch._ops.OpOverload):
        return None
    if target is aten.relu.default:  # its own variant computes a result and copies it
        return _rectify, ("out",)
    asked = [(argument.name, str(argument.type)) for argument in target._schema.arguments]
    for name in target.overloadpacket.overloads():
        overload = getattr(target.overloadpacket, name)
        found = overload._schema.arguments
        outs = tuple(argument.name for argument in found if argument.is_out)
        rest = [(argument.name, str(argument.type)) for argument in found if not argument.is_out]
        if rest == asked and len(outs) == len(target._schema.returns):
            return overload, outs
    return None
