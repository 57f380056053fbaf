# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training run, taken up to the last bit: one safetensors file, nothing pickled, never half written.

    with step.resident() as model:
        save(path, TrainingState.of("digits", number, model, optimizer, data=order.state_dict()))
    ...
    state = load(path, "digits")
    step.load_state_dict(state.trained())
    order.load_state_dict(state.data)

All of it is plain PyTorch's own: `TrainingState.of` and `restore` serve a loop without a `TrainStep` as well, and a run
may go from the one to the other. Save between two updates: gradients that wait for one are not part of a state.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from telemetry.large_files import replacing, sweep

from .checkpointing.tensors import read_tensors, write_tensors
from .checkpointing.values import Taken, decode, encode
from .errors import CheckpointInvalid

FORMAT = "1"
StateDict = dict[str, Any]


class Stateful(Protocol):
    """What a learning rate's schedule has."""

    def state_dict(self) -> StateDict: ...
    def load_state_dict(self, state_dict: StateDict) -> None: ...


@dataclass(frozen=True, slots=True)
class TrainingState:
    """All that a run needs to go on as if it had never stopped. `step`: updates done.

    `name` says what is trained (a model's name, a graph's digest). `model`, `optimizer`, `scheduler` and `data` are
    state dicts, the last one a `DataOrder`'s; `rng` is the state of torch's generator on the CPU. `extra` is the
    caller's: texts, numbers, tensors, and lists, tuples and dicts of these.
    """

    name: str
    step: int
    model: Mapping[str, Tensor]
    optimizer: StateDict | None
    rng: Tensor
    scheduler: StateDict | None = None
    data: StateDict | None = None
    extra: StateDict | None = None

    @classmethod
    def of(
        cls,
        name: str,
        step: int,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        scheduler: Stateful | None = None,
        *,
        data: StateDict | None = None,
        extra: StateDict | None = None,
    ) -> TrainingState:
        """The state as it is now; the tensors are the run's own, not copies."""
        return cls(
            name,
            step,
            model.state_dict(),
            None if optimizer is None else optimizer.state_dict(),
            torch.get_rng_state(),
            None if scheduler is None else scheduler.state_dict(),
            data,
            extra,
        )

    def trained(self) -> StateDict:
        """What `TrainStep.load_state_dict` takes."""
        return {"model": self.model, "optimizer": self.optimizer, "rng": self.rng}

    def restore(self, model: nn.Module, optimizer: Optimizer | None = None, scheduler: Stateful | None = None) -> None:
        """Put the state into a plain loop's objects; the optimizer takes its tensors as its own.

        Raises `CheckpointInvalid`, with nothing changed, if it is the state of others.
        """
        self.check(model, optimizer)
        if (scheduler is None) != (self.scheduler is None):
            raise CheckpointInvalid("scheduler", "is there" if scheduler is None else "is not there")
        before = torch.get_rng_state()
        try:
            torch.set_rng_state(self.rng)
        except RuntimeError as error:
            torch.set_rng_state(before)
            raise CheckpointInvalid("rng", str(error)) from error
        model.load_state_dict(self.model)
        if optimizer is not None and self.optimizer is not None:
            optimizer.load_state_dict(self.optimizer)
        if scheduler is not None and self.scheduler is not None:
            scheduler.load_state_dict(self.scheduler)

    def check(self, model: nn.Module, optimizer: Optimizer | None = None) -> None:
        """Raises `CheckpointInvalid` that names the first tensor or group in which a model or optimizer is another."""
        _check_tensors("model", self.model, model.state_dict())
        if (optimizer is None) != (self.optimizer is None):
            raise CheckpointInvalid("optimizer", "is there" if optimizer is None else "is not there")
        if optimizer is not None and self.optimizer is not None:
            _check_optimizer(self.optimizer, optimizer)


def save(
    path: Path,
    state: TrainingState,
    *,
    borrow: Callable[[Tensor], AbstractContextManager[Tensor]] = nullcontext,
    pause: Callable[[], None] = lambda: None,
) -> None:
    """Put a state at `path`, durably; the file before stays until the new one is whole, and after any error.

    `borrow` (`TrainStep.borrowed`) is entered for one tensor after another, so that what lies on storage need not be in
    RAM all at once; besides that one tensor nothing is copied. `pause` is called between pieces of at most 8 MB. What
    killed processes have left in the folder is removed first. Raises `CheckpointInvalid` naming what cannot be saved,
    and `OSError` (disk full).
    """
    taken = Taken()
    fields = {name: getattr(state, name) for name in TrainingState.__slots__}
    _check_fields(fields)
    content = {name: encode(value, name, taken) for name, value in fields.items()}
    sweep(path.parent)
    with replacing(path, mode=0o600) as descriptor:
        write_tensors(descriptor, taken.tensors, {"checkpoint": FORMAT, "state": json.dumps(content)}, pause, borrow)


def load(path: Path, name: str | None = None) -> TrainingState:
    """The state in a file, every byte of it checked, its tensors on the CPU; `name`: whose it must be.

    Raises `CheckpointInvalid` with the field for a file that is damaged, of another kind or another's, and `OSError`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CheckpointInvalid(str(path), "is not a file")
        tensors, texts = read_tensors(descriptor)
    finally:
        os.close(descriptor)
    if texts.get("checkpoint") != FORMAT:
        raise CheckpointInvalid("checkpoint", f"is of format {texts.get('checkpoint')!r}, not {FORMAT!r}")
    state = _state(texts.get("state", ""), tensors)
    if name is not None and state.name != name:
        raise CheckpointInvalid("name", f"is {state.name!r}, not {name!r}")
    return state


def _state(text: str, tensors: Mapping[str, Tensor]) -> TrainingState:
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or set(content) != set(TrainingState.__slots__):
            raise CheckpointInvalid("state", f"must have exactly {', '.join(TrainingState.__slots__)}")
        fields = {name: decode(found, name, tensors) for name, found in content.items()}
    except (ValueError, RecursionError) as error:
        raise CheckpointInvalid("state", f"is not JSON: {error}") from error
    _check_fields(fields)
    return TrainingState(**fields)


def _check_fields(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if not _SOUND[name](value):
            raise CheckpointInvalid(name, f"cannot be {str(value)[:80]}")


def _is_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def _is_dict(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_dict_or_none(value: object) -> bool:
    return value is None or _is_dict(value)


def _is_optimizer(value: object) -> bool:
    match value:
        case None:
            return True
        case {"state": dict() as states, "param_groups": [*groups]}:
            return all(isinstance(state, dict) for state in states.values()) and all(
                isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups
            )
    return False


_SOUND: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "step": lambda value: type(value) is int and value >= 0,
    "model": _is_tensors,
    "optimizer": _is_optimizer,
    "rng": lambda value: isinstance(value, Tensor) and value.dtype is torch.uint8 and value.dim() == 1,
    "scheduler": _is_dict_or_none,
    "data": _is_dict_or_none,
    "extra": _is_dict_or_none,
}


def _check_tensors(where: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name in (*wanted, *found):
        if name not in found or name not in wanted:
            raise CheckpointInvalid(f"{where}.{name}", "is not in the " + ("model" if name in found else "checkpoint"))
        if (found[name].dtype, found[name].shape) != (wanted[name].dtype, wanted[name].shape):
            raise CheckpointInvalid(f"{where}.{name}", f"is {_say(found[name])}, the model's is {_say(wanted[name])}")


def _check_optimizer(found: StateDict, optimizer: Optimizer) -> None:
    """Groups of as many parameters, and no state that is neither a scalar nor of its parameter's shape."""
    sizes, ours = _sizes(found["param_groups"]), _sizes(optimizer.param_groups)
    if sizes != ours:
        raise CheckpointInvalid("optimizer.param_groups", f"have {sizes} parameters, the optimizer's {ours}")
    numbers = [number for group in found["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shapes = {number: parameter.shape for number, parameter in zip(numbers, parameters, strict=True)}
    for number, values in found["state"].items():
        if number not in shapes:
            raise CheckpointInvalid(f"optimizer.state.{number}", "belongs to no parameter")
        for name, value in values.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != shapes[number]:
                raise CheckpointInvalid(
                    f"optimizer.state.{number}.{name}", f"is {_say(value)}, its parameter {list(shapes[number])}"
                )


def _sizes(groups: Iterable[Mapping[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _say(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
