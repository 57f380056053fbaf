# SPDX-License-Identifier: Apache-2.0
"""What the code of a planned step calls: transfers, gradients, random numbers, and the question whether to go on.

Rules of memory are those of `replay`: a written storage is free when its write has ended, and whoever lacks its RAM
waits for that; a storage that is read back takes its RAM when the transfer starts.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..capturing.storages import Geometry
from ..errors import LossNotFinite
from ..graph import Graph
from ..pacer import Pacer
from ..pages import Pages
from .device import device_of

LOOK_S = 0.001
"""How often a step that waits for a transfer asks whether inference wants the machine."""


@dataclass(slots=True)
class Tally:
    """What happened while steps ran; `longest_s`: the longest time without asking the pacer, at `longest_op`."""

    yields: int = 0
    waited_s: float = 0.0
    stalled_s: float = 0.0
    """Waiting for transfers."""
    longest_s: float = 0.0
    longest_op: str = ""
    written_bytes: int = 0
    read_bytes: int = 0


class Runtime:
    """One step's hands; `carried` gives the tensor behind a carried storage, None while there is none yet."""

    def __init__(
        self,
        graph: Graph,
        budget_bytes: int,
        carried: Callable[[int], Tensor | None],
        sink: Callable[[str, Tensor], None],
        assigned: Sequence[Tensor],
        pieces: Mapping[str, Callable[..., object]],
        pages: Pages,
        pacer: Pacer,
        device: torch.device,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._graph, self._budget_bytes = graph, budget_bytes
        self._geometries: dict[int, Geometry] = {}
        """How the first tensor of a written storage lay in it; a trace only guesses (batch norm of turned values)."""
        self._carried, self._sink, self._assigned, self._pieces = carried, sink, assigned, pieces
        self._pages, self._pacer, self._clear, self._clock_ns = pages, pacer, pacer.clear, clock_ns
        self.device = device_of(device)
        self._memory_of = device
        self.tally = Tally()
        self.updated = False
        """Whether this step has changed a weight, a gradient or a buffer."""
        self._landing: dict[int, torch.UntypedStorage] = {}
        self._under_way: dict[int, None] = {}
        """Storages whose last transfer nobody has waited for, oldest first."""
        self._leaving: deque[tuple[int, int]] = deque()
        self._op = 0
        self._asked_ns = self._busy_since_ns = 0

    def begin(self) -> None:
        """Before a step."""
        self.updated = False
        self._landing.clear()
        self._leaving.clear()
        self._busy_since_ns = self._asked_ns = self._clock_ns()
        if not self._clear():
            self._yield()

    def finish(self) -> None:
        """After a step: every transfer has ended, and what it met is raised."""
        while self._under_way:
            self.settle(next(iter(self._under_way)))
        self._leaving.clear()
        self._pacer.slice_done((self._clock_ns() - self._busy_since_ns) / 1e9)

    def abandon(self) -> None:
        """After a step that failed: let go of all that it held."""
        self._under_way.clear()
        self._landing.clear()
        self._leaving.clear()

    # Storages that the step makes

    def write(self, storage: int, tensor: Tensor) -> None:
        """Begin to write a storage."""
        self._geometries[storage] = Geometry.of(tensor)
        self._written(storage)
        self._pages.write(storage, tensor.untyped_storage())

    def read(self, storage: int) -> None:
        """Begin to read a storage back."""
        self._landing[storage] = landing = torch.empty(0, dtype=torch.uint8, device=self._memory_of).untyped_storage()
        self._bring(storage, landing)

    def arrive(self, storage: int) -> Tensor:
        """The first tensor of a storage that is being read, once it is there."""
        self.settle(storage)
        geometry = self._geometries[storage]
        found = torch.empty(0, dtype=geometry.dtype, device=self._memory_of)
        return found.set_(self._landing.pop(storage), geometry.offset, geometry.size, geometry.stride)

    # Storages that are there from step to step

    def save(self, storage: int) -> None:
        """Begin to write a weight or a state."""
        tensor = self._carried(storage)
        if tensor is not None:
            self._written(storage)
            self._pages.write(storage, tensor.untyped_storage())

    def fetch(self, storage: int) -> None:
        """Begin to read a weight or a state back into its place."""
        tensor = self._carried(storage)
        if tensor is not None:
            self._bring(storage, tensor.untyped_storage())

    def empty(self, storage: int) -> None:
        """Give back the memory of a weight or a state as soon as its transfers have ended."""
        tensor = self._carried(storage)
        if tensor is not None:
            self._pages.empty(storage, tensor.untyped_storage())

    # Memory

    def settle(self, storage: int) -> None:
        """Wait until the transfers of a storage have ended; raises what they met."""
        if storage not in self._under_way:
            return
        del self._under_way[storage]
        if not self._pages.done(storage):
            start_ns = self._clock_ns()
            waited_s = self.tally.waited_s
            while not self._pages.wait(storage, LOOK_S):
                self.pause(self._op)
            self.tally.stalled_s += (self._clock_ns() - start_ns) / 1e9 - (self.tally.waited_s - waited_s)
        self._pages.wait(storage)

    def left(self, storage: int) -> None:
        """A storage that was freed may still be leaving."""
        self._leaving.append((storage, self._graph.storages[storage].size_bytes))

    def room(self, wanted_bytes: int) -> None:
        """Wait for writes until the step's `wanted_bytes` and what is still leaving fit the budget."""
        leaving = self._leaving
        while leaving and wanted_bytes + sum(size for _, size in leaving) > self._budget_bytes:
            self.settle(leaving.popleft()[0])

    # Results

    def check(self, loss: Tensor) -> None:
        """Raises `LossNotFinite` before anything has changed."""
        value = loss.item()
        if not math.isfinite(value):
            raise LossNotFinite(value)

    def sink(self, parameter: str, gradient: Tensor) -> None:
        """A gradient is there."""
        self.updated = True
        self._sink(parameter, gradient)

    def assign(self, position: int, value: Tensor) -> None:
        """The new value of a buffer."""
        self.updated = True
        self._assigned[position].copy_(value)

    def in_pieces(self, name: str, *args: object, **kwargs: object) -> object:
        """Compute an op that takes long, asking between its pieces."""
        return self._pieces[name](self.between, *args, **kwargs)

    def random_state(self) -> Sequence[Tensor]:
        """That of the generators."""
        return self.device.random_state()

    def set_random_state(self, states: Sequence[Tensor]) -> None:
        """Put such states back."""
        self.device.set_random_state(states)

    # Getting out of the way

    def pause(self, op: int) -> None:
        """Asked after every op: note the time since the last question, and wait if somebody else should compute."""
        self.device.launched()
        now_ns = self._clock_ns()
        span_s = (now_ns - self._asked_ns) / 1e9
        tally = self.tally
        if span_s > tally.longest_s:
            tally.longest_s, tally.longest_op = span_s, self._graph.ops[op].name
        self._op, self._asked_ns = op, now_ns
        if not self._clear():
            self._yield()

    def between(self) -> None:
        """Between two pieces of the op after the last one that ended."""
        self.pause(min(self._op + 1, len(self._graph.ops) - 1))
        self._op -= 1

    def _yield(self) -> None:
        self.device.settle()
        now_ns = self._clock_ns()
        self._pages.hold()
        try:
            self._pacer.slice_done((now_ns - self._busy_since_ns) / 1e9)
            self.tally.waited_s += self._pacer.wait()
        finally:
            self._pages.go()
        self.tally.yields += 1
        self._asked_ns = self._busy_since_ns = self._clock_ns()

    def _written(self, storage: int) -> None:
        self._under_way.pop(storage, None)
        self._under_way[storage] = None
        self.tally.written_bytes += self._graph.storages[storage].size_bytes

    def _bring(self, storage: int, memory: torch.UntypedStorage) -> None:
        self._under_way.pop(storage, None)
        self._under_way[storage] = None
        self.tally.read_bytes += self._graph.storages[storage].size_bytes
        self._pages.read(storage, memory)
