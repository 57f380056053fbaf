# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from finetune.capturing.optimizer import PIECE_BYTES, STATES, Rule
from finetune.capturing.torch_private import recording_memory
from finetune.capturing.updates import OPTIMIZERS, measure_updates
from finetune.errors import OptimizerRefused
from finetune.executing.sinks import STATE_KEYS, Accumulating, Optimizing, as_its_weight

SHAPES = {"matrix": (1000, 301), "bias": (33,), "filters": (160, 64, 6, 6), "odd": (3, 100_003)}
"""Three are larger than a piece; filters lie channels last; the matrix gets a transposed gradient."""

OPTIONS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda groups: SGD(groups, lr=0.1),
    "sgd fused": lambda groups: SGD(groups, lr=0.1, fused=True),
    "momentum, dampened": lambda groups: SGD(groups, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    "nesterov, maximized": lambda groups: SGD(groups, lr=0.1, momentum=0.9, nesterov=True, maximize=True),
    "momentum fused": lambda groups: SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01, fused=True),
    "adam": lambda groups: Adam(groups, lr=0.1, weight_decay=0.01, maximize=True),
    "adam foreach": lambda groups: Adam(groups, lr=0.1, foreach=True),
    "adamw": lambda groups: AdamW(groups, lr=torch.tensor(0.1), betas=(0.8, 0.99)),
    "adamw fused": lambda groups: AdamW(groups, lr=0.1, fused=True),
}


def nothing() -> None:
    """Does not wait."""


def weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Parameter]:
    torch.manual_seed(seed)
    made = {name: torch.randn(shape, dtype=dtype) for name, shape in SHAPES.items()}
    made["filters"] = made["filters"].to(memory_format=torch.channels_last)
    return {name: Parameter(tensor) for name, tensor in made.items()}


def gradients(found: dict[str, Parameter]) -> Iterator[tuple[str, Parameter, Tensor]]:
    for name, parameter in found.items():
        gradient = torch.randn(parameter.shape, dtype=parameter.dtype)
        if name == "matrix":
            gradient = torch.randn(parameter.t().shape, dtype=parameter.dtype).t()
        yield name, parameter, gradient


def groups(found: dict[str, Parameter]) -> list[dict[str, object]]:
    """Two, with a rate of its own for the second."""
    return [
        {"params": [found["matrix"], found["odd"]]},
        {"params": [found["bias"], found["filters"]], "lr": 0.01, "weight_decay": 0.3},
    ]


def train(optimizer: Optimizer, found: dict[str, Parameter], steps: int, seed: int) -> None:
    """Plain torch: `backward` leaves gradients as their weights lie, then one step for all."""
    torch.manual_seed(seed)
    for _ in range(steps):
        for _, parameter, gradient in gradients(found):
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        optimizer.step()


def sink_all(sink: Optimizing, found: dict[str, Parameter], steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    for _ in range(steps):
        for name, parameter, gradient in gradients(found):
            sink.take(name, parameter, gradient, nothing)


def same(one: Optimizer, other: Optimizer) -> bool:
    """Bitwise the same weights, states and options, in the same order."""
    left, right = one.state_dict(), other.state_dict()
    if str(left["param_groups"]) != str(right["param_groups"]) or left["state"].keys() != right["state"].keys():
        return False
    for group, twin in zip(one.param_groups, other.param_groups, strict=True):
        for weight, other_weight in zip(group["params"], twin["params"], strict=True):
            if not torch.equal(weight, other_weight) or weight.stride() != other_weight.stride():
                return False
    return all(
        list(state) == list(right["state"][number])
        and all(torch.equal(value, right["state"][number][key]) for key, value in state.items())
        and all(value.stride() == right["state"][number][key].stride() for key, value in state.items())
        for number, state in left["state"].items()
    )


@pytest.mark.parametrize("options", sorted(OPTIONS))
def test_weight_by_weight_in_slices_is_torchs_step_bit_for_bit(options: str) -> None:
    """After three steps, the first without states, weights and states are those that plain torch leaves."""
    plain, ours = weights(), weights()
    expected, optimizer = OPTIONS[options](groups(plain)), OPTIONS[options](groups(ours))
    train(expected, plain, 3, seed=1)
    sink_all(Optimizing(optimizer), ours, 3, seed=1)
    assert same(expected, optimizer)
    assert all(parameter.grad is None for parameter in ours.values())


def test_with_several_threads_it_is_too() -> None:
    """Slices are the same where torch's threads share a weight out, in single and in half precision."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for dtype in (torch.float32, torch.bfloat16):
            for options in ("momentum, dampened", "adam", "adamw fused"):
                plain, ours = weights(2, dtype), weights(2, dtype)
                expected, optimizer = OPTIONS[options](groups(plain)), OPTIONS[options](groups(ours))
                train(expected, plain, 2, seed=3)
                sink_all(Optimizing(optimizer), ours, 2, seed=3)
                assert same(expected, optimizer), (dtype, options)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("options", ["nesterov, maximized", "adamw"])
def test_elements_are_clipped_as_torch_clips_them(options: str) -> None:
    """Clipping by value treats every element alone, so it is exact in slices; gradients stay as they were."""
    plain, ours = weights(), weights()
    expected, optimizer = OPTIONS[options](groups(plain)), OPTIONS[options](groups(ours))
    sink = Optimizing(optimizer, clip_value=0.7)
    for step in range(2):
        torch.manual_seed(step)
        for (_, parameter, gradient), (name, ours_parameter, _) in zip(gradients(plain), gradients(ours), strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
            before = gradient.clone()
            sink.take(name, ours_parameter, gradient, nothing)
            assert torch.equal(gradient, before)
        torch.nn.utils.clip_grad_value_(plain.values(), 0.7)
        expected.step()
    assert same(expected, optimizer)
    for limit in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="clip_value"):
            Optimizing(optimizer, limit)


def test_a_scheduler_works_on_the_groups_themselves() -> None:
    """Rates and momenta that a schedule changes between steps count, and it sees the optimizer step."""
    plain, ours = weights(), weights()
    optimizers = [SGD(groups(found), lr=0.1, momentum=0.9) for found in (plain, ours)]
    expected, optimizer = optimizers
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(each, max_lr=[0.5, 0.1], total_steps=5, base_momentum=0.7)
        for each in optimizers
    ]
    sink = Optimizing(optimizer)
    for step in range(3):
        train(expected, plain, 1, seed=step)
        sink_all(sink, ours, 1, seed=step)
        for schedule in schedules:  # warns, and fails the test, if it has seen no step
            schedule.step()
    assert same(expected, optimizer)


def test_training_goes_on_from_a_state_of_plain_torch_and_back() -> None:
    """States that were loaded are used, though loading replaces the groups; and plain torch takes up ours."""
    plain, ours = weights(), weights()
    expected, optimizer = AdamW(groups(plain), lr=0.1), AdamW(groups(ours), lr=0.7)
    sink = Optimizing(optimizer)
    sink_all(sink, ours, 1, seed=9)
    train(expected, plain, 2, seed=1)
    optimizer.load_state_dict(copy.deepcopy(expected.state_dict()))
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(plain[name])
    train(expected, plain, 1, seed=2)
    sink_all(sink, ours, 1, seed=2)
    assert same(expected, optimizer)
    train(expected, plain, 1, seed=3)
    train(optimizer, ours, 1, seed=3)
    assert same(expected, optimizer)


@pytest.mark.parametrize("rule", sorted(OPTIMIZERS))
def test_a_large_weight_is_interrupted_and_needs_a_slice_of_workspace(rule: Rule) -> None:
    """Between pieces there is a pause, and what is held beyond weight, gradient and states is what is planned."""
    weight, gradient = Parameter(torch.ones(8 * PIECE_BYTES // 4)), torch.ones(8 * PIECE_BYTES // 4)
    sink = Optimizing(OPTIMIZERS[rule]([weight]), clip_value=0.5)
    pauses: list[int] = []
    sink.take("weight", weight, gradient, lambda: pauses.append(int((weight != 1).sum())))
    assert pauses == [number * PIECE_BYTES // 4 for number in range(1, 9)]
    with recording_memory() as events:
        sink.take("weight", weight, gradient, nothing)
    live = worst = 0
    for _, _, _, size_bytes in sorted((event for event in events if event[0] == "[memory]"), key=lambda each: each[1]):
        live += size_bytes
        worst = max(worst, live)
    planned_bytes = measure_updates(1)[rule].workspace_bytes(weight.nbytes)
    assert PIECE_BYTES / 2 < worst <= planned_bytes + 1024 < 5 * PIECE_BYTES


def test_states_are_found_by_their_planned_names() -> None:
    """Until the first update there is none; then it is the optimizer's own tensor."""
    for make, rule in ((lambda w: SGD(w, momentum=0.9), "momentum"), (AdamW, "adam")):
        for size in (5, PIECE_BYTES):
            weight = Parameter(torch.ones(size))
            optimizer = make([weight])
            sink = Optimizing(optimizer)
            assert sink.rule == rule
            assert all(sink.state(weight, name) is None for name in STATES[rule])
            sink.take("weight", weight, torch.ones(size), nothing)
            for name in STATES[rule]:
                found = sink.state(weight, name)
                assert found is optimizer.state[weight][STATE_KEYS[name]]
                assert found is not None
                assert found.shape == weight.shape


def test_gradients_add_up_as_backward_adds_them() -> None:
    """The first is copied, signs of zero included, the next are added, in the weight's order of elements."""
    found = weights()
    kept: dict[str, Tensor] = {}
    sink = Accumulating()
    for step in range(3):
        torch.manual_seed(step)
        for name, parameter, gradient in gradients(found):
            gradient[:1] = -0.0
            before = gradient.clone()
            sink.take(name, parameter, gradient, nothing)
            assert torch.equal(gradient, before)
            kept[name] = gradient.clone() if step == 0 else kept[name] + gradient
    for name, parameter in found.items():
        assert parameter.grad is sink.state(parameter, "grad")
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()
        assert torch.equal(parameter.grad, kept[name])
        assert torch.equal(torch.signbit(parameter.grad), torch.signbit(kept[name]))


def test_a_gradient_of_another_shape_is_its_weights() -> None:
    """A gradient that is a view with other dimensions goes to the same elements."""
    weight = Parameter(torch.zeros(4, 6))
    gradient = torch.arange(24.0)
    assert torch.equal(as_its_weight(weight, gradient), gradient.view(4, 6))
    Optimizing(SGD([weight], lr=1.0)).take("weight", weight, gradient, nothing)
    assert torch.equal(weight, -gradient.view(4, 6))


class Scaled(SGD):
    """A user's own."""


def hooked() -> Optimizer:
    optimizer = SGD([Parameter(torch.ones(1))])
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


@pytest.mark.parametrize(
    ("optimizer", "why"),
    [
        (torch.optim.LBFGS([Parameter(torch.ones(1))]), "LBFGS is not"),
        (torch.optim.RMSprop([Parameter(torch.ones(1))]), "RMSprop is not"),
        (Scaled([Parameter(torch.ones(1))]), "Scaled is not"),
        (Adam([Parameter(torch.ones(1))], amsgrad=True), "AMSGrad"),
        (SGD([Parameter(torch.ones(1))], differentiable=True), "differentiable"),
        (hooked(), "hooks"),
    ],
)
def test_what_cannot_step_on_one_weight_is_refused(optimizer: Optimizer, why: str) -> None:
    """It is named, before anything runs."""
    with pytest.raises(OptimizerRefused, match=why):
        Optimizing(optimizer)


def test_a_weight_without_a_group_is_refused() -> None:
    """Nobody would update it; the message says what to do."""
    known, unknown = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    sink = Optimizing(SGD([known]))
    sink.check({"known": known})
    with pytest.raises(OptimizerRefused, match=r"no group with head\.bias; add it, or freeze"):
        sink.check({"known": known, "head.bias": unknown})
    sink.optimizer.add_param_group({"params": [unknown]})
    sink.check({"head.bias": unknown})
