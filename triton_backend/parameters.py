# SPDX-License-Identifier: Apache-2.0
"""config.pbtxt as one frozen record; whatever it cannot mean refuses the load by name, never by a default."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from . import readers
from .errors import BadParameter
from .queueing import Queueing, QueuePolicy, TimeoutAction
from .tensors import DTYPES, TensorSpec

Json = Mapping[str, Any]
EngineName = Literal["torch", "pt2", "onnx", "delegate", "identity", "finetune"]
Policy = Literal["drop-oldest", "refuse"]

ENGINES: Mapping[str, str] = {
    "torch": "model.safetensors",
    "pt2": "model.pt2",
    "onnx": "model.onnx",
    "delegate": "",
    "identity": "",
    "finetune": "",
}
"""Engine -> its default model file, empty where it opens none."""

TRITONS_OWN = ("EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS")
"""Parameters that Triton's Python backend itself obeys."""

MAX_THREADS = 64
MAX_SLO_MS = 3_600_000.0
MAX_STORE_MIB = 65_536
MAX_JOBS = 1000


@dataclass(frozen=True, slots=True)
class Intake:
    """What engine `finetune` takes in: samples of which models, how many of each, and what happens to more."""

    models: Mapping[str, str]
    """Architectures by model."""
    limit_bytes: int
    policy: Policy
    max_jobs: int


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """All that config.pbtxt says to this backend; times in seconds, `slo_s` is 0 where no objective is stated."""

    model: str
    engine: EngineName
    model_file: str
    architecture: str
    digest: str | None
    """SHA-256 pinned in config.pbtxt, which outranks digest.json."""
    slo_s: float
    slo_quantile: float
    slo_weight: float
    threads: int
    delegate_to: str
    virtual_workload: str
    forbid_nan: bool
    forbid_bad_utf8: bool
    max_batch_size: int
    """As Triton means it: 0 says that tensors have no batch dimension."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    queueing: Queueing
    intake: Intake | None = None
    """With engine `finetune` only."""

    @property
    def alone(self) -> bool:
        """Whether every request is a batch of its own: one that leaves traces must not be tried twice."""
        return self.intake is not None

    @property
    def batched(self) -> bool:
        """Whether tensors have a batch dimension in front."""
        return self.max_batch_size > 0

    @property
    def max_batch(self) -> int:
        """The most samples in one execution, at least 1."""
        return max(1, self.max_batch_size)


def parse(model_config: Json) -> BackendConfig:
    """The record of one model's configuration, as Triton hands it over; raises `BadParameter`."""
    given = _parameters(model_config.get("parameters", {}))
    model = str(model_config["name"])
    engine = cast(EngineName, given.choice("engine", tuple(ENGINES), None))
    inputs = _tensors(model_config.get("input", ()), "input")
    config = BackendConfig(
        model=model,
        engine=engine,
        model_file=given.take("model_file", readers.file, ENGINES[engine]),
        architecture=given.take("architecture", readers.plain_name, model),
        digest=given.take("digest", readers.sha256, None),
        slo_s=given.take("slo_ms", readers.number(0, MAX_SLO_MS, "a number of milliseconds above 0"), 0.0) / 1e3,
        slo_quantile=given.take("slo_quantile", readers.number(0, 1, "a number between 0 and 1", open_end=True), 0.99),
        slo_weight=given.take("slo_weight", readers.number(0, 1e6, "a number above 0, at most 1000000"), 1.0),
        threads=given.take("threads", readers.whole(1, MAX_THREADS), 1),
        delegate_to=given.take("delegate_to", readers.plain_name, ""),
        virtual_workload=given.take("virtual_workload", readers.workload, likely_workload(engine, inputs)),
        forbid_nan=given.take("forbid_nan", readers.flag, default=True),
        forbid_bad_utf8=given.take("forbid_bad_utf8", readers.flag, default=True),
        max_batch_size=_count(model_config.get("max_batch_size", 0), "max_batch_size"),
        inputs=inputs,
        outputs=_tensors(model_config.get("output", ()), "output"),
        queueing=_queueing(model_config.get("dynamic_batching") or {}),
        intake=_intake(given) if engine == "finetune" else None,
    )
    given.refuse_rest()
    _consistent(config)
    return config


def _intake(given: _Given) -> Intake:
    models = given.take("train", readers.models, {})
    if not models:
        raise BadParameter("train", "", "the models that may be trained, separated by commas")
    limit_mib = given.take("store_mib", readers.whole(1, MAX_STORE_MIB), 256)
    policy = cast(Policy, given.choice("policy", ("drop-oldest", "refuse"), "drop-oldest"))
    return Intake(models, limit_mib << 20, policy, given.take("max_jobs", readers.whole(1, MAX_JOBS), 16))


def likely_workload(engine: EngineName, inputs: Sequence[TensorSpec]) -> str:
    """The surface of a virtual board that a model most likely follows, by how much it computes per byte of its input.

    Most for images (`resnet`: a convolution uses every weight at every pixel), less for token numbers (`bert`), least
    for the rest (`lstm`). Taking samples in is no work for a board (`none`).
    """
    if engine == "finetune":
        return "none"
    if any(len(spec.dims) >= 3 for spec in inputs):
        return "resnet"
    return "bert" if any("INT" in spec.dtype for spec in inputs) else "lstm"


def _consistent(config: BackendConfig) -> None:
    if (config.engine == "delegate") != bool(config.delegate_to):
        raise BadParameter("delegate_to", config.delegate_to, "a model's name with engine 'delegate', and only there")
    if config.delegate_to == config.model:
        raise BadParameter("delegate_to", config.delegate_to, "another model than this one")
    if not ENGINES[config.engine] and (config.model_file or config.digest):
        raise BadParameter("model_file", config.model_file, f"nothing with engine '{config.engine}'")
    for size in config.queueing.preferred:
        if not 1 <= size <= config.max_batch:
            raise BadParameter("preferred_batch_size", size, f"a size from 1 to {config.max_batch}")


class _Given:
    """The parameters of one model, taken out one by one so that the unknown remain."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def take(self, name: str, read: Callable[[str, str], Any], default: Any) -> Any:
        text = self._texts.pop(name, None)
        return default if text is None else read(name, text)

    def choice(self, name: str, allowed: tuple[str, ...], default: str | None) -> str:
        text = self._texts.pop(name, default)
        if text not in allowed:
            raise BadParameter(name, text, "one of " + ", ".join(allowed))
        return text

    def refuse_rest(self) -> None:
        for name in self._texts:
            raise BadParameter(name, self._texts[name], "no such parameter")


def _parameters(entries: Json) -> _Given:
    texts = {}
    for name, entry in entries.items():
        if name in TRITONS_OWN:
            continue
        text = entry.get("string_value") if isinstance(entry, Mapping) else None
        if not isinstance(text, str):
            raise BadParameter(name, entry, "{ string_value: TEXT }")
        texts[name] = text
    return _Given(texts)


def _tensors(entries: Any, kind: str) -> tuple[TensorSpec, ...]:
    return tuple(_tensor(entry, kind) for entry in entries)


def _tensor(entry: Json, kind: str) -> TensorSpec:
    dtype = entry.get("data_type")
    if dtype not in DTYPES:
        raise BadParameter(f"{kind} {entry.get('name')} data_type", dtype, "one of " + ", ".join(DTYPES))
    # With `reshape` the backend sees another shape than the client states.
    dims = entry["reshape"]["shape"] if entry.get("reshape") else entry.get("dims", ())
    if entry.get("allow_ragged_batch"):
        raise BadParameter(f"{kind} {entry.get('name')} allow_ragged_batch", True, "false")
    sizes = tuple(int(dim) for dim in dims)
    return TensorSpec(str(entry["name"]), str(dtype), sizes, bool(entry.get("optional", False)))


def _count(value: Any, name: str) -> int:
    # 64-bit fields arrive as text, as in protobuf's JSON
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,18}", str(value)):
        raise BadParameter(name, value, "a whole number")
    return int(value)


def _queueing(block: Json) -> Queueing:
    levels = _count(block.get("priority_levels", 0), "priority_levels")
    default = _count(block.get("default_priority_level", 0), "default_priority_level")
    if levels and not 1 <= default <= levels:
        raise BadParameter("default_priority_level", default, f"a level from 1 to {levels}")
    common = _policy(block.get("default_queue_policy") or {})
    own = {
        _count(level, "priority_queue_policy"): _policy(entry)
        for level, entry in (block.get("priority_queue_policy") or {}).items()
    }
    delay_us = _count(block.get("max_queue_delay_microseconds", 0), "max_queue_delay_microseconds")
    return Queueing(
        preferred=tuple(sorted(_count(size, "preferred_batch_size") for size in block.get("preferred_batch_size", ()))),
        triton_delay_ns=delay_us * 1000,
        preserve_ordering=bool(block.get("preserve_ordering", False)),
        default_priority=default if levels else 0,
        policies=tuple(own.get(level, common) for level in range(levels + 1)),
    )


def _policy(block: Json) -> QueuePolicy:
    action = block.get("timeout_action", "REJECT")
    if action not in ("REJECT", "DELAY"):
        raise BadParameter("timeout_action", action, "REJECT or DELAY")
    return QueuePolicy(
        max_queue_size=_count(block.get("max_queue_size", 0), "max_queue_size"),
        timeout_ns=_count(block.get("default_timeout_microseconds", 0), "default_timeout_microseconds") * 1000,
        action=cast(TimeoutAction, action),
        allow_override=bool(block.get("allow_timeout_override", False)),
    )
