# SPDX-License-Identifier: Apache-2.0
"""Which nodes of a traced step make memory and which only look at it, found by running it without values.

Every result is kept until the end: freed memory is reused, and storages would merge. Aliasing comes from what the
operations do, not from what their schemas say: some copy or alias depending on strides.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..errors import CaptureRefused
from .torch_private import faking, storage_key


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a tensor lies in its storage; strides and offset in elements."""

    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> Geometry:
        """That of a tensor."""
        return cls(tensor.dtype, tuple(tensor.size()), tuple(tensor.stride()), int(tensor.storage_offset()))


@dataclass(slots=True)
class Memory:
    """The storages of a traced step, numbered in the order of their appearance."""

    sizes_bytes: list[int] = field(default_factory=list)
    primaries: list[Node | None] = field(default_factory=list)
    """The first tensor in each storage; None for an element that nobody reads."""
    makes: dict[Node, tuple[int | None, ...]] = field(default_factory=dict)
    """A node that computes: the storage of each element of its result, None for an element that is None."""
    base: dict[Node, Node] = field(default_factory=dict)
    """A view: the input that it looks into. The first getitem of a computed element is a first tensor, no view."""
    storages: dict[Node, tuple[int, ...]] = field(default_factory=dict)
    """The storages that a reader of the node reads."""
    geometries: dict[Node, Geometry] = field(default_factory=dict)
    """Of every node that is one tensor."""
    _numbers: dict[int, int] = field(default_factory=dict)
    _alive: list[object] = field(default_factory=list)

    def new(self, tensor: Tensor, primary: Node | None) -> int:
        """Number the storage of a tensor that was not seen before."""
        self._numbers[storage_key(tensor)] = number = len(self.sizes_bytes)
        self.sizes_bytes.append(tensor.untyped_storage().nbytes())
        self.primaries.append(primary)
        return number

    def find(self, tensor: Tensor) -> int | None:
        """The number of a tensor's storage, None if it is new."""
        return self._numbers.get(storage_key(tensor))


def find_storages(graph_module: GraphModule, bound: Mapping[Node, Tensor]) -> Memory:
    """Run the step without values; `bound` holds the real tensor of every placeholder and constant.

    Raises `CaptureRefused` for results that are neither tensors nor tuples of them, and for tuples that mix new memory
    with views.
    """
    memory = Memory()
    values: dict[Node, Any] = {}
    with faking() as mode:
        for node in graph_module.graph.nodes:
            if node.op == "output":
                continue
            if node in bound:
                values[node] = fake = mode.from_tensor(bound[node])
                _carried(memory, node, fake)
                continue
            args = torch.fx.node.map_arg(node.args, values.__getitem__)
            kwargs = torch.fx.node.map_arg(node.kwargs, values.__getitem__)
            values[node] = result = node.target(*args, **kwargs)
            _classify(memory, node, result)
    return memory


def _carried(memory: Memory, node: Node, fake: Tensor) -> None:
    known = memory.find(fake)
    memory.storages[node] = (memory.new(fake, node) if known is None else known,)
    memory.geometries[node] = Geometry.of(fake)


def _classify(memory: Memory, node: Node, result: object) -> None:
    memory._alive.append(result)
    if node.target is operator.getitem:
        _element(memory, node, result)
    elif isinstance(result, Tensor):
        memory.geometries[node] = Geometry.of(result)
        known = memory.find(result)
        if known is None:
            number = memory.new(result, node)
            memory.makes[node] = memory.storages[node] = (number,)
        else:
            _view(memory, node, {known})
    elif isinstance(result, tuple | list) and all(element is None or isinstance(element, Tensor) for element in result):
        _tuple(memory, node, list(result))
    else:
        raise CaptureRefused(str(node.target), f"{node.name} gives a {type(result).__name__}, not tensors")


def _tuple(memory: Memory, node: Node, result: list[Tensor | None]) -> None:
    known = {memory.find(element) for element in result if element is not None}
    if None not in known:
        _view(memory, node, {number for number in known if number is not None})
    elif known == {None}:
        made = tuple(None if element is None else memory.new(element, None) for element in result)
        if len(set(made) - {None}) != len([number for number in made if number is not None]):
            raise CaptureRefused(str(node.target), f"two results of {node.name} share memory")
        memory.makes[node] = made
        memory.storages[node] = tuple(number for number in made if number is not None)
    else:
        raise CaptureRefused(str(node.target), f"{node.name} gives new memory and views at once")


def _element(memory: Memory, node: Node, result: object) -> None:
    if not isinstance(result, Tensor):
        raise CaptureRefused(str(node.target), f"{node.name} gives a {type(result).__name__}, not a tensor")
    source = node.args[0]
    number = memory.find(result)
    if number is None or not isinstance(source, Node):
        raise CaptureRefused(str(node.target), f"{node.name} takes an element of what no operation made")
    memory.geometries[node] = Geometry.of(result)
    memory.storages[node] = (number,)
    if source in memory.makes and memory.primaries[number] is None:
        memory.primaries[number] = node
    else:
        # A second look at the same element is a view of the first.
        memory.base[node] = memory.primaries[number] or source if source in memory.makes else source


def _view(memory: Memory, node: Node, storages: set[int]) -> None:
    if len(storages) != 1:
        raise CaptureRefused(str(node.target), f"{node.name} looks into {len(storages)} storages at once")
    (storage,) = storages
    for source in node.all_input_nodes:
        if memory.storages[source] == (storage,):
            memory.base[node], memory.storages[node] = source, (storage,)
            return
    raise CaptureRefused(str(node.target), f"{node.name} looks into memory that it was not given")
