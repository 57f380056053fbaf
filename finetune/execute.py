# SPDX-License-Identifier: Apache-2.0
"""Runs a planned step: binds the batch, keeps what is carried where the plan wants it, cleans up after a failure."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .capture import Assign, Captured
from .capturing.torch_private import storage_key
from .errors import BatchMismatch, ModelChanged, PageCorrupted, PagesError, StepTorn
from .executing.carried import Carried
from .executing.lower import Lowered
from .executing.runtime import Runtime
from .executing.sinks import Sink
from .graph import Graph
from .pacer import Pacer
from .pages import Pages


class Execution:
    """A lowered plan, ready to run step after step.

    Between two steps the storages that the plan parks lie on storage; `resident` brings them into RAM. After a step
    that failed halfway through its updates nothing can be said of the weights: `torn`, until `restored` is called.
    """

    def __init__(
        self,
        captured: Captured,
        graph: Graph,
        lowered: Lowered,
        budget_bytes: int,
        sink: Sink,
        pages: Pages,
        pacer: Pacer,
        pieces: Mapping[str, Callable[..., object]],
    ) -> None:
        # Nothing here holds `captured`: with it the example batch would stay in RAM.
        self.graph, self._lowered, self._sink, self._pages = graph, lowered, sink, pages
        self._model = captured.step.get_submodule("model")
        self._training = self._model.training
        self._parameters = dict(captured.step.named_parameters(remove_duplicate=False))
        self._keys = [(name, storage_key(parameter)) for name, parameter in self._parameters.items()]
        roles = [captured.roles[node] for node in lowered.arguments]
        self._from_batch = [(position, role.index) for position, role in enumerate(roles) if role.kind == "batch"]
        self._arguments = [captured.bound[node] for node in lowered.arguments]
        inputs = [(role.index, node) for node, role in captured.roles.items() if role.kind == "batch"]
        self._shapes = {index: _Shape.of(captured.bound[node]) for index, node in inputs}
        for position, _ in self._from_batch:
            self._arguments[position] = torch.empty(0)
        self._carried = Carried(captured, graph, lowered, self._parameters, sink, pages)
        self.runtime = Runtime(
            graph,
            budget_bytes,
            self._carried,
            self._take,
            _assigned(captured),
            pieces,
            pages,
            pacer,
            _device(captured),
        )
        self.parked = lowered.parked
        self.torn = False
        self.steps, self.busy_s = 0, 0.0
        try:
            self._carried.park()
        except PagesError:
            pages.close()
            raise

    def step(self, batch: Sequence[Tensor]) -> Tensor:
        """One step; returns the loss, detached.

        Raises `BatchMismatch`, `ModelChanged`, `LossNotFinite` and, from storage, `PageStoreFull`, `PageCorrupted` or
        `PageFailed`. After these nothing has changed, random state included, unless `torn` says otherwise.
        """
        if self.torn:
            raise StepTorn
        self._check(batch)
        if self._carried.home:
            self._carried.park()
        arguments = list(self._arguments)
        for position, index in self._from_batch:
            arguments[position] = batch[index].detach()
        before, start_s = self.runtime.random_state(), time.perf_counter()
        waited_s = self.runtime.tally.waited_s
        try:
            # Casts are in the captured step already.
            with torch.no_grad(), torch.autocast(self.runtime.device.kind, enabled=False):
                self.runtime.begin()
                loss: Tensor = self._lowered.code.forward(self.runtime, *arguments)
                self.runtime.finish()
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold the activations
            self._recover(error, before)
            raise
        self.steps += 1
        self.busy_s += time.perf_counter() - start_s - (self.runtime.tally.waited_s - waited_s)
        return loss

    @contextlib.contextmanager
    def resident(self) -> Iterator[None]:
        """A scope in which every weight and state is in RAM, to be read or changed.

        Raises `PagesError` at its end if there is no room on storage; everything is in RAM then.
        """
        if self._carried.home and not self.torn:
            yield
            return
        if not self.torn:
            self._carried.bring_home()
        try:
            yield
        finally:
            if not self.torn:
                self._carried.park()

    @contextlib.contextmanager
    def borrowed(self, tensor: Tensor) -> Iterator[Tensor]:
        """One weight or state in RAM, to be read; raises `StepTorn`, `PagesError`."""
        if self.torn:
            raise StepTorn
        with self._carried.borrowed(tensor):
            yield tensor

    def restored(self) -> None:
        """All weights, states and gradients were put right (inside `resident`): the step may run again."""
        self.torn = False

    def close(self) -> None:
        """Leave the model as plain torch's; no step can run afterwards."""
        if not self.torn and not self._carried.home:
            self._carried.bring_home()
        self.torn = True
        self._pages.close()

    def _take(self, name: str, gradient: Tensor) -> None:
        self._sink.take(name, self._parameters[name], gradient, self.runtime.between)

    def _check(self, batch: Sequence[Tensor]) -> None:
        if len(batch) != len(self._shapes):
            raise BatchMismatch(f"{len(self._shapes)} tensors", f"{len(batch)}")
        for index, shape in self._shapes.items():
            found = _Shape.of(batch[index])
            if found != shape:
                raise BatchMismatch(f"batch[{index}] {shape}", str(found))
        if self._model.training != self._training:
            raise ModelChanged("the model", "is in another mode; call .train() or .eval() as at capture")
        for name, key in self._keys:
            if storage_key(self._parameters[name]) != key:
                raise ModelChanged(name, "has new memory (.to(), .data =); compile again")

    def _recover(self, error: BaseException, random_state: Sequence[Tensor]) -> None:
        """Nothing may be under way; what this step did not change is where it was."""
        self._pages.go()
        self.runtime.abandon()
        for storage in self._lowered.paged:
            with contextlib.suppress(PagesError):  # the error that counts is on its way already
                self._pages.wait(storage)
        self.torn = self.runtime.updated or isinstance(error, PageCorrupted)
        if not self.torn:
            self.runtime.set_random_state(random_state)
            try:
                self._carried.put_back()
            except PagesError:
                self.torn = True
        if self.torn:
            self._carried.give_memory()


def _device(captured: Captured) -> torch.device:
    found: torch.device = captured.outputs[0].meta["val"].device
    return found


def _assigned(captured: Captured) -> list[Tensor]:
    """What the step gives new values at its end, in order."""
    holders = {role: node for node, role in captured.roles.items()}
    pairs = [role for action in captured.actions.values() if isinstance(action, Assign) for role, _ in action.pairs]
    return [captured.bound[holders[role]] for role in pairs]


class _Shape(NamedTuple):
    """What a tensor of the batch must agree in: kernels differ in their last bits between layouts."""

    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    device: str

    @classmethod
    def of(cls, tensor: Tensor) -> _Shape:
        return cls(tensor.dtype, tuple(tensor.size()), tuple(tensor.stride()), str(tensor.device))

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.size)} of strides {list(self.stride)} on {self.device}"
