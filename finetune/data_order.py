# SPDX-License-Identifier: Apache-2.0
"""Which samples come in which batch: an order that depends on a seed and nothing else, and is taken up anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointInvalid


class DataOrder:
    """Batches of sample numbers, for ever: every sample once in each epoch, each epoch shuffled on its own.

    All batches have `batch` samples, as a plan is made for one shape: one that an epoch cannot fill is filled from the
    next. `epoch` and `position` (samples of it that are used up) say where it stands. It serves as the `batch_sampler`
    of a torch `DataLoader`; workers that fetch ahead are then ahead of its state as well.
    """

    def __init__(self, samples: int, batch: int, seed: int, epoch: int = 0, position: int = 0) -> None:
        for name, value, least in (("samples", samples, 1), ("batch", batch, 1), ("epoch", epoch, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 <= position < samples:
            raise ValueError(f"position must be below {samples} samples and not negative, got {position}")
        self.samples, self.batch, self.seed = samples, batch, seed
        self._begin(epoch, position)

    def __iter__(self) -> Iterator[list[int]]:
        return self

    def __next__(self) -> list[int]:
        """The sample numbers of the next batch."""
        taken: list[int] = []
        while len(taken) < self.batch:
            numbers = self._shuffled[self.position : self.position + self.batch - len(taken)].tolist()
            taken += numbers
            self.position += len(numbers)
            if self.position == self.samples:
                self._begin(self.epoch + 1)
        return taken

    def state_dict(self) -> dict[str, int]:
        """Where it stands, and what it is an order of: the arguments of its constructor."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; raises `CheckpointInvalid` if it is the state of other samples, or of none at all."""
        if set(state) != set(_STATE) or not all(type(value) is int for value in state.values()):
            raise CheckpointInvalid("data", f"must be the whole numbers {', '.join(_STATE)}, got {dict(state)}")
        for name in ("samples", "batch", "seed"):
            if state[name] != getattr(self, name):
                raise CheckpointInvalid(f"data.{name}", f"is {state[name]}, here it is {getattr(self, name)}")
        if state["epoch"] < 0 or not 0 <= state["position"] < self.samples:
            raise CheckpointInvalid("data.position", f"cannot be {state['position']} of epoch {state['epoch']}")
        self._begin(state["epoch"], state["position"])

    def _begin(self, epoch: int, position: int = 0) -> None:
        self.epoch, self.position = epoch, position
        self._shuffled = shuffled(self.samples, self.seed, epoch)


_STATE = ("samples", "batch", "seed", "epoch", "position")


def shuffled(samples: int, seed: int, epoch: int) -> Tensor:
    """The numbers below `samples` in the order of an epoch (`samples`, int64); torch's own generator is not touched."""
    mixed = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(mixed[:8], "little", signed=True))
    return torch.randperm(samples, generator=generator)
