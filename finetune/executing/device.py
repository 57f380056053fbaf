# SPDX-License-Identifier: Apache-2.0
"""What differs between a step on the CPU and one on a CUDA device: random numbers, and when launched work is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

IN_FLIGHT = 8
"""Operations that a CUDA device may be behind the host; what a yield has to let end."""


class Device(Protocol):
    """Where a step computes."""

    kind: str

    def random_state(self) -> Sequence[Tensor]:
        """That of every generator that the step may draw from."""
        ...

    def set_random_state(self, states: Sequence[Tensor]) -> None:
        """Put such states back."""
        ...

    def launched(self) -> None:
        """An operation was launched: do not get too far ahead of it."""
        ...

    def settle(self) -> None:
        """Wait until all that was launched is done."""
        ...


class Cpu:
    """An operation is done when its call returns."""

    kind = "cpu"

    def random_state(self) -> Sequence[Tensor]:
        """One state."""
        return (torch.get_rng_state(),)

    def set_random_state(self, states: Sequence[Tensor]) -> None:
        """Put it back."""
        torch.set_rng_state(states[0])

    def launched(self) -> None:
        """Done already."""

    def settle(self) -> None:
        """Done already."""


class Cuda:
    """The current stream of a CUDA device, never more than `IN_FLIGHT` operations behind. Untested so far."""

    kind = "cuda"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: deque[torch.cuda.Event] = deque()

    def random_state(self) -> Sequence[Tensor]:
        """The host's and the device's."""
        return torch.get_rng_state(), torch.cuda.get_rng_state(self._device)

    def set_random_state(self, states: Sequence[Tensor]) -> None:
        """Put both back."""
        torch.set_rng_state(states[0])
        torch.cuda.set_rng_state(states[1], self._device)

    def launched(self) -> None:
        """Wait for the operation launched `IN_FLIGHT` operations ago."""
        self._events.append(torch.cuda.current_stream(self._device).record_event())
        if len(self._events) > IN_FLIGHT:
            self._events.popleft().synchronize()

    def settle(self) -> None:
        """Wait for the stream."""
        self._events.clear()
        torch.cuda.current_stream(self._device).synchronize()


def device_of(found: torch.device) -> Device:
    """What a step on that device needs; raises `ValueError` for other kinds."""
    match found.type:
        case "cpu":
            return Cpu()
        case "cuda":
            return Cuda(found)
    raise ValueError(f"a step on {found} cannot be run; known are cpu and cuda")
