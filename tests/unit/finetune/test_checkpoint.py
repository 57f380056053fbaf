# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a run goes on as if it had never stopped, and no file is believed that is not one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

import finetune
from finetune.capture import capture
from finetune.capturing.optimizer import with_optimizer
from finetune.capturing.torch_private import recording_memory
from finetune.checkpoint import TrainingState, load, save
from finetune.checkpointing.tensors import PIECE_BYTES
from finetune.checkpointing.values import Taken, decode, encode
from finetune.data_order import DataOrder
from finetune.errors import CheckpointInvalid
from tests.unit.finetune.training import residual, tight_plan

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool,
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(st.sampled_from("ab.$")), inner, max_size=3)
        | st.dictionaries(st.integers() | st.floats(allow_nan=False) | st.text(), inner, max_size=3)
    ),
    max_leaves=12,
)


def network() -> nn.Sequential:
    """Dropout, statistics, and weights in another memory format."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten())
    return nn.Sequential(body, nn.Linear(4 * 36, 3)).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def state_of(model: nn.Module, **more: Any) -> TrainingState:
    return TrainingState.of("a network", 0, model, **more)


def same(found: object, wanted: object) -> bool:
    """Equal in value, type and order, signs of zeros and bits of tensors included."""
    match found, wanted:
        case Tensor(), Tensor():
            alike = (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
            return alike and _bits(found) == _bits(wanted)
        case float(), float():
            return struct.pack("d", found) == struct.pack("d", wanted) or (found != found and wanted != wanted)
        case dict(), dict():
            return same(list(found.items()), list(wanted.items()))
        case (list(), list()) | (tuple(), tuple()):
            return len(found) == len(wanted) and all(map(same, found, wanted))
    return type(found) is type(wanted) and found == wanted


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().clone().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@given(VALUES)
def test_values_come_back(value: object) -> None:
    """What state dicts hold comes back from JSON as it was: floats bit for bit, tuples as tuples, numbers as keys."""
    content = json.loads(json.dumps(encode(value, "value", Taken())))
    assert same(decode(content, "value", {}), value)


def test_tensors_of_all_kinds(tmp_path: Path) -> None:
    """Every type and shape comes back bit for bit, in memory of its own, and the safetensors library reads the same."""
    torch.manual_seed(0)
    noise = torch.randint(0, 256, (4, 6, 8), dtype=torch.uint8)
    tensors = {str(dtype): (noise % 2 == 0 if dtype is torch.bool else noise.view(dtype)) for dtype in DTYPES}
    tensors |= {"none": torch.empty(0, 3), "scalar": torch.tensor(1.5), "turned": torch.randn(3, 4).T}
    tensors |= {"part": torch.randn(9)[2:5], "weight": nn.Parameter(torch.randn(2, 2))}
    tensors |= {"last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), "é\n\u2028": torch.ones(1)}
    path = tmp_path / "state.safetensors"
    save(path, replace(state_of(nn.Identity()), model=tensors))
    found = load(path).model
    assert same(found, {name: tensor.detach() for name, tensor in tensors.items()})
    for tensor in found.values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize
        assert tensor.untyped_storage().resizable(), "weights that are paged give up their memory"
    library = load_file(path)
    assert all(same(library[f"model.{name}"], tensor.detach()) for name, tensor in tensors.items())
    assert all(tensor.untyped_storage().resizable() for tensor in tensors.values()), "saved weights can be paged, too"


def test_tied_weights(tmp_path: Path) -> None:
    """A weight under two names is in the file once, and is one tensor again."""
    model = nn.ModuleDict({"embed": nn.Embedding(50, 8), "head": nn.Linear(8, 50, bias=False)})
    model["head"].weight = model["embed"].weight
    path = tmp_path / "state.safetensors"
    save(path, state_of(model))
    found = load(path).model
    assert found["head.weight"] is found["embed.weight"]
    assert path.stat().st_size < 2 * 50 * 8 * 4 + 8192
    assert list(load_file(path)) == ["model.embed.weight", "rng"]


SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "steps": lambda optimizer: MultiStepLR(optimizer, [2, 3, 3, 7]),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 7),
    "cycle": lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=20),
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer, patience=0),
    "sequence": lambda optimizer: SequentialLR(
        optimizer, [LinearLR(optimizer, 0.1, total_iters=3), CosineAnnealingLR(optimizer, 5)], [3]
    ),
}
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda weights: SGD(weights, lr=0.1),
    "momentum": lambda weights: SGD(weights, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "adam": lambda weights: Adam(weights, lr=0.0123, amsgrad=True),
    "adamw": lambda weights: AdamW([{"params": weights[:2], "lr": 1 / 3}, {"params": weights[2:]}], lr=1e-3),
    "rmsprop": lambda weights: RMSprop(weights, centered=True, momentum=0.1),
}


class Run:
    """A loop of plain torch over random pictures."""

    def __init__(self, optimizer: str, schedule: str) -> None:
        self.model = network()
        self.optimizer = OPTIMIZERS[optimizer](list(self.model.parameters()))
        self.schedule: LRScheduler = SCHEDULES[schedule](self.optimizer)
        self.order = DataOrder(30, 8, seed=1)
        pictures = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(30, 1, 8, 8, generator=pictures)
        self.targets = torch.randint(0, 3, (30,), generator=pictures)

    def train(self, steps: int) -> Iterator[float]:
        for _ in range(steps):
            batch = next(self.order)
            loss = nn.functional.cross_entropy(self.model(self.inputs[batch]), self.targets[batch])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step(*([loss.item()] if isinstance(self.schedule, ReduceLROnPlateau) else []))
            yield loss.item()

    def state(self, step: int) -> TrainingState:
        return TrainingState.of(
            "run", step, self.model, self.optimizer, self.schedule, data=self.order.state_dict(), extra={"lr": (0.1,)}
        )


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [("sgd", "steps"), ("momentum", "plateau"), ("adam", "cycle"), ("adamw", "sequence"), ("rmsprop", "cosine")],
)
def test_a_run_goes_on(tmp_path: Path, optimizer: str, schedule: str) -> None:
    """New objects that take up a saved state train on as the old ones do, bit for bit, in weights and schedule too."""
    torch.manual_seed(5)
    run = Run(optimizer, schedule)
    list(run.train(4))
    path = tmp_path / "state.safetensors"
    save(path, run.state(4))
    expected = list(run.train(6))
    resumed = Run(optimizer, schedule)
    list(resumed.train(1))
    torch.manual_seed(99)
    state = load(path, "run")
    assert (state.step, state.extra) == (4, {"lr": (0.1,)})
    state.restore(resumed.model, resumed.optimizer, resumed.schedule)
    resumed.order.load_state_dict(state.data or {})
    assert list(resumed.train(6)) == expected
    left, right = run.state(10), resumed.state(10)
    assert same(dict(left.model), dict(right.model))
    assert same(left.optimizer, right.optimizer)
    assert torch.equal(left.rng, right.rng)


def test_saving_changes_nothing(tmp_path: Path) -> None:
    """A run that is saved after every step is the run that never is."""
    quiet, saved = Run("adam", "cosine"), Run("adam", "cosine")
    torch.manual_seed(1)
    expected = list(quiet.train(5))
    torch.manual_seed(1)
    for number, loss in enumerate(saved.train(5)):
        assert loss == expected[number]
        save(tmp_path / "state.safetensors", saved.state(number))


def test_any_changed_byte_is_seen(tmp_path: Path) -> None:
    """A file with a changed, missing or added byte is refused, wherever that is."""
    path = tmp_path / "state.safetensors"
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    save(path, replace(state_of(model, optimizer=Adam(model.parameters())), rng=torch.zeros(16, dtype=torch.uint8)))
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(CheckpointInvalid):
            load(path)
    for changed in (*(whole[:length] for length in range(0, len(whole), 7)), whole + b"\0", b"", whole[:8]):
        path.write_bytes(changed)
        with pytest.raises(CheckpointInvalid):
            load(path)
    path.write_bytes(whole)
    assert load(path).name == "a network"


def forge(path: Path, header: str, data: bytes) -> None:
    """A file with a sound checksum, whatever else it is."""
    head = struct.pack("<Q", len(header.encode())) + header.encode()
    begin = head.index(b'"checksum":"') + 12
    blank = head[:begin] + b"0" * 32 + head[begin + 32 :]
    total = xxhash.xxh3_128(blank + data).hexdigest().encode()
    path.write_bytes(blank[:begin] + total + blank[begin + 32 :] + data)


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put(content: Any, where: tuple[Any, ...], value: object) -> None:
    for key in where[:-1]:
        content = content[key]
    content[where[-1]] = value


BIG = 1 << 62
FORGED: dict[str, tuple[tuple[Any, ...], object]] = {
    "a huge shape": (("model.weight", "shape"), [BIG, BIG, 4]),
    "sizes beyond measure": (("model.weight", "shape"), [0, BIG, BIG]),
    "a negative size": (("model.weight", "shape"), [-2, -3]),
    "sizes that are none": (("model.weight", "shape"), ["2", 3]),
    "a thousand dimensions": (("model.weight", "shape"), [1] * 1000 + [6]),
    "a truth for a size": (("model.weight", "shape"), [True, 6]),
    "an unknown type": (("model.weight", "dtype"), "PICKLE"),
    "no type": (("model.weight", "dtype"), None),
    "a place beyond the file": (("model.weight", "data_offsets"), [BIG, BIG + 24]),
    "a place before the file": (("model.weight", "data_offsets"), [-24, 0]),
    "a place turned round": (("model.weight", "data_offsets"), [24, 0]),
    "more about a tensor": (("model.weight", "code"), "os.system"),
    "a tensor too many": (("more",), {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}),
    "no tensor at all": (("model.weight",), 5),
    "another format": (("__metadata__", "checkpoint"), "2"),
    "a state that is no JSON": (("__metadata__", "state"), "{"),
    "a state too deep": (("__metadata__", "state"), "[" * 100_000),
    "a state that is a list": (("__metadata__", "state"), "[]"),
    "a number of 5000 digits": (("__metadata__", "state"), "9" * 5000),
    "a text that is none": (("__metadata__", "state"), 5),
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_headers(tmp_path: Path, what: str) -> None:
    """A header that lies, under a sound checksum, is refused as what it is, before its sizes are believed."""
    path = tmp_path / "state.safetensors"
    save(path, replace(state_of(nn.Identity()), model={"weight": torch.ones(2, 3)}))
    header, data = parts(path)
    forge(path, json.dumps(header, separators=(",", ":")), data)
    load(path)
    put(header, *FORGED[what])
    forge(path, json.dumps(header, separators=(",", ":")), data)
    with pytest.raises(CheckpointInvalid):
        load(path)


NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**64) | st.floats() | st.sampled_from(["model.weight", "rng", "inf"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$tensor", "$tuple", "$dict", "$float", "params", "a"]), inner, max_size=2)
    ),
    max_leaves=5,
)


@settings(max_examples=400)
@given(field=st.sampled_from(TrainingState.__slots__), value=NONSENSE)
def test_forged_states(tmp_path_factory: pytest.TempPathFactory, field: str, value: object) -> None:
    """A state of nonsense under a sound checksum is taken up or refused; nothing else happens."""
    path = tmp_path_factory.mktemp("forged") / "state.safetensors"
    model = nn.Linear(3, 2, bias=False)
    save(path, state_of(model, optimizer=SGD(model.parameters())))
    header, data = parts(path)
    state = json.loads(header["__metadata__"]["state"])
    header["__metadata__"]["state"] = json.dumps(state | {field: value})
    forge(path, json.dumps(header, separators=(",", ":")), data)
    with contextlib.suppress(CheckpointInvalid):
        load(path).restore(model, SGD(model.parameters()))


def changed(**fields: object) -> Callable[[TrainingState], TrainingState]:
    return lambda state: replace(state, **fields)  # type: ignore[arg-type]


def without(name: str) -> Callable[[TrainingState], TrainingState]:
    return lambda state: replace(state, model={key: value for key, value in state.model.items() if key != name})


def with_model(name: str, tensor: Tensor) -> Callable[[TrainingState], TrainingState]:
    return lambda state: replace(state, model={**state.model, name: tensor})


def with_state(number: int, tensor: Tensor) -> Callable[[TrainingState], TrainingState]:
    def put_state(state: TrainingState) -> TrainingState:
        optimizer = state.optimizer or {}
        return replace(state, optimizer={**optimizer, "state": {number: {"exp_avg": tensor}}})

    return put_state


OTHERS: dict[str, tuple[Callable[[TrainingState], TrainingState], str]] = {
    "a weight is missing": (without("0.weight"), "model.0.weight"),
    "a weight too many": (with_model("more", torch.ones(1)), "model.more"),
    "a weight of another shape": (with_model("0.weight", torch.ones(3, 2)), "model.0.weight"),
    "a weight of another type": (with_model("0.weight", torch.ones(2, 3).bfloat16()), "model.0.weight"),
    "no optimizer": (changed(optimizer=None), "optimizer"),
    "other groups": (changed(optimizer={"state": {}, "param_groups": [{"params": [0]}]}), "optimizer.param_groups"),
    "a state of another shape": (with_state(0, torch.ones(3, 2)), "optimizer.state.0.exp_avg"),
    "a state of nobody's": (with_state(9, torch.ones(3, 2)), "optimizer.state.9"),
    "a schedule": (changed(scheduler={}), "scheduler"),
    "random numbers of another kind": (changed(rng=torch.zeros(7, dtype=torch.uint8)), "rng"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_state_of_others(what: str) -> None:
    """The state of another model, optimizer or schedule is refused by the name of the field, and nothing is changed."""
    change, field = OTHERS[what]
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = Adam(model.parameters())
    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = change(TrainingState.of("another", 3, other, Adam(other.parameters())))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    with pytest.raises(CheckpointInvalid) as refused:
        state.restore(model, optimizer)
    assert refused.value.field == field
    assert same(dict(model.state_dict()), before)
    assert not optimizer.state
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_name(tmp_path: Path) -> None:
    """A checkpoint is refused where another run is to be taken up."""
    path = tmp_path / "state.safetensors"
    save(path, state_of(nn.Linear(1, 1)))
    assert load(path, "a network").name == "a network"
    with pytest.raises(CheckpointInvalid, match="name is 'a network', not 'another'"):
        load(path, "another")


UNSAVED: dict[str, tuple[dict[str, Any], str]] = {
    "an object": ({"extra": {"a": [object()]}}, "extra.a.0"),
    "a function": ({"scheduler": {"factor": print}}, "scheduler.factor"),
    "bytes": ({"extra": {"a": b""}}, "extra.a"),
    "complex numbers": ({"model": {"w": torch.ones(1, dtype=torch.complex64)}}, "model.w"),
    "a sparse tensor": ({"model": {"w": torch.ones(2, 2).to_sparse()}}, "model.w"),
    "no memory": ({"model": {"w": torch.ones(2, device="meta")}}, "model.w"),
    "keys that are tuples": ({"extra": {"a": {(1, 2): 3}}}, "extra.a"),
    "a model's state that is no tensor": ({"model": {"head._extra_state": {}}}, "model"),
    "two of one name": ({"extra": {"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}}, "extra.a.b"),
}


@pytest.mark.parametrize("what", UNSAVED)
def test_what_cannot_be_saved(tmp_path: Path, what: str) -> None:
    """What no checkpoint can hold is refused by its place, and no file is made of it."""
    fields, where = UNSAVED[what]
    with pytest.raises(CheckpointInvalid) as refused:
        save(tmp_path / "state.safetensors", replace(state_of(nn.Identity()), **fields))
    assert refused.value.field == where
    assert list(tmp_path.iterdir()) == []


def test_a_weight_that_is_paged_out(tmp_path: Path) -> None:
    """A weight whose memory was given up is refused, and not read."""
    model = nn.Linear(4, 4)
    model.weight.untyped_storage().resize_(0)
    with pytest.raises(CheckpointInvalid, match=r"model\.weight is not in RAM"):
        save(tmp_path / "state.safetensors", state_of(model))
    assert list(tmp_path.iterdir()) == []
    model.weight.untyped_storage().resize_(64)


def test_weights_are_borrowed_one_by_one(tmp_path: Path) -> None:
    """What is paged out is brought into RAM for as long as it is written, and no longer."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    expected = {name: weight.clone() for name, weight in model.state_dict().items()}
    stored = {}
    for name, weight in model.state_dict().items():
        stored[weight.untyped_storage()._cdata] = expected[name]
        weight.untyped_storage().resize_(0)
    lent = []

    @contextlib.contextmanager
    def borrow(tensor: Tensor) -> Iterator[Tensor]:
        found = stored.get(tensor.untyped_storage()._cdata)
        if found is not None:
            lent.append(tensor)
            tensor.untyped_storage().resize_(found.nbytes)
            tensor.copy_(found)
        yield tensor
        if found is not None:
            tensor.untyped_storage().resize_(0)

    save(tmp_path / "state.safetensors", state_of(model), borrow=borrow)
    assert len(lent) == len(expected)
    assert same(dict(load(tmp_path / "state.safetensors").model), expected)
    assert all(not weight.untyped_storage().nbytes() for weight in model.state_dict().values())


def test_a_step_lends_what_lies_on_storage(tmp_path: Path) -> None:
    """A compiled step is saved as it is with all in RAM, holding one parked tensor at a time, and trains on exactly."""
    model, loss, batches = residual()
    optimizer = AdamW(model.parameters(), lr=0.01)
    graph = with_optimizer(capture(model, loss, batches[0]).graph, "adam")
    known = tight_plan(graph, 0, only="page")
    with finetune.compile(model, loss, batches[0], optimizer=optimizer, plan=known, page_dir=tmp_path) as step:
        for batch in batches[:2]:
            step(*batch)
        away = [weight for weight in model.parameters() if not weight.untyped_storage().nbytes()]
        assert away, "the plan parks no weight"
        now, most = TrainingState.of("steps", 2, model, optimizer), 0

        def look() -> None:
            nonlocal most
            most = max(most, sum(weight.untyped_storage().nbytes() > 0 for weight in away))

        save(tmp_path / "lent", now, borrow=step.borrowed, pause=look)
        assert most == 1
        assert all(not weight.untyped_storage().nbytes() for weight in away)
        random_state = torch.get_rng_state()
        expected = [step(*batch) for batch in batches[2:]]
        state = load(tmp_path / "lent", "steps")
        step.load_state_dict(state.trained())
        with step.resident():
            save(tmp_path / "resident", TrainingState.of("steps", 2, model, optimizer))
        assert (tmp_path / "lent").read_bytes() == (tmp_path / "resident").read_bytes()
        assert torch.equal(torch.get_rng_state(), random_state)
        assert [step(*batch) for batch in batches[2:]] == expected


@pytest.mark.parametrize("call", ["write", "fdatasync", "fsync", "replace"])
def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Whichever call meets a full disk, the old checkpoint can be loaded and nothing is left beside it."""
    path = tmp_path / "state.safetensors"
    model = nn.Linear(2048, 1024)
    save(path, replace(state_of(model), step=1))
    where: Any = Path if call == "replace" else os
    real, calls, failed = getattr(where, call), 0, 0
    for number in range(20):
        calls = 0

        def fail(*arguments: Any, number: int = number) -> Any:
            nonlocal calls
            calls += 1
            if calls > number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(where, call, fail)
            try:
                save(path, replace(state_of(model), step=2))
            except OSError as error:
                failed += error.errno == errno.ENOSPC
            else:
                break
        if not path.exists() or load(path).step == 2:
            assert call == "fsync", "only the folder's own fsync comes after the new file is there"
        assert [entry.name for entry in tmp_path.iterdir()] == ["state.safetensors"]
    assert failed >= 1
    assert load(path).step == 2


def test_no_second_copy(tmp_path: Path) -> None:
    """Saving allocates at most the largest weight that lies scattered in memory; loading, what it loads."""
    model = nn.Sequential(nn.Linear(1024, 2048), nn.Linear(2048, 1024), nn.Conv2d(64, 64, 3))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state, path = state_of(model), tmp_path / "state.safetensors"
    with recording_memory() as saving:
        save(path, state)
    with recording_memory() as loading:
        load(path)
    scattered = 64 * 64 * 9 * 4
    assert scattered <= peak(saving) < scattered + 20_000
    weights = sum(tensor.nbytes for tensor in state.model.values()) + state.rng.nbytes
    assert weights <= peak(loading) < weights + 20_000


def peak(events: list[tuple[str, int, int, int]]) -> int:
    memory = sorted((start_ns, size) for name, start_ns, _, size in events if name == "[memory]")
    return max(accumulate(size for _, size in memory))


def test_others_may_run_meanwhile(tmp_path: Path) -> None:
    """`pause` is called at least once for every piece that is written."""
    pauses = []
    weight = torch.zeros(5 * PIECE_BYTES // 2, dtype=torch.uint8)
    save(tmp_path / "a", replace(state_of(nn.Identity()), model={"w": weight}), pause=lambda: pauses.append(1))
    assert len(pauses) == 4


def test_what_is_no_file(tmp_path: Path) -> None:
    """A folder or a pipe in the file's place is refused and not waited for; a missing file is an `OSError`."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(CheckpointInvalid, match="is not a file"):
            load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


def test_private(tmp_path: Path) -> None:
    """Nobody else may read what was learnt from private data."""
    save(tmp_path / "state", state_of(nn.Linear(1, 1)))
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600
