# SPDX-License-Identifier: Apache-2.0
"""Where a gradient goes as soon as it is there: into `.grad`, or into its weight by the optimizer's own step.

The optimizer is the user's, and steps on one weight at a time: its own code with its own options and states, so that
schedulers, checkpoints and every last bit are those of plain torch. A large weight is updated in slices of flat memory,
which for rules that treat every element alone gives the same bits, with temporaries of a slice in place of a weight.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from ..capturing.optimizer import PIECE_BYTES, Rule
from ..capturing.torch_private import has_step_hooks
from ..errors import OptimizerRefused

STATE_KEYS = {"momentum": "momentum_buffer", "mean": "exp_avg", "square": "exp_avg_sq"}
"""What a planned storage `W.mean` is called in the optimizer's state."""


class Sink(Protocol):
    """Takes every gradient once a step, when its weight is no longer needed as it was."""

    rule: Rule | None
    """What to plan the updates with; None: gradients are added up and the user steps."""

    def check(self, parameters: Mapping[str, Parameter]) -> None:
        """Raises `OptimizerRefused` if there is one among these, whose gradients it will get, that it cannot take."""
        ...

    def take(self, name: str, parameter: Parameter, gradient: Tensor, pause: Callable[[], None]) -> None:
        """Use up a gradient, as large as its weight in any shape; `pause` is called between pieces."""
        ...

    def state(self, parameter: Parameter, name: str) -> Tensor | None:
        """The tensor behind a planned storage (`grad`, `momentum`, `mean`, `square`); None until there is one."""
        ...


class Accumulating:
    """Adds gradients up in `.grad`, as `backward` does; whoever called the step clips, steps and zeroes."""

    rule: Rule | None = None

    def check(self, parameters: Mapping[str, Parameter]) -> None:
        """Takes any."""

    def take(self, name: str, parameter: Parameter, gradient: Tensor, pause: Callable[[], None]) -> None:
        """Copy into a new `.grad` where there is none, else add to it."""
        with torch.no_grad():
            found = as_its_weight(parameter, gradient)
            first = parameter.grad is None
            held = torch.empty_like(parameter) if parameter.grad is None else parameter.grad
            for into, piece in pieces(held, found):
                if first:
                    into.copy_(piece)
                else:
                    into.add_(piece)
                pause()
            parameter.grad = held

    def state(self, parameter: Parameter, name: str) -> Tensor | None:
        """`.grad`."""
        return parameter.grad if name == "grad" else None


class Optimizing:
    """Updates each weight with the user's optimizer as soon as its gradient is there.

    Raises `OptimizerRefused` for an optimizer that is not exactly SGD, Adam or AdamW, for AMSGrad, and for one with
    step hooks, which would run once a weight. `clip_value`: what no element of a gradient exceeds, either way.
    """

    def __init__(self, optimizer: Optimizer, clip_value: float | None = None) -> None:
        if clip_value is not None and not 0 < clip_value < math.inf:
            raise ValueError(f"clip_value must be finite and above 0, got {clip_value}")
        self.optimizer, self.clip_value = optimizer, clip_value
        self.rule: Rule | None = rule_of(optimizer)
        # Without the wrappers for hooks and profilers, which cost more than the update of a small weight.
        self._bare_step: Callable[[Optimizer], object] = inspect.unwrap(type(optimizer).step)
        self._groups: dict[Parameter, int] = {}
        self._first: Parameter | None = None
        """Whose update is the one in each training step that others are shown."""

    def check(self, parameters: Mapping[str, Parameter]) -> None:
        """Raises `OptimizerRefused` for a weight that is in none of the optimizer's groups: nobody would update it."""
        for name, parameter in parameters.items():
            if self._group(parameter) is None:
                raise OptimizerRefused(
                    self.optimizer, f"has no group with {name}; add it, or freeze it with requires_grad_(False)"
                )

    def take(self, name: str, parameter: Parameter, gradient: Tensor, pause: Callable[[], None]) -> None:
        """Step on this weight alone, in pieces if it is large; neither `.grad` nor the groups are different after."""
        group = self._group(parameter)
        if group is None:
            raise OptimizerRefused(self.optimizer, f"has no group with {name}")
        with torch.no_grad():
            found = as_its_weight(parameter, gradient)
            self._first = parameter if self._first is None else self._first
            if parameter.nbytes <= PIECE_BYTES or not self._sliceable(parameter):
                self._step(group, parameter, found, seen=parameter is self._first)
                pause()
            else:
                self._step_in_pieces(group, parameter, found, pause)

    def state(self, parameter: Parameter, name: str) -> Tensor | None:
        """The optimizer's own tensor."""
        found = self.optimizer.state.get(parameter, {}).get(STATE_KEYS[name])
        return found if isinstance(found, Tensor) else None

    def _group(self, parameter: Parameter) -> int | None:
        """Which group a weight is in; loading a state replaces the groups, but not their order."""
        if parameter not in self._groups:
            groups = enumerate(self.optimizer.param_groups)
            self._groups = {member: number for number, group in groups for member in group["params"]}
        return self._groups.get(parameter)

    def _sliceable(self, parameter: Parameter) -> bool:
        # Where torch's threads share a tensor out, its loops may end in the middle of a vector, and of 16-bit types the
        # elements left over are rounded otherwise. Slices end at vectors.
        exact = parameter.dtype in {torch.float32, torch.float64} or torch.get_num_threads() == 1
        alike = all(lie_alike(parameter, value) for value in self._states(parameter).values())
        return exact and alike and is_dense(parameter)

    def _states(self, parameter: Parameter) -> dict[str, Tensor]:
        """The states that hold one value for each element of a weight."""
        state: dict[str, Any] = self.optimizer.state.get(parameter, {})
        return {key: value for key, value in state.items() if is_state_of(parameter, value)}

    def _step(self, group: int, parameter: Parameter, gradient: Tensor, seen: bool) -> None:
        """The optimizer's step with nothing but this weight in its groups; schedulers and profilers have `seen` it."""
        groups, before = self.optimizer.param_groups, parameter.grad
        limit = self.clip_value
        parameter.grad = gradient if limit is None else gradient.clamp(-limit, limit)
        self.optimizer.param_groups = [{**groups[group], "params": [parameter]}]
        try:
            if seen:
                self.optimizer.step()
            else:
                self._bare_step(self.optimizer)
        finally:
            self.optimizer.param_groups, parameter.grad = groups, before

    def _step_in_pieces(self, group: int, parameter: Parameter, gradient: Tensor, pause: Callable[[], None]) -> None:
        """The same with each slice as a weight of its own; what the first step makes is gathered in whole states."""
        known = self._states(parameter)
        whole = dict(known)
        state: dict[str, Any] = {**self.optimizer.state.get(parameter, {})}
        begin = 0
        for weight, piece in pieces(parameter, gradient):
            span = slice(begin, begin + weight.numel())
            member = Parameter(weight, requires_grad=False)
            given = {key: _copied(value) for key, value in state.items() if key not in known}
            given |= {key: flattened(parameter, value)[span] for key, value in known.items()}
            made = self._stepped(group, member, piece, given if state else {}, begin == 0 and parameter is self._first)
            for key, value in made.items():
                if key not in known and is_state_of(member, value):
                    if key not in whole:
                        whole[key] = torch.empty_like(parameter, dtype=value.dtype)
                    flattened(parameter, whole[key])[span].copy_(value)
            begin = span.stop
            pause()
        if made:
            self.optimizer.state[parameter] = made | whole

    def _stepped(
        self, group: int, member: Parameter, gradient: Tensor, given: dict[str, Any], seen: bool
    ) -> dict[str, Any]:
        """Step on a slice that has these states; its states after."""
        if given:
            self.optimizer.state[member] = given
        try:
            self._step(group, member, gradient, seen)
        finally:
            found: dict[str, Any] = self.optimizer.state.pop(member, {})
        return found


def rule_of(optimizer: Optimizer) -> Rule:
    """The rule that an optimizer follows; raises `OptimizerRefused`."""
    if type(optimizer) not in {SGD, Adam, AdamW}:
        raise OptimizerRefused(
            optimizer, "is not torch.optim's SGD, Adam or AdamW; compile without it and step it after each batch"
        )
    if has_step_hooks(optimizer):
        raise OptimizerRefused(optimizer, "has step hooks, which would run once for each weight")
    for group in optimizer.param_groups:
        if group["differentiable"]:
            raise OptimizerRefused(optimizer, "is differentiable, and no step of the plan is")
        if group.get("amsgrad"):
            raise OptimizerRefused(optimizer, "keeps a third state for AMSGrad, which no plan counts")
    if not isinstance(optimizer, SGD):
        return "adam"
    return "momentum" if any(group["momentum"] for group in optimizer.param_groups) else "sgd"


def is_state_of(weight: Tensor, value: object) -> bool:
    """Whether a state is one value for each element, and not a count of steps."""
    return isinstance(value, Tensor) and value.shape == weight.shape


def as_its_weight(parameter: Tensor, gradient: Tensor) -> Tensor:
    """A gradient in its weight's shape and order of elements, as `backward` leaves it; copied if it lies otherwise."""
    found = gradient.view_as(parameter) if gradient.shape != parameter.shape else gradient
    if lie_alike(parameter, found) or not is_dense(parameter):
        return found
    return torch.empty_like(parameter, dtype=found.dtype).copy_(found)


def is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill a stretch of memory in some order of the dimensions."""
    return tensor.permute(_order(tensor)).is_contiguous()


def lie_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of a shape have their elements at the same distances."""
    return all(
        size == 1 or here == there for size, here, there in zip(one.shape, one.stride(), other.stride(), strict=True)
    )


def flattened(like: Tensor, tensor: Tensor) -> Tensor:
    """A view of all elements in the order in which those of `like`, which is dense, lie in memory."""
    return tensor.permute(_order(like)).view(-1)


def pieces(tensor: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The two in slices of at most `PIECE_BYTES` of the first, as flat views; whole where they do not lie alike."""
    if tensor.nbytes <= PIECE_BYTES or not is_dense(tensor) or not lie_alike(tensor, other):
        yield tensor, other
        return
    length = PIECE_BYTES // tensor.element_size()
    yield from zip(
        torch.split(flattened(tensor, tensor), length), torch.split(flattened(tensor, other), length), strict=True
    )


def _order(tensor: Tensor) -> list[int]:
    return sorted(range(tensor.dim()), key=tensor.stride, reverse=True)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
