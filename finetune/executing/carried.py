# SPDX-License-Identifier: Apache-2.0
"""Weights, gradients and optimizer states: where they are between two steps, in RAM or on storage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

from ..capture import Captured
from ..capturing.torch_private import storage_key
from ..errors import PagesError
from ..graph import Graph
from ..pages import Pages
from .lower import Lowered
from .sinks import Sink


class Carried:
    """The tensor behind each storage that is there from step to step; called with one, None while there is none yet.

    `home`: whether all of them are in RAM. Otherwise those that the plan parks lie on storage, their memory empty.
    """

    def __init__(
        self,
        captured: Captured,
        graph: Graph,
        lowered: Lowered,
        parameters: Mapping[str, nn.Parameter],
        sink: Sink,
        pages: Pages,
    ) -> None:
        self._graph, self._sink, self._pages = graph, sink, pages
        self._parked = lowered.parked
        self._paged = [storage for storage in lowered.paged if graph.producers[storage] is None]
        self.home = True
        self._fixed: dict[int, Tensor] = {}
        self._states: dict[int, tuple[nn.Parameter, str]] = {}
        numbers = {storage.name: number for number, storage in enumerate(graph.storages)}
        owners: dict[str, nn.Parameter] = {}
        for node, tensor in captured.bound.items():
            name, role = captured.graph.storages[captured.memory.storages[node][0]].name, captured.roles[node]
            if role.kind == "parameter":
                owners.setdefault(name, parameters[role.name])
            if role.kind != "batch":
                self._fixed[numbers[name]] = tensor
        for number, storage in enumerate(graph.storages):
            if storage.kind in {"gradient", "optimizer"}:
                owner, _, state = storage.name.rpartition(".")
                self._states[number] = owners[owner], state

    def __call__(self, storage: int) -> Tensor | None:
        found = self._fixed.get(storage)
        return self._sink.state(*self._states[storage]) if found is None else found

    def park(self) -> None:
        """Put on storage what the plan wants there between steps; if that fails, all is in RAM again when it raises."""
        try:
            for storage, tensor in self._there(self._parked):
                if tensor.untyped_storage().nbytes():  # none after an interrupt in the midst of this
                    self._pages.write(storage, tensor.untyped_storage())
                    self._pages.wait(storage)
                    self._pages.empty(storage, tensor.untyped_storage())
        except PagesError:
            self.bring_home()
            raise
        self.home = False

    def bring_home(self) -> None:
        """Bring everything into RAM; raises `PagesError`."""
        self.home = True
        self._fill(self._there(self._parked))

    @contextlib.contextmanager
    def borrowed(self, tensor: Tensor) -> Iterator[Tensor]:
        """A weight or state in RAM while the block lasts, wherever it lies; only to be read. Raises `PagesError`."""
        key = storage_key(tensor)
        number = next((storage for storage, found in self._there(self._parked) if storage_key(found) == key), None)
        if self.home or number is None:
            yield tensor
            return
        memory = tensor.untyped_storage()
        try:
            self._pages.read(number, memory)
            self._pages.wait(number)
            yield tensor
        finally:
            self._pages.empty(number, memory)

    def put_back(self) -> None:
        """After a step that changed nothing and was given up: all lies where it did before; raises `PagesError`."""
        parked = set(self._parked)
        for storage, tensor in self._there(self._parked):
            self._pages.empty(storage, tensor.untyped_storage())
        self._fill(self._there(storage for storage in self._paged if storage not in parked))

    def give_memory(self) -> None:
        """After a step that was torn: everything has memory again, to be filled from a checkpoint."""
        self.home = True
        for storage, tensor in self._there(self._paged):
            tensor.untyped_storage().resize_(self._graph.storages[storage].size_bytes)

    def _fill(self, found: Iterable[tuple[int, Tensor]]) -> None:
        """Read those whose memory is empty."""
        for storage, tensor in found:
            if not tensor.untyped_storage().nbytes():
                self._pages.read(storage, tensor.untyped_storage())
                self._pages.wait(storage)

    def _there(self, storages: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
        """Those of the storages that have a tensor by now."""
        for storage in storages:
            tensor = self(storage)
            if tensor is not None:
                yield storage, tensor
