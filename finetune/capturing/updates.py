# SPDX-License-Identifier: Apache-2.0
"""What an update costs: the optimizer's own step on one weight, in slices if it is large, as training takes it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import Parameter
from torch.optim import SGD, Adam, Optimizer

from ..executing.sinks import Optimizing
from .optimizer import PIECE_BYTES, Rule
from .torch_private import recording_memory

SMALL_BYTES, LARGE_BYTES = 64 << 10, 16 << 20

OPTIMIZERS: dict[Rule, Callable[[list[Parameter]], Optimizer]] = {
    "sgd": lambda weights: SGD(weights, 1e-3, weight_decay=0.01),
    "momentum": lambda weights: SGD(weights, 1e-3, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda weights: Adam(weights, 1e-3, weight_decay=0.01),
}
"""Each rule with the options that take the most memory; clipping adds to it."""


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
        """Bytes beyond weight, gradient and states while it is updated; of a large weight those of one slice."""
        return int(min(size_bytes, PIECE_BYTES) * self.workspace_per_byte)


def measure_updates(repeats: int, pause: Callable[[], object] = lambda: None) -> dict[Rule, UpdateCost]:
    """What each rule costs on this machine; medians. `pause` is called between updates."""
    return {rule: _measure(rule, repeats, pause) for rule in OPTIMIZERS}


def _measure(rule: Rule, repeats: int, pause: Callable[[], object]) -> UpdateCost:
    small_s, large_s = (
        _median_s(_update(rule, size_bytes), repeats, pause) for size_bytes in (SMALL_BYTES, LARGE_BYTES)
    )
    per_byte = max(0.0, (large_s - small_s) / (LARGE_BYTES - SMALL_BYTES))
    return UpdateCost(max(0.0, small_s - per_byte * SMALL_BYTES), per_byte, _workspace(rule) / PIECE_BYTES)


def _update(rule: Rule, size_bytes: int, clip_value: float | None = None) -> Callable[[], None]:
    """One update of a weight of that size, whose states exist."""
    weight, gradient = Parameter(torch.ones(size_bytes // 4)), torch.ones(size_bytes // 4)
    sink = Optimizing(OPTIMIZERS[rule]([weight]), clip_value)

    def update() -> None:
        sink.take("weight", weight, gradient, lambda: None)

    update()
    return update


def _median_s(update: Callable[[], None], repeats: int, pause: Callable[[], object]) -> float:
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    spans = []
    for _ in range(repeats):
        pause()
        start_s = clock()
        update()
        spans.append(clock() - start_s)
    return statistics.median(spans)


def _workspace(rule: Rule) -> int:
    update = _update(rule, PIECE_BYTES, clip_value=1.0)
    with recording_memory() as events:
        update()
    live = worst = 0
    for _, _, _, size_bytes in sorted(
        (event for event in events if event[0] == "[memory]"), key=lambda event: event[1]
    ):
        live += size_bytes
        worst = max(worst, live)
    return worst
