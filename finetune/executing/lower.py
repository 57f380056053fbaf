# SPDX-License-Identifier: Apache-2.0
"""A schedule as straight-line code over the captured step; FX prints it, one line per call.

Every value is assigned once: a storage that is computed again or read back is a new value, and FX drops each one after
its last use, at the latest where the schedule frees it. What is more than computing is a call of the first argument,
`run` (`runtime.Runtime`). A view is made once for each time that its storage is in RAM.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Graph as Code
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from ..capture import Accumulate, Assign, Call, Captured
from ..capturing.tidy import draws_random
from ..errors import PlanMismatch
from ..graph import Graph, Op
from ..plan import Plan
from ..problem import Costs, Limits, Problem
from ..replay import Replayed, replay
from ..schedule import begins_on_storage


@dataclass(frozen=True, slots=True)
class Lowered:
    """`code(run, *tensors of arguments)` is one step and returns the loss.

    `arguments`: the traced step's inputs and constants that it reads. `paged`: storages that are ever on storage;
    `parked`: those of them that lie there between two steps.
    """

    code: GraphModule
    arguments: tuple[Node, ...]
    paged: tuple[int, ...]
    parked: tuple[int, ...]


def lower(captured: Captured, graph: Graph, plan: Plan, in_pieces: Collection[str] = ()) -> Lowered:
    """The code of a plan for a captured step; `graph` is the captured one, with or without an optimizer in it.

    Nodes of `in_pieces` are called as `run.in_pieces(name, ...)`. Raises `PlanMismatch` for a plan of another graph and
    `ScheduleInvalid` for one that breaks a rule or its budget.
    """
    if plan.graph_digest != graph.digest:
        raise PlanMismatch(plan.graph_digest, graph.digest)
    return _Lowering(captured, graph, plan, frozenset(in_pieces)).lowered()


def judged(graph: Graph, plan: Plan) -> Replayed:
    """A plan's schedule walked once more, by bytes alone; raises `ScheduleInvalid`."""
    nothing = (0.0,) * len(graph.storages)
    workspace = plan.workspace_bytes or (0,) * len(graph.ops)
    none = (0.0,) * len(graph.ops)
    costs = Costs(none, none, workspace, nothing, nothing, nothing, nothing)
    return replay(Problem(graph, costs, Limits(plan.budget_bytes), "real"), plan.schedule)


class _Lowering:
    """The code while it grows, and which values are in RAM at its end."""

    def __init__(self, captured: Captured, graph: Graph, plan: Plan, in_pieces: Collection[str]) -> None:
        self.captured, self.graph, self.plan, self.in_pieces = captured, graph, plan, in_pieces
        self.memory = captured.memory
        numbers = {storage.name: number for number, storage in enumerate(graph.storages)}
        self.number = [numbers.get(storage.name, -1) for storage in captured.graph.storages]
        """The storage in `graph` for one of the captured graph; -1 for a gradient that an optimizer takes at once."""
        self.again = self._computed_again()
        self.code = Code()
        self.run = self.code.placeholder("run")
        self.inputs = {node: self.code.placeholder(node.name) for node in captured.bound}
        self.values: dict[int, dict[Node, Node]] = {}
        """Of each storage in RAM, the values that look into it, by the node of the traced step."""
        self.arriving: set[int] = set()
        self.written: set[int] = set()
        self.leaving_bytes = 0
        self.random: dict[int, Node] = {}
        self.computed: set[int] = set()
        self.loss = self.number[self.memory.storages[captured.outputs[0]][0]]

    def lowered(self) -> Lowered:
        graph, schedule = self.graph, self.plan.schedule
        planned = judged(graph, self.plan).planned_bytes
        parked = begins_on_storage(graph, schedule)
        before = sum(graph.storages[number].size_bytes for number in graph.carried if number not in parked)
        for position, (act, number) in enumerate(schedule):
            match act:
                case "C":
                    self._compute(number, before)
                case "F":
                    self._free(number)
                case "O":
                    self._write(number)
                case "I":
                    self._read(number)
            before = planned[position]
        (loss,) = self.captured.outputs
        self.code.output(self._value(loss))
        used = [node for node, value in self.inputs.items() if value.users]
        for value in self.inputs.values():
            if not value.users:
                self.code.erase_node(value)
        paged = sorted({number for act, number in schedule if act in "OI"})
        code = GraphModule(nn.Module(), self.code, "PlannedStep")
        return Lowered(code, tuple(used), tuple(paged), tuple(sorted(parked)))

    def _computed_again(self) -> set[int]:
        once: set[int] = set()
        again: set[int] = set()
        for act, number in self.plan.schedule:
            if act == "C":
                (again if number in once else once).add(number)
        return again

    def _call(self, method: str, *args: Any) -> Node:
        """A call of the runtime."""
        return self.code.call_method(method, (self.run, *args))

    def _function(self, node: Node, args: Any, kwargs: Any) -> Node:
        """A call of what a node of the traced step calls, under its name."""
        return self.code.create_node("call_function", node.target, args, kwargs, node.name)

    def _compute(self, number: int, before_bytes: int) -> None:
        op = self.graph.ops[number]
        wanted = before_bytes + sum(self.graph.storages[storage].size_bytes for storage in op.outputs)
        wanted += self.plan.workspace_bytes[number] if self.plan.workspace_bytes else 0
        if self.leaving_bytes and wanted + self.leaving_bytes > self.plan.budget_bytes:
            self._call("room", wanted)
        for storage in (*op.inputs, *op.updates):
            self._arrive(storage)
        for storage in op.updates:
            if storage in self.written:
                self.written.remove(storage)
                self._call("settle", storage)
        self._act(number, op)
        if self.loss in op.outputs and number not in self.computed:
            self._call("check", self._value(self.captured.outputs[0]))
        self.computed.add(number)
        self._call("pause", number)

    def _act(self, number: int, op: Op) -> None:
        action = self.captured.actions.get(op.name)
        if action is None:  # an update stands where the captured graph has the sum of gradients
            action = self.captured.actions[f"accumulate {op.name.removeprefix('update ')}"]
        match action:
            case Call(node=node):
                self._keep(node, op, self._result(number, node))
            case Accumulate(parameter=name, node=node):
                self._call("sink", name, self._value(node))
            case Assign(pairs=pairs):
                for position, (_, node) in enumerate(pairs):
                    self._call("assign", position, self._value(node))

    def _result(self, number: int, node: Node) -> Node:
        """What computing a node gives, with the random numbers that it drew the first time."""
        args, kwargs = self._arguments(node)
        if not (number in self.again and draws_random(node)):
            return self._run_node(node, args, kwargs)
        if number not in self.computed:
            self.random[number] = self._call("random_state")
            return self._run_node(node, args, kwargs)
        now = self._call("random_state")
        self._call("set_random_state", self.random[number])
        result = self._run_node(node, args, kwargs)
        self._call("set_random_state", now)
        return result

    def _run_node(self, node: Node, args: Any, kwargs: Any) -> Node:
        if node.name in self.in_pieces:
            return self.code.create_node("call_method", "in_pieces", (self.run, node.name, *args), kwargs, node.name)
        return self._function(node, args, kwargs)

    def _keep(self, node: Node, op: Op, result: Node) -> None:
        """Hold those elements of a result that somebody reads and that are not in RAM."""
        made = self.memory.makes[node]
        if node in self.memory.geometries:  # one tensor
            self.values.setdefault(self.number[_only(made)], {node: result})
            return
        for user in node.users:
            if user.target is operator.getitem and user not in self.memory.base:
                storage = self.number[_only(self.memory.storages[user])]
                if storage not in self.values:
                    self.values[storage] = {user: self._function(user, (result, user.args[1]), {})}

    def _value(self, node: Node) -> Node:
        """The value of a node whose storage is in RAM; a view is made if there is none yet."""
        if node in self.inputs:
            return self.inputs[node]
        storage = self.number[self.memory.storages[node][0]]
        known = self.values.setdefault(storage, {}) if self._carried(storage) else self.values[storage]
        if node not in known:
            args, kwargs = self._arguments(node)
            known[node] = self._function(node, args, kwargs)
        return known[node]

    def _arguments(self, node: Node) -> tuple[Any, Any]:
        return map_arg(node.args, self._value), map_arg(node.kwargs, self._value)

    def _carried(self, storage: int) -> bool:
        return self.graph.producers[storage] is None

    def _primary(self, storage: int) -> Node:
        return self.captured.primaries[self.graph.storages[storage].name]

    def _free(self, storage: int) -> None:
        if storage in self.arriving:
            self._arrive(storage)
        if self._carried(storage):
            self._call("empty", storage)
        else:
            self.values.pop(storage, None)
        if storage in self.written:
            self._call("left", storage)
            self.leaving_bytes += self.graph.storages[storage].size_bytes

    def _write(self, storage: int) -> None:
        self._arrive(storage)
        self.written.add(storage)
        if self._carried(storage):
            self._call("save", storage)
        else:
            self._call("write", storage, self._value(self._primary(storage)))

    def _read(self, storage: int) -> None:
        self.written.discard(storage)
        self.arriving.add(storage)
        self._call("fetch" if self._carried(storage) else "read", storage)

    def _arrive(self, storage: int) -> None:
        """Wait for a storage that is being read."""
        if storage not in self.arriving:
            return
        self.arriving.remove(storage)
        if self._carried(storage):
            self._call("settle", storage)
        else:
            self.values[storage] = {self._primary(storage): self._call("arrive", storage)}


def _only(storages: tuple[int | None, ...]) -> int:
    (storage,) = storages
    if storage is None:
        raise ValueError("a tensor without a storage")
    return storage
