# SPDX-License-Identifier: Apache-2.0
"""Long operations of a captured step in pieces, so that training can stop inside them; every bit stays the same.

Each rule in `splitting_rules` says how an operation could be computed in pieces. Libraries choose their kernels by
shape, so whether that rounds as the whole operation does is not known from theory: it is tried here, for this very
operation, these shapes and strides, this machine and number of threads, on two kinds of numbers. What differs in one
bit stays whole.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from .capture import Call, Captured
from .splitting_rules import convolutions, elementwise, normalization, products, tables
from .splitting_rules.cuts import InCuts, Pause, Piecewise, Rule, Sample
from .splitting_rules.trial import Draws, same_bits

LONGEST_S = 0.005
SLOWEST_BYTES_PER_S = 64e6
"""Arguments and results of small matrix products and convolutions; no operation that matters here is slower."""
MAY_EXCEED = 1.5
"""A piece is not too long up to this multiple of what is asked for."""
FRESH = 10
"""Writing to memory for the first time takes up to so many times as long as writing to it again."""
GOOD = 0.25
"""A way into pieces that is not worse than this, in shares of time and of length, is taken without looking further."""
DEAR = 0.5
VERY_LONG = 3
"""Pieces that cost more than this share are not worth it unless the whole is so many times too long."""
FEWEST = 4
"""Pieces, at least, of an operation for which there is no room whole."""

RULES: dict[object, Rule] = {
    **products.RULES,
    **convolutions.RULES,
    **elementwise.RULES,
    **normalization.RULES,
    **tables.RULES,
}


@dataclass(frozen=True, slots=True)
class Split:
    """An operation in pieces: seconds of it whole and in pieces, of its longest piece, and how many there are."""

    op: str
    target: str
    whole_s: float
    pieces_s: float
    longest_s: float
    pieces: int


@dataclass(frozen=True)
class Pieces:
    """What is computed in pieces: by the name of its node, called with a `Pause` and the node's own arguments.

    `whole` are the operations longer than asked for that have no exact pieces, and their seconds.
    """

    functions: Mapping[str, Piecewise]
    split: tuple[Split, ...]
    whole: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """A `Piecewise` for arguments laid out as those it was tried with; others, which a trace can mistake, go whole."""

    piecewise: Piecewise
    target: Any
    strides: tuple[Any, ...]

    def __call__(self, pause: Pause, *args: Any, **kwargs: Any) -> Any:
        """The operation's result."""
        if _strides(args) != self.strides:
            return self.target(*args, **kwargs)
        return self.piecewise(pause, *args, **kwargs)


def make_interruptible(
    captured: Captured,
    longest_s: float = LONGEST_S,
    rules: Mapping[object, Rule] = RULES,
    only: Collection[str] | None = None,
    pause: Pause = lambda: None,
) -> Pieces:
    """Pieces of about `longest_s` for each operation of the step that takes longer, where that changes no bit.

    Takes the time of a few steps, and calls `pause` between operations. The random state stays as it is. `only`: these
    operations and no others, however short they are and however dear that is, for it is memory that they have no room
    for whole.
    """
    functions: dict[str, Piecewise] = {}
    split, whole = [], []
    tried: dict[tuple[str, str], tuple[float, tuple[Piecewise, Split] | None]] = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        draws = Draws(captured)
        for op in captured.graph.ops:
            action = captured.actions[op.name]
            if not isinstance(action, Call) or (only is not None and op.name not in only):
                continue
            alike = (op.target, op.detail)
            if only is None and _touched_bytes(captured, action.node) < longest_s * SLOWEST_BYTES_PER_S:
                continue
            if alike not in tried:
                tried[alike] = _try(draws, action.node, longest_s, rules, pause, needed=only is not None)
            seconds, found = tried[alike]
            if found is not None:
                functions[op.name] = found[0]
                split.append(replace(found[1], op=op.name))
            elif seconds > longest_s:
                whole.append((op.name, seconds))
    return Pieces(functions, tuple(split), tuple(whole))


def _try(
    draws: Draws, node: Node, longest_s: float, rules: Mapping[object, Rule], pause: Pause, *, needed: bool
) -> tuple[float, tuple[Piecewise, Split] | None]:
    """Seconds of a node's operation, and the best way into pieces that keeps every bit."""
    rule = rules.get(node.target) or _pointwise(node.target)
    sample = draws.sample(node, "normal" if rule else "positive")
    whole_s = _timed(sample, longest_s, pause)
    if rule is None or (whole_s <= longest_s and not needed):
        return whole_s, None
    if needed:
        longest_s = min(longest_s, whole_s / FEWEST)
    sample = _computed(sample, pause)
    ways: list[tuple[float, list[float], Piecewise]] = []
    for piecewise in rule(sample, math.ceil(whole_s / longest_s)):
        spans_s = _compared(piecewise, sample, pause)
        if spans_s and isinstance(piecewise, InCuts):
            piecewise = piecewise.evened(spans_s, longest_s)
            spans_s = _compared(piecewise, sample, pause)
        if len(spans_s) > 1 and _badness(spans_s, whole_s, longest_s) > GOOD:
            spans_s = min(spans_s, _compared(piecewise, sample, pause), key=sum)
        if len(spans_s) > 1:
            ways.append((_badness(spans_s, whole_s, longest_s), spans_s, piecewise))
            if ways[-1][0] <= GOOD:
                break
    del sample
    if ways:
        sample = _computed(draws.sample(node, "uneven"), pause)
        for _, spans_s, piecewise in sorted(ways, key=lambda way: way[0]):
            pieces_s = sum(spans_s)
            if pieces_s > whole_s * (1 + DEAR) and whole_s < VERY_LONG * longest_s and not needed:
                continue
            if _compared(piecewise, sample, pause):
                verified = Verified(piecewise, node.target, _strides(sample.args))
                return whole_s, (verified, Split("", str(node.target), whole_s, pieces_s, max(spans_s), len(spans_s)))
    return whole_s, None


def _strides(args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(
        value.stride() if isinstance(value, Tensor) else _strides(value) if isinstance(value, list | tuple) else None
        for value in args
    )


def _badness(spans_s: Sequence[float], whole_s: float, longest_s: float) -> float:
    """How much longer all pieces take than the whole, and the longest than it may; shares."""
    return max(0.0, sum(spans_s) / whole_s - 1) + max(0.0, max(spans_s) / (MAY_EXCEED * longest_s) - 1)


def _pointwise(target: Any) -> Rule | None:
    """The rule for operations that torch itself says are pointwise."""
    tags = target.tags if isinstance(target, torch._ops.OpOverload) else []
    fits = torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags
    return elementwise.pointwise if fits else None


def _touched_bytes(captured: Captured, node: Node) -> int:
    memory = captured.memory
    read = {storage for value in node.all_input_nodes for storage in memory.storages[value]}
    made = {storage for storage in memory.makes[node] if storage is not None}
    return sum(memory.sizes_bytes[storage] for storage in read | made)


def _compared(piecewise: Piecewise, sample: Sample, pause: Pause) -> list[float]:
    """Seconds of each piece, nothing if result or random state differ from the whole operation's."""
    spans_s: list[float] = []
    begun_s, clock = 0.0, _clock()

    def between() -> None:
        nonlocal begun_s
        spans_s.append(clock() - begun_s)
        pause()
        begun_s = clock()

    _forget()
    pause()
    torch.default_generator.manual_seed(0)
    begun_s = clock()
    result = piecewise(between, *sample.args, **sample.kwargs)
    same = same_bits(result, sample.result) and same_bits(torch.get_rng_state(), sample.random_state)
    return spans_s if same else []


def _computed(sample: Sample, pause: Pause) -> Sample:
    pause()
    torch.default_generator.manual_seed(0)
    result = sample.target(*sample.args, **sample.kwargs)
    return replace(sample, result=result, random_state=torch.get_rng_state())


def _timed(sample: Sample, longest_s: float, pause: Pause) -> float:
    """Seconds of an operation on fresh memory, the least of three unless it is short anyway."""
    found_s = _once(sample, pause)
    if found_s * FRESH < longest_s:
        return found_s
    _forget()
    spans_s = [_once(sample, pause)]  # the very first time does not count: libraries prepare a kernel then
    while min(spans_s) > longest_s and len(spans_s) < 3:
        _forget()
        spans_s.append(_once(sample, pause))
    return min(spans_s)


def _once(sample: Sample, pause: Pause) -> float:
    pause()
    clock = _clock()
    start_s = clock()
    result = sample.target(*sample.args, **sample.kwargs)
    seconds = clock() - start_s
    del result  # not on the clock: giving memory back takes a while
    return seconds


def _forget() -> None:
    """Give free memory back to the system: an operation may find none in the step, and fresh memory takes long."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def _clock() -> Callable[[], float]:
    """With one thread its own processor time, so that neighbours do not count."""
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
