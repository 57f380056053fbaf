# SPDX-License-Identifier: Apache-2.0
"""Each engine serves what fits its declaration and refuses to load what does not."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper

from model_repository.architectures import architecture
from telemetry.instance_page import InstancePage
from telemetry.rundir import RunDir
from triton_backend.complete import complete
from triton_backend.engine import open_engine
from triton_backend.errors import BadRequest, EngineUnusable, ModelFileRefused
from triton_backend.instance import open_page, refuse_numpy_2
from triton_backend.parameters import BackendConfig
from triton_backend.placement import Placement, placement_of

Make = Callable[..., BackendConfig]
IMAGE = [{"name": "IMAGE", "data_type": "TYPE_FP32", "dims": ["1", "8", "8"]}]
LOGITS = [{"name": "LOGITS", "data_type": "TYPE_FP32", "dims": ["10"]}]
DIGITS: dict[str, Any] = {"name": "digits_cnn", "input": IMAGE, "output": LOGITS}
BATCH = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)


@pytest.fixture
def module() -> torch.nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return architecture("digits_cnn").build().eval()


def test_torch(make_config: Make, module: torch.nn.Module, tmp_path: Path) -> None:
    """Safetensors weights in a named architecture answer what the module itself answers."""
    safetensors.torch.save_file(module.state_dict(), tmp_path / "model.safetensors")
    config = make_config(**DIGITS, parameters={"engine": "torch"})
    engine = open_engine(config, tmp_path, Placement(), None)
    with torch.inference_mode():
        expected = module(torch.from_numpy(BATCH)).numpy()
    assert np.array_equal(engine.run({"IMAGE": BATCH})["LOGITS"], expected)
    assert engine.in_thread
    engine.close()


def test_torch_refusals(make_config: Make, module: torch.nn.Module, tmp_path: Path) -> None:
    """Unknown architectures, other signatures and weights that do not fit refuse the load and say what differs."""
    weights = module.state_dict()
    weights.pop("0.bias")
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    for changes, words in (
        (DIGITS, "does not fit architecture 'digits_cnn'"),
        (DIGITS | {"name": "mine"}, "no architecture is named 'mine'"),
        (DIGITS | {"output": [{**LOGITS[0], "dims": ["9"]}]}, r"'LOGITS' is TYPE_FP32 \(9,\) in config.pbtxt"),
        (DIGITS | {"input": [{**IMAGE[0], "name": "PIXELS"}]}, "states the tensors"),
    ):
        with pytest.raises(EngineUnusable, match=words):
            open_engine(make_config(**changes, parameters={"engine": "torch"}), tmp_path, Placement(), None)


def test_pt2_only_pinned(make_config: Make, module: torch.nn.Module, tmp_path: Path) -> None:
    """An exported program serves at any batch size when its digest is pinned, and is not opened otherwise."""
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(module, (torch.from_numpy(BATCH),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    config = make_config(**DIGITS, parameters={"engine": "pt2"})
    with pytest.raises(ModelFileRefused, match="pin its SHA-256"):
        open_engine(config, tmp_path, Placement(), None)
    digest = hashlib.sha256((tmp_path / "model.pt2").read_bytes()).hexdigest()
    (tmp_path / "digest.json").write_text(json.dumps({"files": {"model.pt2": digest}}))
    engine = open_engine(config, tmp_path, Placement(), None)
    with torch.inference_mode():
        expected = module(torch.from_numpy(BATCH)).numpy()
    assert np.allclose(engine.run({"IMAGE": BATCH})["LOGITS"], expected, atol=1e-6)
    assert engine.run({"IMAGE": BATCH[:1]})["LOGITS"].shape == (1, 10)


@pytest.fixture
def doubler(tmp_path: Path) -> Path:
    """An ONNX graph: Y = X + X, with an open batch and an open length."""
    shape = ["batch", "length"]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("X", "Y"))
    graph = helper.make_graph([helper.make_node("Add", ["X", "X"], ["Y"])], "doubler", [x], [y])
    opsets = [helper.make_opsetid("", 17)]
    content = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content)
    return tmp_path


def entry(name: str, dims: list[str], data_type: str = "TYPE_FP32") -> list[dict[str, Any]]:
    return [{"name": name, "data_type": data_type, "dims": dims}]


def test_onnx(make_config: Make, doubler: Path) -> None:
    """A graph is fed by name; an output that it lacks or another type refuses the load."""
    parameters = {"engine": "onnx"}
    config = make_config(input=entry("X", ["-1"]), output=entry("Y", ["-1"]), parameters=parameters)
    engine = open_engine(config, doubler, Placement(), None)
    x = np.ones((2, 5), np.float32)
    assert np.array_equal(engine.run({"X": x})["Y"], x * 2)
    for wrong in (entry("Z", ["-1"]), entry("Y", ["-1"], "TYPE_INT64"), entry("Y", ["-1", "2"])):
        other = make_config(input=entry("X", ["-1"]), output=wrong, parameters=parameters)
        with pytest.raises(EngineUnusable, match=r"model.onnx: "):
            open_engine(other, doubler, Placement(), None)
    (doubler / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineUnusable, match="cannot open the graph"):
        open_engine(config, doubler, Placement(), None)


class FakeModelConfig:
    """Triton's ModelConfig, as far as auto-completion uses it."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def as_dict(self) -> dict[str, Any]:
        return self.config

    def add_input(self, tensor: dict[str, Any]) -> None:
        self.config.setdefault("input", []).append(tensor)

    def add_output(self, tensor: dict[str, Any]) -> None:
        self.config.setdefault("output", []).append(tensor)


def bare(engine: str, name: str = "digits_cnn", **more: Any) -> FakeModelConfig:
    parameters = {"engine": {"string_value": engine}}
    return FakeModelConfig({"name": name, "max_batch_size": 4, "parameters": parameters, **more})


def test_completion(doubler: Path) -> None:
    """What config.pbtxt leaves out comes from the graph, the architecture, or an identity's other side."""
    assert complete(bare("onnx"), doubler).config["output"] == [{"name": "Y", "data_type": "TYPE_FP32", "dims": [-1]}]
    from_architecture = complete(bare("torch"), doubler).config
    assert from_architecture["input"] == [{"name": "IMAGE", "data_type": "TYPE_FP32", "dims": [1, 8, 8]}]
    mirrored = complete(bare("identity", input=entry("A", ["3"])), doubler).config
    assert mirrored["output"] == [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [3]}]
    stated = complete(bare("onnx", input=entry("X", ["7"]), output=entry("Y", ["7"])), doubler).config
    assert stated["input"] == entry("X", ["7"])
    with pytest.raises(EngineUnusable, match="state inputs and outputs"):
        complete(bare("pt2"), doubler)


def test_identity_needs_equal_sides(make_config: Make, tmp_path: Path) -> None:
    """An identity model whose outputs are not its inputs refuses to load."""
    with pytest.raises(EngineUnusable, match="must be the inputs"):
        open_engine(make_config(output=entry("A2", ["4"])), tmp_path, Placement(), None)


def test_unknown_token_is_the_requests_fault(make_config: Make, tmp_path: Path) -> None:
    """A value outside an embedding is answered as a bad request, not as a broken engine."""
    module = architecture("bert_mini").build().eval()
    safetensors.torch.save_file(module.state_dict(), tmp_path / "model.safetensors")
    tokens = [*entry("INPUT_IDS", ["64"], "TYPE_INT64"), *entry("ATTENTION_MASK", ["64"], "TYPE_INT64")]
    config = make_config(name="bert_mini", input=tokens, output=entry("LOGITS", ["2"]), parameters={"engine": "torch"})
    engine = open_engine(config, tmp_path, Placement(), None)
    ids, mask = np.full((1, 64), 10**7), np.ones((1, 64), np.int64)
    with pytest.raises(BadRequest, match="outside what the model knows"):
        engine.run({"INPUT_IDS": ids, "ATTENTION_MASK": mask})


@pytest.mark.parametrize(
    ("version", "release", "refused"),
    [
        ("1.26.4", "", False),
        ("2.0.0", "", True),
        ("2.1.0", "24.10", True),
        ("2.1.0", "25.06", True),
        ("2.1.0", "25.07", False),
        ("2.1.0", "26.01", False),
        ("2.1.0", "nonsense", True),
    ],
)
def test_numpy_2(version: str, release: str, refused: bool) -> None:
    """numpy 2 is refused, with the reason, unless the server's release is known to carry it unharmed."""
    environ = {"NVIDIA_TRITON_SERVER_VERSION": release} if release else {}
    if refused:
        with pytest.raises(EngineUnusable, match="install numpy<2"):
            refuse_numpy_2(version, environ)
    else:
        refuse_numpy_2(version, environ)


def test_a_page_that_nobody_sees(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the run directory cannot be made the instance gets a page of its own, and one warning."""
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        page = open_page(RunDir(tmp_path / "file" / "run"), "m_0_0")
    assert isinstance(page, InstancePage)
    page.beat()
    assert not page.path.exists()
    page.remove()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no governor will see this instance" in caplog.text


def test_placement() -> None:
    """Triton's instance kinds map to where the engine runs."""
    assert placement_of({"model_instance_kind": "GPU", "model_instance_device_id": "1"}) == Placement("GPU", 1)
    assert placement_of({"model_instance_kind": "MODEL"}) == Placement("MODEL", 0)
    assert placement_of({}) == Placement("CPU", 0)
