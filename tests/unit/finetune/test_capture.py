# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from finetune.capture import capture
from finetune.capturing.storages import Geometry
from finetune.errors import CaptureRefused
from finetune.problem import Costs, Limits, Problem
from finetune.replay import replay
from finetune.schedule import keep_everything
from tests.unit.finetune.captured_steps import Attention, Residual, eager, flat_cross_entropy, planned

cross_entropy = nn.functional.cross_entropy


@pytest.fixture(scope="module")
def residual():
    torch.manual_seed(3)
    batch = (torch.randn(2, 3, 8, 8), torch.tensor([1, 4]))
    model = Residual()
    return model, batch, capture(model, cross_entropy, batch)


@pytest.fixture(scope="module")
def attention():
    torch.manual_seed(4)
    batch = (torch.randint(0, 11, (2, 6)), torch.randint(0, 11, (2, 6)))
    model = Attention()
    return model, batch, capture(model, flat_cross_entropy, batch)


@pytest.fixture(params=["residual", "attention"])
def captured(request):
    return request.getfixturevalue(request.param)


def test_a_captured_step_is_bitwise_the_eager_one(captured) -> None:
    """Loss, every gradient, every changed buffer and the random state afterwards are equal to the last bit."""
    model, batch, step = captured
    loss = cross_entropy if isinstance(model, Residual) else flat_cross_entropy
    found = planned(step, seed=7)
    expected = eager(copy.deepcopy(model), loss, batch, seed=7)
    assert {name for name in expected if not name.startswith("buffer")} <= set(found)
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_capture_changes_nothing() -> None:
    """Weights, buffers, gradients and the random state are as before, and the graph does not depend on them."""
    torch.manual_seed(5)
    model, batch = Residual(), (torch.randn(2, 3, 8, 8), torch.tensor([1, 4]))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    digests = {capture(model, cross_entropy, batch).graph.digest for _ in range(2)}
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(digests) == 1


def test_a_layer_of_two_names_stays_what_it_is() -> None:
    """Its very parameters are in place after capture, and its gradient is the sum of both uses."""
    torch.manual_seed(6)
    layer = nn.Linear(4, 4)
    model, batch = nn.Sequential(layer, nn.ReLU(), layer), (torch.randn(3, 4), torch.tensor([1, 0, 3]))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = planned(capture(model, cross_entropy, batch), seed=7)
    assert all(model.get_parameter(name) is parameter for name, parameter in parameters.items())
    expected = eager(copy.deepcopy(model), cross_entropy, batch, seed=7)
    assert len(found) == len(expected) == 4  # weight, bias, loss and random state
    for name, value in found.items():
        assert torch.equal(value, expected[name.replace("grad 2.", "grad 0.")]), name


def test_storages_are_those_of_a_real_run(captured) -> None:
    """Sizes, geometry and sharing found without values are those of real tensors."""
    _, _, step = captured
    values = dict(step.bound)
    keys: dict[int, int] = {}
    with torch.no_grad():
        for node in step.traced.graph.nodes:
            if node.op != "call_function":
                continue
            args, kwargs = (torch.fx.node.map_arg(given, values.__getitem__) for given in (node.args, node.kwargs))
            values[node] = node.target(*args, **kwargs)
    for node, value in values.items():
        if isinstance(value, Tensor):
            (number,) = step.memory.storages[node]
            assert keys.setdefault(number, value.untyped_storage()._cdata) == value.untyped_storage()._cdata
            assert value.untyped_storage().nbytes() == step.memory.sizes_bytes[number]
            assert Geometry.of(value) == step.memory.geometries[node]
    assert len(set(keys.values())) == len(keys)


def test_everything_that_fills_ram_is_counted(captured) -> None:
    """Weights once however often tied, unused ones too; a gradient where there is one; buffers, constants, batch."""
    model, batch, step = captured
    graph = step.graph

    def total(kind: str) -> int:
        return sum(storage.size_bytes for storage in graph.storages if storage.kind == kind)

    weights = {id(weight): weight.numel() * 4 for weight in model.parameters()}
    unused = 0 if isinstance(model, Residual) else 48
    assert total("parameter") == sum(weights.values())
    assert total("gradient") == sum(weights.values()) - unused
    assert total("input") == sum(tensor.numel() * tensor.element_size() for tensor in batch) + 4
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    assert total("buffer") == buffers + (0 if isinstance(model, Residual) else 6 * 6 * 4)


def test_the_step_can_be_planned(captured) -> None:
    """Keeping everything is a schedule that the judge accepts, and forward comes before backward."""
    graph = captured[2].graph
    ops, storages = (1.0,) * len(graph.ops), (1.0,) * len(graph.storages)
    costs = Costs(ops, ops, (0,) * len(graph.ops), storages, storages, storages, storages)
    found = replay(Problem(graph, costs, Limits(1 << 30)), keep_everything(graph))
    assert 0 < found.activation_peak_bytes < found.peak_bytes
    phases = [op.phase for op in graph.ops]
    assert phases == sorted(phases, key=["forward", "backward", "update"].index)


def test_old_statistics_are_there_until_the_end(residual) -> None:
    """Buffers change in the last op alone, so that a normalisation computed again reads what it read at first."""
    graph = residual[2].graph
    changing = [number for number, op in enumerate(graph.ops) if op.target == "assign"]
    assert changing == [len(graph.ops) - 1]
    assert {graph.storages[storage].name for storage in graph.ops[-1].updates} == {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }


def test_gradients_are_added_as_soon_as_they_are_made(residual) -> None:
    """No gradient waits for the end of the step: its op follows the one that made it, or others of the same one."""
    graph = residual[2].graph
    for number, op in enumerate(graph.ops):
        if op.target == "accumulate":
            maker = graph.producers[op.inputs[0]]
            assert maker is not None
            assert all(graph.ops[between].target == "accumulate" for between in range(maker + 1, number))


class Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        ctx.save_for_backward(values)
        return values.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        (values,) = ctx.saved_tensors
        return gradient * (values > 0)


class ChangesInPlace(nn.Module):
    """A gradient of the user's own, writes into slices, a recurrent cell, views that come several at once."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(4, 6), nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, values: Tensor) -> Tensor:
        self.seen += 1
        state = torch.zeros(values.shape[0], 6)
        for value in values.unbind(1):
            state = self.cell(value, state)
            state[:, :2] *= 0.5
        left, right = Clamp.apply(state).split(3, 1)
        return self.head(torch.cat([right, left], 1))


def test_in_place_code_and_own_gradients_are_traced() -> None:
    """Results are eager's; to the last bits only, as a slice computed in place is not vectorised as a copy of it is."""
    torch.manual_seed(6)
    model, batch = ChangesInPlace(), (torch.randn(4, 3, 4), torch.tensor([0, 1, 2, 0]))
    found = planned(capture(model, cross_entropy, batch), seed=8)
    expected = eager(model, cross_entropy, batch, seed=8)
    assert set(found) == set(expected)
    for name, value in found.items():
        assert torch.allclose(value.double(), expected[name].double(), rtol=1e-5, atol=1e-7), name


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)


class Branches(Wrong):
    def forward(self, values: Tensor) -> Tensor:
        found = self.layer(values)
        return found * 2 if found.sum() > 0 else found


class Selects(Wrong):
    def forward(self, values: Tensor) -> Tensor:
        found = self.layer(values)
        return found[found > 0]


class Prints(Wrong):
    def forward(self, values: Tensor) -> Tensor:
        print(values)
        return self.layer(values)


class Nothing(Wrong):
    def forward(self, values: Tensor) -> Tensor:
        return values * 2


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 4)

    def forward(self, values: Tensor) -> Tensor:
        return self.layer(values)[0]


class Vector(Wrong):
    def forward(self, values: Tensor) -> Tensor:
        return self.layer(values)[0]


@pytest.mark.parametrize(
    ("kind", "op", "why"),
    [
        (Branches, "TensorVariable", "branching"),
        (Selects, "nonzero", "depends on values"),
        (Prints, "print", "trace"),
        (Nothing, "the loss", "no parameter"),
        (Remembers, "LSTM", "does not support RNN, GRU, or LSTM"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(kind: type[nn.Module], op: str, why: str) -> None:
    """The error names the operation, and says why."""
    with pytest.raises(CaptureRefused) as refused:
        capture(kind(), lambda found, _: found.sum(), (torch.ones(2, 4), torch.ones(2)))
    assert op in refused.value.op
    assert why in refused.value.why


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_weight_with_hooks_is_refused(register: str) -> None:
    """`backward` would call them, a plan would not: the gradients would be others."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    getattr(model[1].weight, register)(lambda found: None)
    with pytest.raises(CaptureRefused, match=r"1\.weight: has hooks"):
        capture(model, cross_entropy, (torch.ones(3, 4), torch.tensor([0, 1, 0])))


def test_a_loss_must_be_one_number() -> None:
    """A model that returns a vector in place of its loss is refused."""
    with pytest.raises(CaptureRefused, match="scalar"):
        capture(Vector(), None, (torch.ones(2, 4),))


def test_frozen_weights_have_no_gradient() -> None:
    """A parameter that requires none gets neither gradient nor update, and still fills RAM."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    model[0].requires_grad_(False)
    graph = capture(model, cross_entropy, (torch.ones(3, 4), torch.tensor([0, 1, 0]))).graph
    assert {s.name for s in graph.storages if s.kind == "gradient"} == {"1.weight.grad", "1.bias.grad"}
    assert {s.name for s in graph.storages if s.kind == "parameter"} == {"0.weight", "0.bias", "1.weight", "1.bias"}


class CountsCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, values: Tensor, seen: Tensor) -> Tensor:
        seen.add_(1)
        return self.layer(values)


def test_an_input_that_is_changed_in_place_gets_its_new_value_at_the_end() -> None:
    """The step's own inputs may be changed by it, as eager does."""
    batch = (torch.ones(3, 4), torch.zeros(5), torch.tensor([0, 1, 0]))
    step = capture(CountsCalls(), cross_entropy, batch)
    last = step.graph.ops[-1]
    assert [step.graph.storages[storage].name for storage in last.updates] == ["batch.1"]
    assert torch.equal(batch[1], torch.zeros(5))
