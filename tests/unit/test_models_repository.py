# SPDX-License-Identifier: Apache-2.0
"""The example repository and the architectures behind it say the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from governor.models import MODELS, packaged_repository
from model_repository.architectures import ARCHITECTURES, UnknownArchitecture, architecture

REPOSITORY = packaged_repository()
ROOT = Path(__file__).resolve().parents[2]


def configuration(name: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse((REPOSITORY / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def tensors(fields: object) -> list[tuple[str, str, tuple[int, ...]]]:
    names = model_config_pb2.DataType.Name
    return [(f.name, names(f.data_type).removeprefix("TYPE_"), tuple(f.dims)) for f in fields]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", MODELS)
def test_configuration_agrees_with_the_architecture(name: str) -> None:
    """Names, types and sizes in config.pbtxt are those that the module takes and returns."""
    config, known = configuration(name), architecture(name.removesuffix("_onnx"))
    assert tensors(config.input) == [(spec.name, spec.dtype, spec.dims) for spec in known.inputs]
    assert tensors(config.output) == [(spec.name, spec.dtype, spec.dims) for spec in known.outputs]


@pytest.mark.parametrize("name", MODELS)
def test_configuration_is_for_the_governed_backend(name: str) -> None:
    """Every example runs on the governed backend, batches, and names its engine, its file and its virtual surface."""
    config = configuration(name)
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert config.backend == "governed"
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    assert [(g.kind, g.count) for g in config.instance_group] == [(model_config_pb2.ModelInstanceGroup.KIND_CPU, 1)]
    engines = {".onnx": "onnx", ".safetensors": "torch"}
    assert parameters["engine"] == engines[Path(parameters["model_file"]).suffix]
    assert parameters["threads"] == "1", "a second thread beside other work costs far more than it brings"
    assert parameters["virtual_workload"] == ("bert" if name.startswith("bert") else "resnet")
    assert 0 < float(parameters["slo_quantile"]) < 1


@pytest.mark.parametrize("name", MODELS)
def test_labels_are_one_per_class(name: str) -> None:
    """A labels file has a line for each logit."""
    for output in configuration(name).output:
        if output.label_filename:
            labels = (REPOSITORY / name / output.label_filename).read_text().splitlines()
            assert len(labels) == output.dims[0] == len(set(labels))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - {"bert_base", "vgg16"}))
def test_module_takes_and_returns_what_it_declares(name: str) -> None:
    """A batch of positional tensors goes in, one tensor of logits comes out; nothing is fetched to make the module."""
    known = architecture(name)
    module = known.build().eval()
    inputs = [
        torch.ones(2, *spec.dims, dtype={"FP32": torch.float32, "INT64": torch.int64}[spec.dtype])
        for spec in known.inputs
    ]
    with torch.inference_mode():
        logits = module(*inputs)
    assert logits.shape == (2, *known.outputs[0].dims)
    assert logits.dtype is torch.float32
    assert logits.isfinite().all()


def test_token_numbers_end_where_the_vocabulary_does() -> None:
    """The greatest token number that is declared has a row in the embedding, the next one has none."""
    known = architecture("bert_mini")
    embedding = known.build().get_submodule("model.bert.embeddings.word_embeddings")
    assert known.inputs[0].below == embedding.num_embeddings


def test_the_model_that_takes_samples_in() -> None:
    """`finetune` takes every input of the models that it trains, under their names and types, and asks for none."""
    config = configuration("finetune")
    assert all(tensor.optional for tensor in config.input)
    stated = {name: (dtype, len(dims)) for name, dtype, dims in tensors(config.input)}
    for name in config.parameters["train"].string_value.split(","):
        for spec in architecture(name).inputs:
            assert stated[spec.name] == (spec.dtype, len(spec.dims))


def test_attention_mask_hides_padding() -> None:
    """Tokens under a zero mask do not change the answer."""
    module = architecture("bert_mini").build().eval()
    tokens = torch.arange(64).repeat(2, 1)
    tokens[1, 40:] = 7
    mask = (torch.arange(64) < 40).long().repeat(2, 1)
    with torch.inference_mode():
        one, other = module(tokens, mask)
        seen = module(tokens, torch.ones_like(mask))
    assert torch.allclose(one, other, atol=1e-6)
    assert not torch.allclose(seen[0], seen[1], atol=1e-6)


def test_unknown_architecture_names_the_known() -> None:
    """A wrong name is answered with the right ones."""
    with pytest.raises(UnknownArchitecture, match="digits_cnn") as caught:
        architecture("digits_cmn")
    assert caught.value.name == "digits_cmn"
    assert "resnet18" in caught.value.known


def test_signatures_cost_no_import() -> None:
    """Reading names and shapes loads neither torch nor transformers."""
    code = "import sys; from model_repository.architectures import architecture; architecture('bert_base').inputs;"
    code += "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
