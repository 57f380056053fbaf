# SPDX-License-Identifier: Apache-2.0
"""Stored samples as batches of tensors, some of them held out; nothing but a batch is ever in RAM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from telemetry.samples import Samples

from ..data_order import shuffled
from ..errors import TooFewSamples

MOST_HELD_OUT = 2000
"""More of them tell no more: with so many an accuracy is known to a percent."""
_TYPES = {"FP32": torch.float32, "INT64": torch.int64}
_HELD_OUT_EPOCH = -1
"""Of the order that splits; training's epochs count from 0."""


class Dataset:
    """The samples of a snapshot, split by a seed into those to train on and those held out.

    Raises `TooFewSamples` unless there is a batch of the one and something of the other.
    """

    def __init__(self, samples: Samples, batch: int, held_out_share: float, seed: int) -> None:
        self._samples = samples
        held_out = _held_out(len(samples), held_out_share)
        if len(samples) - held_out < batch:
            raise TooFewSamples(len(samples), _needed(batch, held_out_share))
        order = shuffled(len(samples), seed, _HELD_OUT_EPOCH).tolist()
        self.held_out: Sequence[int] = sorted(order[:held_out])
        self.training: Sequence[int] = sorted(order[held_out:])
        self.steps = -(-len(self.training) // batch)
        """Of one epoch."""

    def __len__(self) -> int:
        return len(self._samples)

    def batch(self, numbers: Sequence[int], look: Callable[[], None] = lambda: None) -> tuple[Tensor, ...]:
        """The inputs, each `n x dims` in the order of the fields, and last the labels (`n`, int64).

        `look` is called before each sample is read.
        """
        fields = self._samples.fields
        inputs = [torch.empty(len(numbers), *field.dims, dtype=_TYPES[field.dtype]) for field in fields]
        labels = torch.empty(len(numbers), dtype=torch.int64)
        for row, number in enumerate(numbers):
            look()
            tensors, label = self._samples[number]
            for field, whole in zip(fields, inputs, strict=True):
                whole[row] = torch.frombuffer(tensors[field.name], dtype=whole.dtype).reshape(field.dims)
            labels[row] = label
        return (*inputs, labels)

    def training_batch(self, picked: Sequence[int], look: Callable[[], None] = lambda: None) -> tuple[Tensor, ...]:
        """The batch of these places among the samples to train on, as a `DataOrder` gives them."""
        return self.batch([self.training[place] for place in picked], look)


def _held_out(count: int, share: float) -> int:
    return min(MOST_HELD_OUT, max(1, round(count * share)))


def _needed(batch: int, held_out_share: float) -> int:
    """The fewest samples of which a batch is left to train on."""
    count = batch + 1
    while count - _held_out(count, held_out_share) < batch:
        count += 1
    return count
