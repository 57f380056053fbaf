# SPDX-License-Identifier: Apache-2.0
"""The graph of a traced step: ops and storages in order, what is carried, and where gradients and buffers go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ..errors import CaptureRefused
from ..graph import Graph, Kind, Op, Phase, Storage
from .captured import Accumulate, Action, Assign, Call, Captured
from .storages import Memory
from .tidy import OURS
from .torch_private import Role, is_backward, output_roles, storage_key


class Assembly:
    """The graph while it grows."""

    def __init__(
        self,
        step: nn.Module,
        traced: GraphModule,
        memory: Memory,
        roles: dict[Node, Role],
        bound: dict[Node, Tensor],
    ) -> None:
        self.step, self.traced, self.memory, self.roles, self.bound = step, traced, memory, roles, bound
        self.ops: list[Op] = []
        self.storages: list[Storage] = []
        self.actions: dict[str, Action] = {}
        self.primaries: dict[str, Node] = {}
        self.outputs: list[Node] = []

    def captured(self, name: str) -> Captured:
        self._name_storages()
        gradients, mutations = self._read_outputs()
        forward = True
        for node in self.traced.graph.nodes:
            if node.op != "call_function":
                continue
            if is_backward(node, otherwise=not forward) == forward:
                if not forward:
                    raise CaptureRefused(str(node.target), f"{node.name} is a forward operation after a backward one")
                forward = False
                self._accumulate([found for found in gradients if self._known(found.node)])
            if node in self.memory.makes:
                self._compute(node, forward)
                if not forward:
                    self._accumulate([found for found in gradients if self._made_by(found.node, node)])
        if mutations:
            self._assign(mutations)
        self._count_unused()
        graph = Graph(name, tuple(self.ops), tuple(self.storages))
        primaries, outputs = self.primaries, tuple(self.outputs)
        return Captured(
            graph, self.step, self.traced, self.memory, self.actions, primaries, self.bound, self.roles, outputs
        )

    def _name_storages(self) -> None:
        """One `Storage` for each that was found, under the name of its first tensor."""
        makers = {number: node for node, made in self.memory.makes.items() for number in made if number is not None}
        kept = {self.memory.storages[node][0] for node, role in self._returned() if role.kind == "output"}
        for number, size_bytes in enumerate(self.memory.sizes_bytes):
            primary = self.memory.primaries[number]
            if number in makers:
                element = self.memory.makes[makers[number]].index(number)
                name = primary.name if primary else f"{makers[number].name}.{element}"
                kind: Kind = "output" if number in kept else "activation"
                found = Storage(name, size_bytes, kind, kept=number in kept, pageable=number not in kept)
            else:
                found = self._carried(primary, size_bytes, number)
            self.storages.append(found)
            if primary is not None:
                self.primaries[found.name] = primary

    def _carried(self, node: Node | None, size_bytes: int, number: int) -> Storage:
        if node is None:
            raise CaptureRefused(f"storage {number}", "has neither a maker nor an owner")
        role = self.roles[node]
        match role.kind:
            case "parameter":
                return Storage(_owned(role.name), size_bytes, "parameter")
            case "buffer":
                return Storage(_owned(role.name), size_bytes, "buffer")
            case "batch":
                return Storage(f"batch.{role.index}", size_bytes, "input", pageable=False)
            case _:
                return Storage(node.name, size_bytes, "input", pageable=False)

    def _returned(self) -> Iterator[tuple[Node, Role]]:
        """The returned values that mean something, and what."""
        end = next(iter(reversed(self.traced.graph.nodes)))
        for node, role in zip(end.args[0], output_roles(end), strict=True):
            if isinstance(node, Node) and role.kind != "nothing":
                yield node, role

    def _read_outputs(self) -> tuple[list[Accumulate], list[tuple[Role, Node]]]:
        gradients, mutations = [], []
        for node, role in self._returned():
            if role.kind == "output":
                self.outputs.append(node)
            elif role.kind == "gradient" and role.of is not None and role.of.kind == "parameter":
                gradients.append(Accumulate(role.of.name, node))
            elif role.kind == "mutation" and role.of is not None:
                mutations.append((role.of, node))
        if not gradients:
            raise CaptureRefused("the loss", "depends on no parameter that requires a gradient")
        if len(self.outputs) != 1 or self.memory.geometries[self.outputs[0]].size != ():
            raise CaptureRefused("the loss", "is not one scalar")
        return gradients, mutations

    def _known(self, node: Node) -> bool:
        """Whether a value exists when the backward part begins."""
        return all(
            self.memory.primaries[number] in self.bound or any(number in op.outputs for op in self.ops)
            for number in self.memory.storages[node]
        )

    def _made_by(self, node: Node, maker: Node) -> bool:
        return self.memory.storages[node][0] in self.memory.makes[maker]

    def _compute(self, node: Node, forward: bool) -> None:
        made = tuple(number for number in self.memory.makes[node] if number is not None)
        read = {number for source in node.all_input_nodes for number in self.memory.storages[source]}
        phase: Phase = "forward" if forward else "backward"
        op = Op(node.name, _target(node), tuple(sorted(read)), made, phase=phase, detail=self._detail(node))
        self._add(op, Call(node))

    def _accumulate(self, gradients: Sequence[Accumulate]) -> None:
        for found in gradients:
            parameter = self.step.get_parameter(found.parameter)
            holder = next(node for node, role in self.roles.items() if role == Role("parameter", found.parameter))
            name = self.storages[self.memory.storages[holder][0]].name  # of tied weights that of the first
            gradient = len(self.storages)
            self.storages.append(Storage(f"{name}.grad", parameter.numel() * parameter.element_size(), "gradient"))
            read = self.memory.storages[found.node]
            detail = str(self.memory.geometries[found.node])
            op = Op(
                f"accumulate {name}", "accumulate", read, (), (gradient,), again=False, phase="backward", detail=detail
            )
            self._add(op, found)

    def _assign(self, pairs: Sequence[tuple[Role, Node]]) -> None:
        """All at once, at the end: whatever is computed again before that reads the old values."""
        holders = {role: node for node, role in self.roles.items()}
        read = {self.memory.storages[node][0] for _, node in pairs}
        changed = {self.memory.storages[holders[role]][0] for role, _ in pairs}
        op = Op(
            "assign buffers", "assign", tuple(sorted(read)), (), tuple(sorted(changed)), again=False, phase="update"
        )
        self._add(op, Assign(tuple(pairs)))

    def _add(self, op: Op, action: Action) -> None:
        self.ops.append(op)
        self.actions[op.name] = action

    def _count_unused(self) -> None:
        """Parameters and buffers that the step never touches fill RAM as well."""
        seen = {storage_key(tensor) for tensor in self.bound.values()}
        for name, tensor in (*self.step.named_parameters(), *self.step.named_buffers()):
            if storage_key(tensor) not in seen:
                seen.add(storage_key(tensor))
                kind: Kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
                size_bytes = tensor.untyped_storage().nbytes()
                self.storages.append(Storage(_owned(name), size_bytes, kind, pageable=False))

    def _detail(self, node: Node) -> str:
        """Constants and the shapes of tensors, in the order of the arguments."""

        def say(value: Node) -> str:
            geometry = self.memory.geometries.get(value)
            return str(geometry) if geometry else str([self.memory.sizes_bytes[n] for n in self.memory.storages[value]])

        args = torch.fx.node.map_arg(node.args, say)
        kwargs = torch.fx.node.map_arg(node.kwargs, say)
        return f"{args}{kwargs or ''}"


def _target(node: Node) -> str:
    return str(getattr(node.target, "__name__", node.target)) if node.target in OURS else str(node.target)


def _owned(name: str) -> str:
    """A parameter's or buffer's name in the user's model."""
    return name.removeprefix("model.") if name.startswith("model.") else f"loss:{name.removeprefix('loss.')}"
