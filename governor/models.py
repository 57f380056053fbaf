# SPDX-License-Identifier: Apache-2.0
"""Building the example models: weights into a Triton model repository, nothing downloaded.

`digits_cnn` is trained, `digits_cnn_onnx` exported from it, the others get seeded weights or a local checkpoint's;
`resnet18` is exported to ONNX as well and served from that.
Seeded convnets are scaled layer by layer on noise, without which a deep one fades to denormal numbers or overflows.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from model_repository.architectures import architecture

from . import digits
from .checkpoint import CheckpointUnfit, read_checkpoint
from .publish import is_intact, publish

if TYPE_CHECKING:
    from torch import Tensor, nn

SEED = 0
SAFETENSORS = "model.safetensors"
ONNX = "model.onnx"
ACCURACY = "accuracy.json"
MODELS = ("digits_cnn", "digits_cnn_onnx", "resnet18", "efficientnet_b0", "bert_mini", "bert_base")
DEFAULT_MODELS = tuple(name for name in MODELS if name != "bert_base")
"""Without the one whose weights take 440 MB."""

SERVED_AS_ONNX = ("resnet18",)
"""Exported beside their safetensors: onnxruntime fuses what eager torch does not, 0.65 of the CPU time per image."""

_CALIBRATION_BATCH = 8
_CALIBRATION_ROUNDS = 2


class UnknownModel(LookupError):
    """No example model has this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no example model is named {name!r}; there are {', '.join(MODELS)}")


@dataclass(frozen=True, slots=True)
class Built:
    """What a build put into the repository; `accuracy` on unseen images where the model was trained, else None."""

    version: Path
    source: str
    accuracy: float | None = None


def packaged_repository() -> Path:
    """The repository that this project ships."""
    return Path(str(resources.files("model_repository")))


def is_built(name: str, repository: Path) -> bool:
    """Whether version 1 of the model is there, whole, with a configuration."""
    return (repository / name / "config.pbtxt").is_file() and is_intact(repository / name / "1")


def build(name: str, repository: Path, checkpoint: Path | None = None) -> Built:
    """Make version 1 of one example model; torch runs on one thread and its random state is put back.

    Raises `UnknownModel`, `CheckpointUnfit`, `AccuracyTooLow`; the version that was there before then still is.
    """
    if name not in MODELS:
        raise UnknownModel(name)
    if checkpoint and name.startswith("digits_cnn"):
        raise CheckpointUnfit(checkpoint, f"{name} is trained here and takes no checkpoint")
    _provide_configuration(name, repository)
    version = repository / name / "1"
    source, write = _recipe(name, repository, checkpoint)
    with _one_thread():
        publish(version, write)
    return Built(version, source, _stated_accuracy(version))


def _recipe(name: str, repository: Path, checkpoint: Path | None) -> tuple[str, Callable[[Path], None]]:
    """Where the model comes from, in words, and what writes its files into a folder."""
    if name == "digits_cnn":
        return "trained", _write_trained
    if name == "digits_cnn_onnx":
        return "exported from digits_cnn", lambda folder: _write_exported(folder, repository)
    source = f"checkpoint {checkpoint}" if checkpoint else "seeded weights"
    return source, lambda folder: _write_weights(folder, name, checkpoint)


def _provide_configuration(name: str, repository: Path) -> None:
    """Copy `config.pbtxt` and the labels into a repository that lacks them."""
    target = repository / name
    (target / "1").mkdir(parents=True, exist_ok=True)
    if not (target / "config.pbtxt").exists():
        for file in (packaged_repository() / name).glob("*.*"):
            shutil.copyfile(file, target / file.name)


def _write_weights(folder: Path, name: str, checkpoint: Path | None) -> None:
    import torch

    torch.manual_seed(SEED)
    module = architecture(name).build()
    if checkpoint:
        module.load_state_dict(read_checkpoint(checkpoint, module))
    else:
        _calibrate(module, architecture(name).inputs[0].dims)
    _save(module, folder)
    if name in SERVED_AS_ONNX:
        _export(module.eval(), torch.zeros(1, *architecture(name).inputs[0].dims), folder / ONNX)


def _calibrate(module: nn.Module, dims: tuple[int, ...]) -> None:
    """Scale fresh convolutions by their fan-in, BatchNorm by 1, and measure its statistics on noise images.

    Every layer then sees values of ordinary size, so that a seeded network costs what a trained one does.
    """
    import torch

    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_parameters()  # transformers draws the scale around 0
        norm.momentum = None  # a plain mean over the rounds
    with torch.no_grad():
        for _ in range(_CALIBRATION_ROUNDS if norms else 0):
            module(torch.randn(_CALIBRATION_BATCH, *dims))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def _write_trained(folder: Path) -> None:
    data = digits.load()
    module = digits.train(data)
    _write_accuracy(folder, digits.measure_accuracy(module, data), data)
    _save(module, folder)


def _write_exported(folder: Path, repository: Path) -> None:
    import onnxruntime
    import torch

    data = digits.load()
    _export(_digits_module(repository, data), data.test_images[:1], folder / ONNX)
    session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    accuracy = digits.measure_accuracy(
        lambda images: torch.from_numpy(session.run(["LOGITS"], {"IMAGE": images.numpy()})[0]), data
    )
    _write_accuracy(folder, accuracy, data)


def _export(module: nn.Module, image: Tensor, path: Path) -> None:
    import torch

    with warnings.catch_warnings():
        # The newer exporter needs onnxscript; torch is pinned, so the older one cannot vanish unseen.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Checks of the input's shape become constants, as they should.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        torch.onnx.export(
            module,
            (image,),
            path,
            dynamo=False,
            input_names=["IMAGE"],
            output_names=["LOGITS"],
            dynamic_axes={"IMAGE": {0: "batch"}, "LOGITS": {0: "batch"}},
        )


def _digits_module(repository: Path, data: digits.Digits) -> nn.Module:
    """The published `digits_cnn`, or the same trained anew."""
    from safetensors.torch import load_file

    if not is_built("digits_cnn", repository):
        return digits.train(data)
    module = architecture("digits_cnn").build()
    module.load_state_dict(load_file(repository / "digits_cnn" / "1" / SAFETENSORS))
    return module.eval()


def _write_accuracy(folder: Path, accuracy: float, data: digits.Digits) -> None:
    record = {
        "test_accuracy": round(accuracy, 4),
        "test_images": len(data.test_images),
        "training_images": len(data.train_images),
        "seed": digits.SEED,
    }
    (folder / ACCURACY).write_text(json.dumps(record, indent=2) + "\n")


def _stated_accuracy(version: Path) -> float | None:
    path = version / ACCURACY
    return float(json.loads(path.read_bytes())["test_accuracy"]) if path.exists() else None


def _save(module: nn.Module, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, folder / SAFETENSORS)


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
