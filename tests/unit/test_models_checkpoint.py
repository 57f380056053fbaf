# SPDX-License-Identifier: Apache-2.0
"""Local Hugging Face checkpoints are loaded whole or refused."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from governor.checkpoint import CheckpointUnfit, read_checkpoint
from governor.cli import models as cli
from governor.models import build, is_built
from model_repository.architectures import architecture


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A checkpoint of BERT-mini as transformers writes it, and the model it came from."""
    torch.manual_seed(7)
    model: Any = architecture("bert_mini").build().eval().model
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return folder, model


def copy_of(folder: Path, target: Path, **settings: Any) -> Path:
    """The checkpoint with some of its settings changed; the weights are linked, being large."""
    config = json.loads((folder / "config.json").read_text()) | settings
    (target / "config.json").write_text(json.dumps(config))
    (target / "model.safetensors").hardlink_to(folder / "model.safetensors")
    return target


def test_a_checkpoint_answers_as_the_model_it_came_from(saved: tuple[Path, Any], tmp_path: Path) -> None:
    """What is published from a checkpoint gives the very logits of the model that was saved."""
    folder, original = saved
    build("bert_mini", tmp_path, folder)
    assert is_built("bert_mini", tmp_path)
    module = architecture("bert_mini").build()
    module.load_state_dict(load_file(tmp_path / "bert_mini" / "1" / "model.safetensors"))
    module.eval()
    tokens, mask = torch.randint(0, 30522, (2, 64)), torch.ones(2, 64, dtype=torch.int64)
    with torch.inference_mode():
        assert torch.equal(module(tokens, mask), original(tokens, mask).logits)


def test_a_checkpoint_in_several_files_is_one(saved: tuple[Path, Any], tmp_path: Path) -> None:
    """Large checkpoints come in parts with an index; all parts are read."""
    saved[1].save_pretrained(tmp_path, max_shard_size="10MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    read = read_checkpoint(tmp_path, architecture("bert_mini").build())
    assert all(torch.equal(read[f"model.{name}"], tensor) for name, tensor in saved[1].state_dict().items())


def test_running_statistics_come_along(tmp_path: Path) -> None:
    """A convnet's BatchNorm statistics are part of its checkpoint."""
    original: Any = architecture("efficientnet_b0").build().model
    for part in original.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_()
    original.save_pretrained(tmp_path)
    read = read_checkpoint(tmp_path, architecture("efficientnet_b0").build())
    assert all(torch.equal(read[f"model.{name}"], tensor) for name, tensor in original.state_dict().items())


def test_half_precision_becomes_single(saved: tuple[Path, Any], tmp_path: Path) -> None:
    """Weights are served as 32-bit floats, however the checkpoint keeps them."""
    folder, original = saved
    weights = load_file(folder / "model.safetensors")
    save_file({k: v.half() for k, v in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    read = read_checkpoint(tmp_path, architecture("bert_mini").build())
    assert {tensor.dtype for tensor in read.values()} == {torch.float32}
    assert torch.equal(read["model.classifier.weight"], original.classifier.weight.half().float())


@pytest.mark.parametrize(
    ("setting", "value"),
    [("hidden_act", "relu"), ("num_attention_heads", 8), ("layer_norm_eps", 1e-3), ("model_type", "roberta")],
)
def test_settings_that_shapes_do_not_show_must_match(
    saved: tuple[Path, Any], tmp_path: Path, setting: str, value: object
) -> None:
    """A checkpoint whose weights fit but whose network computes otherwise is refused, the setting named."""
    folder = copy_of(saved[0], tmp_path, **{setting: value})
    with pytest.raises(CheckpointUnfit, match=setting):
        read_checkpoint(folder, architecture("bert_mini").build())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w: w.pop("classifier.weight"), r"has no classifier\.weight"),
        (lambda w: w.update({"extra.weight": torch.zeros(2)}), r"has besides extra\.weight"),
        (lambda w: w.update({"classifier.weight": torch.zeros(3, 256)}), r"in another shape classifier\.weight"),
    ],
)
def test_every_weight_must_fit(saved: tuple[Path, Any], tmp_path: Path, change: Any, complaint: str) -> None:
    """A weight too few, too many or of another shape is named, and nothing is published."""
    weights = load_file(saved[0] / "model.safetensors")
    change(weights)
    source = tmp_path / "source"
    source.mkdir()
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    (source / "config.json").write_text((saved[0] / "config.json").read_text())
    with pytest.raises(CheckpointUnfit, match=complaint):
        build("bert_mini", tmp_path, source)
    assert not is_built("bert_mini", tmp_path)


def test_only_safetensors_are_read(saved: tuple[Path, Any], tmp_path: Path) -> None:
    """A folder with pickled weights alone is refused before anything is opened."""
    (tmp_path / "config.json").write_text((saved[0] / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n.")
    with pytest.raises(CheckpointUnfit, match="safetensors"):
        read_checkpoint(tmp_path, architecture("bert_mini").build())


def test_a_damaged_file_is_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    """A torn safetensors file is no checkpoint."""
    (tmp_path / "config.json").write_text((saved[0] / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((saved[0] / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointUnfit):
        read_checkpoint(tmp_path, architecture("bert_mini").build())


def test_the_command_answers_no(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`teg models build` exits 1 and says why when a checkpoint does not fit; nothing is published."""
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    repository = tmp_path / "repository"
    words = ["models", "build", "bert_mini", "--repository", str(repository), "--checkpoint", f"bert_mini={tmp_path}"]
    args = parser.parse_args(words)
    assert args.handler(args) == 1
    assert "safetensors" in capsys.readouterr().err
    assert not is_built("bert_mini", repository)


def test_trained_models_take_no_checkpoint(saved: tuple[Path, Any], tmp_path: Path) -> None:
    """`digits_cnn` has no Hugging Face counterpart."""
    with pytest.raises(CheckpointUnfit, match="takes no checkpoint"):
        build("digits_cnn", tmp_path, saved[0])
