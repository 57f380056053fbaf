# SPDX-License-Identifier: Apache-2.0
"""The optimizers' arithmetic for one weight, as torch.optim does it on single tensors, and what it costs per byte."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .optimizer import STATES, Rule
from .torch_private import recording_memory

SMALL_BYTES, LARGE_BYTES = 64 << 10, 16 << 20


@dataclass(frozen=True, slots=True)
class UpdateCost:
    """Seconds of an update of no bytes and of each byte of weight more; bytes of workspace per byte of weight."""

    latency_s: float
    seconds_per_byte: float
    workspace_per_byte: float

    def time_s(self, size_bytes: int) -> float:
        """Seconds to update a weight of that size."""
        return self.latency_s + size_bytes * self.seconds_per_byte

    def workspace_bytes(self, size_bytes: int) -> int:
        """Bytes beyond weight, gradient and states while it is updated."""
        return int(size_bytes * self.workspace_per_byte)


def sgd(weight: Tensor, gradient: Tensor, rate: float = 1e-3) -> None:
    """`torch.optim.SGD` without momentum."""
    weight.add_(gradient, alpha=-rate)


def momentum(weight: Tensor, gradient: Tensor, velocity: Tensor, rate: float = 1e-3, keep: float = 0.9) -> None:
    """`torch.optim.SGD` with momentum, from its second step on; the first finds a velocity of zeros."""
    velocity.mul_(keep).add_(gradient)
    weight.add_(velocity, alpha=-rate)


def adam(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: int = 1,
    rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> None:
    """`torch.optim.Adam` at its `step`-th step, counted from 1."""
    first, second = betas
    mean.lerp_(gradient, 1 - first)
    square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
    correction = (1 - second**step) ** 0.5
    denominator = (square.sqrt() / correction).add_(epsilon)
    weight.addcdiv_(mean, denominator, value=-rate / (1 - first**step))


UPDATES: dict[Rule, Callable[..., None]] = {"sgd": sgd, "momentum": momentum, "adam": adam}


def measure_updates(repeats: int) -> dict[Rule, UpdateCost]:
    """What each rule costs on this machine; medians."""
    return {rule: _measure(rule, repeats) for rule in STATES}


def _measure(rule: Rule, repeats: int) -> UpdateCost:
    small_s, large_s = (_median_s(rule, size_bytes, repeats) for size_bytes in (SMALL_BYTES, LARGE_BYTES))
    per_byte = max(0.0, (large_s - small_s) / (LARGE_BYTES - SMALL_BYTES))
    return UpdateCost(max(0.0, small_s - per_byte * SMALL_BYTES), per_byte, _workspace(rule) / LARGE_BYTES)


def _tensors(rule: Rule, size_bytes: int) -> Sequence[Tensor]:
    return [torch.ones(size_bytes // 4) for _ in range(2 + len(STATES[rule]))]


def _median_s(rule: Rule, size_bytes: int, repeats: int) -> float:
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    tensors, spans = _tensors(rule, size_bytes), []
    for _ in range(repeats + 1):
        start_s = clock()
        UPDATES[rule](*tensors)
        spans.append(clock() - start_s)
    return statistics.median(spans[1:])  # the first one meets fresh memory


def _workspace(rule: Rule) -> int:
    tensors = _tensors(rule, LARGE_BYTES)
    with recording_memory() as events:
        UPDATES[rule](*tensors)
    live = worst = 0
    for _, _, _, size_bytes in sorted(
        (event for event in events if event[0] == "[memory]"), key=lambda event: event[1]
    ):
        live += size_bytes
        worst = max(worst, live)
    return worst
