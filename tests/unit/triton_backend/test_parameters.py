# SPDX-License-Identifier: Apache-2.0
"""config.pbtxt is understood in full or refused by name."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import pytest
from backend_fakes import model_config
from hypothesis import given
from hypothesis import strategies as st

from triton_backend.errors import BadParameter
from triton_backend.parameters import BackendConfig, parse
from triton_backend.queueing import QueuePolicy

Make = Callable[..., BackendConfig]


def test_defaults(make_config: Make) -> None:
    """A model that states only its engine gets one thread, no objective, strict inputs, its name as architecture."""
    config = make_config(parameters={"engine": "torch"})
    assert (config.model_file, config.architecture, config.threads) == ("model.safetensors", "pair", 1)
    assert (config.slo_s, config.slo_quantile, config.slo_weight) == (0.0, 0.99, 1.0)
    assert config.forbid_nan
    assert config.forbid_bad_utf8
    assert (config.max_batch_size, config.batched) == (8, True)
    assert [spec.dims for spec in config.inputs] == [(4,), (-1, 2)]


def test_everything_stated(make_config: Make) -> None:
    """Each parameter reaches its field, in SI units."""
    config = make_config(
        parameters={
            "engine": "onnx",
            "model_file": "graphs/net.onnx",
            "architecture": "digits_cnn",
            "digest": "a" * 64,
            "slo_ms": "12.5",
            "slo_quantile": "0.999",
            "slo_weight": "2",
            "threads": "3",
            "virtual_workload": "resnet",
            "forbid_nan": "false",
            "forbid_bad_utf8": "false",
            "EXECUTION_ENV_PATH": "/opt/env.tar.gz",
        }
    )
    assert config.slo_s == 0.0125
    assert (config.slo_quantile, config.slo_weight, config.threads) == (0.999, 2.0, 3)
    assert (config.model_file, config.digest, config.virtual_workload) == ("graphs/net.onnx", "a" * 64, "resnet")
    assert not config.forbid_nan
    assert not config.forbid_bad_utf8


@pytest.mark.parametrize(
    ("dtype", "dims", "workload"),
    [("TYPE_FP32", [3, 224, 224], "resnet"), ("TYPE_INT64", [64], "bert"), ("TYPE_FP32", [40], "lstm")],
)
def test_a_surface_is_chosen_by_what_the_model_reads(dtype: str, dims: list[int], workload: str) -> None:
    """Without `virtual_workload` images follow resnet, token numbers bert, anything else lstm."""
    config = model_config(parameters={"engine": "torch"})
    config["input"] = [{"name": "X", "data_type": dtype, "dims": dims}]
    assert parse(config).virtual_workload == workload


MALFORMED = [
    ("engine", ["", "Torch", "tensorflow", " torch"]),
    ("model_file", ["", "/etc/passwd", "../other/model.onnx", "a//b", ".hidden", "a\0b", "x" * 256]),
    ("architecture", ["", "a b", "../x"]),
    ("digest", ["", "abc", "A" * 64, "g" * 64, "a" * 63]),
    ("slo_ms", ["", "0", "-1", "nan", "inf", "1e3", "soon", "1_0", " 5", "٥", "9" * 13]),
    ("slo_quantile", ["", "0", "1", "1.5", "-0.5", "99"]),
    ("slo_weight", ["0", "-1", "heavy", "1000001"]),
    ("threads", ["0", "65", "-1", "1.5", "many", "", "1e1"]),
    ("virtual_workload", ["", "a/b", "x" * 33]),
    ("forbid_nan", ["", "True", "1", "yes"]),
    ("forbid_bad_utf8", ["", "FALSE", "0"]),
    ("delegate_to", ["", "a b", "pair", "other"]),
    ("slo", ["50"]),
    ("Threads", ["1"]),
]


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in MALFORMED for text in texts])
def test_malformed_by_name(name: str, text: str, make_config: Make) -> None:
    """Each malformed parameter refuses the load, named, with what is allowed; there is never a default in its place."""
    engine = {} if name == "engine" else {"engine": "onnx"}
    with pytest.raises(BadParameter) as refused:
        make_config(parameters={**engine, name: text})
    assert refused.value.name == name
    assert refused.value.allowed
    assert f"'{name}'" in str(refused.value)


@pytest.mark.parametrize("entry", [None, "1", {"stringValue": "1"}, {"string_value": 1}, {}])
def test_parameter_shape(entry: object) -> None:
    """A parameter is { string_value: TEXT } and nothing else."""
    config = model_config()
    config["parameters"]["threads"] = entry
    with pytest.raises(BadParameter, match="'threads'"):
        parse(config)


@given(
    name=st.sampled_from([name for name, _ in MALFORMED]) | st.text(string.printable, max_size=20),
    text=st.text(max_size=40) | st.text("0123456789.eE+-", max_size=12),
)
def test_generated_parameters(name: str, text: str) -> None:
    """Any text is either understood, within the bounds, or refused by name; nothing else ever happens."""
    try:
        config = parse(model_config(parameters={"engine": "onnx", name: text}))
    except BadParameter as refused:
        assert refused.name == name  # noqa: PT017 - the generated name decides which one is right
        return
    assert 1 <= config.threads <= 64
    assert 0 <= config.slo_s <= 3600
    assert 0 < config.slo_quantile < 1
    assert 0 < config.slo_weight <= 1e6
    assert not config.model_file.startswith("/")
    assert ".." not in config.model_file.split("/")


def test_delegate_belongs_to_its_engine(make_config: Make) -> None:
    """`delegate_to` is required with engine delegate, and refused with any other."""
    assert make_config(parameters={"engine": "delegate", "delegate_to": "other"}).delegate_to == "other"
    for parameters in ({"engine": "delegate"}, {"engine": "torch", "delegate_to": "other"}):
        with pytest.raises(BadParameter, match="'delegate_to'"):
            make_config(parameters=parameters)


def test_queueing(make_config: Make) -> None:
    """The dynamic_batching block is read as Triton would obey it, 64-bit fields given as text included."""
    config = make_config(
        dynamic_batching={
            "preferred_batch_size": [8, 4],
            "max_queue_delay_microseconds": "5000",
            "preserve_ordering": True,
            "priority_levels": "3",
            "default_priority_level": "2",
            "default_queue_policy": {"max_queue_size": 9},
            "priority_queue_policy": {
                "1": {
                    "timeout_action": "DELAY",
                    "default_timeout_microseconds": "2000",
                    "allow_timeout_override": True,
                    "max_queue_size": 4,
                }
            },
        }
    ).queueing
    assert config.preferred == (4, 8)
    assert config.triton_delay_ns == 5_000_000
    assert config.preserve_ordering
    assert [config.level(asked) for asked in (0, 1, 3, 4)] == [2, 1, 3, 2]
    assert config.policies[1] == QueuePolicy(4, 2_000_000, "DELAY", allow_override=True)
    assert config.policies[2] == QueuePolicy(9)


@pytest.mark.parametrize(
    ("block", "name"),
    [
        ({"preferred_batch_size": [9]}, "preferred_batch_size"),
        ({"preferred_batch_size": [0]}, "preferred_batch_size"),
        ({"max_queue_delay_microseconds": "-1"}, "max_queue_delay_microseconds"),
        ({"priority_levels": 2, "default_priority_level": 3}, "default_priority_level"),
        ({"priority_levels": 2}, "default_priority_level"),
        ({"default_queue_policy": {"timeout_action": "DROP"}}, "timeout_action"),
        ({"default_queue_policy": {"max_queue_size": -1}}, "max_queue_size"),
    ],
)
def test_malformed_queueing(block: dict[str, Any], name: str, make_config: Make) -> None:
    """What the block cannot mean refuses the load too."""
    with pytest.raises(BadParameter, match=name):
        make_config(dynamic_batching=block)


def test_tensors(make_config: Make) -> None:
    """`reshape` states the shape that the backend sees; types that numpy lacks and ragged batches are refused."""
    entry = {"name": "A", "data_type": "TYPE_FP32", "dims": ["1"], "reshape": {"shape": []}}
    assert make_config(input=[entry]).inputs[0].dims == ()
    for change in ({"data_type": "TYPE_BF16"}, {"allow_ragged_batch": True}):
        with pytest.raises(BadParameter, match="input A"):
            make_config(input=[{**entry, **change}])
