# SPDX-License-Identifier: Apache-2.0
"""The one file that touches torch's private parts: tracing a step, what its inputs and outputs are, storage identity.

What it relies on differs between minor versions of torch, so each function checks the version before it imports, and
`UnsupportedTorch` names those that are known to work.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ..errors import CaptureRefused, UnsupportedTorch

KNOWN = ("2.13",)
"""Minor versions of torch whose capture the tests have seen work."""

RoleKind = Literal["parameter", "buffer", "batch", "tangent", "output", "gradient", "mutation", "nothing"]


@dataclass(frozen=True, slots=True)
class Role:
    """What an input or output of the traced step is: of which `name` (parameter, buffer) or `index` (batch, output).

    A `gradient` is that of `of`, a `mutation` the new value of `of`.
    """

    kind: RoleKind
    name: str = ""
    index: int = 0
    of: Role | None = None


def check_torch(found: str = torch.__version__) -> None:
    """Raises `UnsupportedTorch` for a version that was never seen to work."""
    if not any(found.startswith(f"{known}.") for known in KNOWN):
        raise UnsupportedTorch(found, KNOWN)


def trace_step(step: nn.Module, batch: Sequence[Tensor]) -> GraphModule:
    """The joint forward and backward graph of `step(*batch)` in the native operations that eager torch calls.

    Neither the random state nor the buffers change. Raises `UnsupportedTorch`, and `CaptureRefused` for code that
    cannot be traced (branches on values, calls into other libraries).
    """
    check_torch()
    from torch._dynamo.exc import TorchDynamoException
    from torch._dynamo.functional_export import dynamo_graph_capture_for_export
    from torch._functorch.aot_autograd import aot_export_joint_with_descriptors

    try:
        with _kept(step), warnings.catch_warnings(), contextlib.ExitStack() as stack:
            # What a library notes down for itself while it runs does not belong to the step.
            warnings.filterwarnings("ignore", "While compiling, we found certain side effects", UserWarning)
            # The tracer itself makes an instance of a user's autograd function.
            warnings.filterwarnings("ignore", ".* should not be instantiated", DeprecationWarning)
            front = dynamo_graph_capture_for_export(step)(*batch)
            found = aot_export_joint_with_descriptors(stack, front, tuple(batch), {})
    except (TorchDynamoException, RuntimeError, TypeError, AssertionError) as error:
        # The last three report what the tracer has no rule for: an operation without a fake, a step without gradients.
        raise CaptureRefused(*_blame(error)) from error
    graph_module = found.graph_module
    if not isinstance(graph_module, GraphModule):
        raise CaptureRefused("the step", f"was traced to a {type(graph_module).__name__}")
    return graph_module


@contextlib.contextmanager
def _kept(step: nn.Module) -> Iterator[None]:
    """Put the very parameters and buffers back: the tracer forgets those of modules that have two names."""
    held = [(module, dict(module._parameters), dict(module._buffers)) for module in step.modules()]
    try:
        yield
    finally:
        for module, parameters, buffers in held:
            module._parameters.update(parameters)
            module._buffers.update(buffers)


def input_role(node: Node) -> Role:
    """What a placeholder stands for."""
    return _role(node.meta.get("desc"), node.name)


def output_roles(node: Node) -> list[Role]:
    """What the values returned by the graph are, in their order."""
    return [_role(described, node.name) for described in node.meta["desc"]]


def is_backward(node: Node, otherwise: bool) -> bool:
    """Whether a node belongs to the backward part; `otherwise` where the trace does not say (a user's own gradient)."""
    match node.meta.get("partitioner_tag"):
        case "is_forward":
            return False
        case "is_backward":
            return True
    return otherwise


@contextlib.contextmanager
def faking() -> Iterator[Any]:
    """A scope in which operations compute shapes, strides and aliasing but no values; `fake.from_tensor` enters it."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode() as mode, torch.no_grad():
        yield mode


def storage_key(tensor: Tensor) -> int:
    """Equal for tensors that share memory, as long as both live."""
    return int(tensor.untyped_storage()._cdata)


def has_gradient_hooks(parameter: nn.Parameter) -> bool:
    """Whether `backward` would call somebody with the gradient of a weight; tracing does not see it."""
    return any((parameter._backward_hooks, parameter._post_accumulate_grad_hooks))


def has_step_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step of the optimizer calls somebody else too, its own hooks or those of every optimizer."""
    check_torch()
    from torch.optim import optimizer as everyone

    own = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    return any((*own, everyone._global_optimizer_pre_hooks, everyone._global_optimizer_post_hooks))


@contextlib.contextmanager
def recording_memory() -> Iterator[list[tuple[str, int, int, int]]]:
    """A scope whose allocations by torch are in the list afterwards: name, start and end in ns, bytes.

    `[memory]` are allocations (bytes > 0) and releases; everything else is an operation or a `record_function`.
    """
    found: list[tuple[str, int, int, int]] = []
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it notes every start and stop on the error output
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as recorded:
        yield found
    results = getattr(recorded.profiler, "kineto_results", None)
    if results is None:
        raise UnsupportedTorch(torch.__version__, KNOWN)
    for event in results.events():
        start_ns = event.start_ns()
        found.append((event.name(), start_ns, start_ns + event.duration_ns(), event.nbytes()))


def _role(described: Any, where: str) -> Role:
    from torch._functorch._aot_autograd import descriptors as known

    match described:
        case None | known.DummyAOTOutput():
            return Role("nothing")
        case known.ParamAOTInput(target=target):
            return Role("parameter", name=target)
        case known.BufferAOTInput(target=target):
            return Role("buffer", name=target)
        case known.PlainAOTInput(idx=index):
            return Role("batch", index=index)
        case known.TangentAOTInput():
            return Role("tangent")
        case known.PlainAOTOutput(idx=index):
            return Role("output", index=index)
        case known.GradAOTOutput(grad_of=of):
            return Role("gradient", of=_role(of, where))
        case known.InputMutationAOTOutput(mutated_input=of):
            return Role("mutation", of=_role(of, where))
        case other:
            raise CaptureRefused(where, f"the step passes a {type(other).__name__}, which no plan handles")


def _blame(error: BaseException) -> tuple[str, str]:
    """Which operation the tracer stopped at, and why."""
    function = getattr(error, "func", None)
    if function is not None:
        return str(function), "its result depends on values, which are not known before the step runs"
    lines = [line.strip() for line in str(getattr(error, "msg", "") or error).splitlines() if line.strip()]
    found = re.search(r"call_function (\S+?)\(|Developer debug context: (.+)", "\n".join(lines))
    named = next(filter(None, found.groups()), "") if found else ""
    return named or "the step", ". ".join(lines[:2]).replace("Explanation: ", "") or type(error).__name__
