# SPDX-License-Identifier: Apache-2.0
"""Three small jobs of training in the least RAM that paging can do with, on a real page file that can be tampered with.

Each is trained a few steps and saved. From that checkpoint a case runs one step that is struck, loads the checkpoint
again, and must come to what the step comes to undisturbed: the same loss, weights, states and random state.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from finetune.capture import capture
from finetune.capturing.optimizer import with_optimizer
from finetune.checkpoint import TrainingState, load, save
from finetune.errors import FinetuneError
from finetune.execute import Execution
from finetune.executing.lower import lower
from finetune.executing.sinks import Optimizing, as_its_weight
from finetune.graph import Graph
from finetune.pacer import Free
from finetune.paging.channel import Channel
from finetune.paging.disk import Disk, open_disk
from finetune.paging.marks import Checksum
from finetune.paging.page_file import PIECE_BYTES, PageFile, layout
from finetune.plan import Plan, plan
from finetune.problem import Costs, Limits, Problem
from finetune.train import TrainStep

from .record import Tally, Unfit
from .trainer import cross_entropy, network, pictures

Batch = tuple[Tensor, Tensor]
State = dict[str, Tensor]
CHECKPOINT = "checkpoint.safetensors"
SAVED = 2
"""Steps before the checkpoint."""


class Tokens(nn.Module):
    """Attention over a few tokens, with the embedding for its head."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.project, self.norm = nn.Embedding(11, 16), nn.Linear(16, 48), nn.LayerNorm(16)
        self.out = nn.Linear(16, 11, bias=False)
        self.out.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.tokens(tokens)
        query, key, value = self.project(found).chunk(3, dim=-1)
        weights = nn.functional.dropout((query @ key.transpose(1, 2)).softmax(-1), 0.1)
        logits: Tensor = self.out(self.norm(found + weights @ value)).flatten(0, 1)
        return logits


def convolutions() -> tuple[nn.Module, list[Batch], Optimizer]:
    """Statistics and dropout under AdamW."""
    model, (images, labels) = network(), pictures()
    batches = [(images[first : first + 8], labels[first : first + 8]) for first in (0, 8, 16)]
    return model, batches, AdamW(model.parameters(), lr=0.01)


def attention() -> tuple[nn.Module, list[Batch], Optimizer]:
    """A tied weight under SGD with momentum."""
    torch.manual_seed(2)
    batches = [(tokens := torch.randint(0, 11, (3, 6)), tokens.flatten()) for _ in range(3)]
    model = Tokens()
    return model, batches, SGD(model.parameters(), lr=0.1, momentum=0.9)


def wide() -> tuple[nn.Module, list[Batch], Optimizer]:
    """A weight of two pieces, and no momentum."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(1100, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.Tanh(), nn.Linear(1000, 5))
    batches = [(torch.randn(4, 1100), torch.randint(0, 5, (4,))) for _ in range(3)]
    return model, batches, SGD(model.parameters(), lr=0.1)


JOBS: tuple[Callable[[], tuple[nn.Module, list[Batch], Optimizer]], ...] = (convolutions, attention, wide)


class Struck(Disk):
    """A disk of which one call is struck: `strike(piece, offset)` before a write, or after a read; it may raise."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.calls: list[tuple[str, int, int]] = []
        """Act, offset and bytes of every call."""
        self.act, self.countdown, self.lasting = "", 0, False
        self.strike: Callable[[memoryview, int], None] | None = None

    def arm(self, act: str, call: int, strike: Callable[[memoryview, int], None], *, lasting: bool = False) -> None:
        """Strike the `call`th write or read from now on (0: the next); `lasting`: and all after it."""
        self.act, self.countdown, self.strike, self.lasting = act, call, strike, lasting

    def heal(self) -> None:
        """As it was."""
        self.strike = None

    def write(self, piece: memoryview, offset: int) -> int:
        self.calls.append(("write", offset, len(piece)))
        self._strike("write", piece, offset)
        return self._disk.write(piece, offset)

    def read(self, piece: memoryview, offset: int) -> int:
        moved = self._disk.read(piece, offset)
        self.calls.append(("read", offset, moved))
        self._strike("read", piece, offset)
        return moved

    def close(self) -> None:
        self._disk.close()

    def _strike(self, act: str, piece: memoryview, offset: int) -> None:
        strike = self.strike
        if strike is None or act != self.act:
            return
        self.countdown -= 1
        if self.countdown == -1 or (self.countdown < 0 and self.lasting):
            strike(piece, offset)


class Noting(Optimizing):
    """Keeps a copy of every gradient that a weight is updated with, and the weight's name."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer)
        self.taken: list[tuple[str, Tensor]] = []

    def take(self, name: str, parameter: nn.Parameter, gradient: Tensor, pause: Callable[[], None]) -> None:
        self.taken.append((name, as_its_weight(parameter, gradient).clone()))
        super().take(name, parameter, gradient, pause)


@dataclass(frozen=True, slots=True)
class Page:
    """One piece of a storage, as one call of the disk moves it: `call` counts those of its kind in a step."""

    act: str
    call: int
    storage: int
    start: int
    """Its first byte in the storage."""
    size_bytes: int
    """Of the storage; whole blocks are moved."""


class Job:
    """A job at its checkpoint; `pages`: what one step from there moves.

    Undisturbed it comes to `loss` and `after`; `gradients` are those of that step and of one more.
    """

    def __init__(self, make: Callable[[], tuple[nn.Module, list[Batch], Optimizer]], folder: Path) -> None:
        self.name, self._path = make.__name__, folder / CHECKPOINT
        self.model, self.batches, self.optimizer = make()
        captured = capture(self.model, cross_entropy, self.batches[0])
        self.sink = sink = Noting(self.optimizer)
        if sink.rule is None:
            raise Unfit(f"{self.name} has no optimizer in its step")
        graph = with_optimizer(captured.graph, sink.rule)
        found = paging_plan(graph)
        lowered = lower(captured, graph, found)
        self.sizes = {number: graph.storages[number].size_bytes for number in lowered.paged}
        self.offsets, size_bytes = layout(self.sizes)
        self.parked = lowered.parked
        self.disk = Struck(open_disk(folder, size_bytes))
        pages = Channel(PageFile(self.disk, str(folder), self.sizes, Checksum()))
        self.execution = Execution(captured, graph, lowered, found.budget_bytes, sink, pages, Free(), {})
        self.step = TrainStep(self.model, found, self.execution, self.optimizer)
        torch.manual_seed(4)
        for batch in self.batches[:SAVED]:
            self.step(*batch)
        with self.step.resident():
            save(self._path, TrainingState.of(self.name, SAVED, self.model, self.optimizer))
        self.before = self.state()
        self.disk.calls.clear()
        sink.taken.clear()
        self.loss = self.go_on()
        self.pages = [*self._pages("write"), *self._pages("read")]
        self.after = self.state()
        self.go_on()
        self.gradients = [gradient for _, gradient in sink.taken]
        self.load()

    def go_on(self) -> Tensor:
        """The step after the checkpoint; its loss."""
        return self.step(*self.batches[SAVED])

    def error_of_step(self) -> FinetuneError | None:
        """What that step ends with, None if with a loss."""
        try:
            self.go_on()
        except FinetuneError as error:
            return error
        return None

    def load(self) -> None:
        """The checkpoint."""
        self.step.load_state_dict(load(self._path, self.name).trained())

    def state(self) -> State:
        """A copy of every weight, buffer, state and random state."""
        with self.step.resident():
            return self.in_ram()

    def in_ram(self) -> State:
        """The same of what is in RAM."""
        found = {name: value for name, value in self.model.state_dict().items() if value.untyped_storage().nbytes()}
        for name, parameter in self.model.named_parameters():
            states = self.optimizer.state.get(parameter, {}).items()
            found |= {f"{name}.{key}": value for key, value in states if isinstance(value, Tensor)}
        copies = {name: value.clone() for name, value in found.items() if value.untyped_storage().nbytes()}
        return copies | {"random": torch.get_rng_state()}

    def resumes(self, tally: Tally, what: str) -> None:
        """Expect that the checkpoint can be loaded and is what was saved, and that training goes on from it."""
        try:
            self.load()
            tally.same(different(self.state(), self.before), [], f"{what}: what the checkpoint brought back")
            tally.expect(torch.equal(self.go_on(), self.loss), f"{what}: another loss")
            tally.same(different(self.state(), self.after), [], f"{what}: what the step came to")
            self.load()
        except Exception as error:  # noqa: BLE001 - any error at all is what this looks for
            tally.expect(False, f"{what}: training cannot go on: {error!r}")

    def _pages(self, act: str) -> Iterator[Page]:
        storages = sorted(self.sizes, key=self.offsets.__getitem__)
        for call, (_, offset, _) in enumerate(made for made in self.disk.calls if made[0] == act):
            storage = next(number for number in reversed(storages) if self.offsets[number] <= offset)
            start = offset - self.offsets[storage]
            yield Page(act, call, storage, start, min(PIECE_BYTES, self.sizes[storage] - start))


@contextlib.contextmanager
def job(make: Callable[[], tuple[nn.Module, list[Batch], Optimizer]], folder: Path) -> Iterator[Job]:
    """A job in a folder, on one thread."""
    torch.set_num_threads(1)
    made = Job(make, folder)
    try:
        yield made
    finally:
        made.disk.heal()
        made.step.close()


def paging_plan(graph: Graph) -> Plan:
    """A plan of paging alone in the least RAM, for a made-up disk and processor."""
    ops, transfers = len(graph.ops), (0.1,) * len(graph.storages)
    costs = Costs((1.0,) * ops, (1.0,) * ops, (0,) * ops, transfers, transfers, transfers, transfers)
    problem = Problem(graph, costs, Limits(1))
    least = plan(problem, steps=100, effort=0, only="page").smallest_budget_bytes or 0
    return plan(replace(problem, limits=Limits(least)), steps=100, effort=0, only="page")


def different(found: State, expected: State) -> list[str]:
    """Names of what is not the same to the last bit."""
    names = found.keys() | expected.keys()
    return sorted(
        name
        for name in names
        if name not in found or name not in expected or not torch.equal(found[name], expected[name])
    )


def refusing(number: int) -> Callable[[memoryview, int], None]:
    """A strike that ends a call with an error of the system."""

    def strike(piece: memoryview, offset: int) -> None:
        raise OSError(number, os.strerror(number))

    return strike


def flipping(bits: Sequence[int]) -> Callable[[memoryview, int], None]:
    """A strike that turns bits of a piece over."""

    def strike(piece: memoryview, offset: int) -> None:
        for bit in bits:
            piece[bit // 8] ^= 1 << bit % 8

    return strike
