# SPDX-License-Identifier: Apache-2.0
"""Named architectures: what a `model.safetensors` is loaded into.

A leaf: torch and transformers are imported when a module is built, so that the names and signatures can be read without
either (a model's configuration is checked against them before anything heavy is loaded). Modules take their inputs as
positional tensors with a leading batch axis, in the declared order, and return one tensor of logits. Everything is made
from a configuration written here; nothing is looked up or downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

DType = Literal["FP32", "INT64"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output, without its batch axis; `dtype` as the KServe protocol names it (`TYPE_FP32` in Triton)."""

    name: str
    dtype: DType
    dims: tuple[int, ...]
    below: int | None = None
    """Whole numbers lie from 0 to below this."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A module's signature and how to make one with fresh weights.

    `build()` draws its weights from torch's global generator and returns the module in training mode; ImportError if it
    needs transformers and that is not installed.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    build: Callable[[], nn.Module]


class UnknownArchitecture(LookupError):
    """No architecture has this name; `known` lists those that exist."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known = tuple(sorted(ARCHITECTURES))
        super().__init__(f"no architecture is named {name!r}; known are {', '.join(self.known)}")


def architecture(name: str) -> Architecture:
    """The architecture of that name; raises `UnknownArchitecture`."""
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise UnknownArchitecture(name) from None


def _digits_cnn() -> nn.Module:
    from torch import nn

    return nn.Sequential(  # n x 1 x 8 x 8, ink from 0 to 1
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),  # n x 32 x 4 x 4
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def _resnet18() -> nn.Module:
    return _resnet(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512])


def _resnet50() -> nn.Module:
    return _resnet(layer_type="bottleneck", depths=[3, 4, 6, 3], hidden_sizes=[256, 512, 1024, 2048])


def _resnet(**sizes: Any) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig.from_dict({"embedding_size": 64, "num_labels": 1000, **sizes})
    return _logits_of(ResNetForImageClassification(config))


def _vgg16() -> nn.Module:
    from torch import nn

    layers: list[nn.Module] = []
    inward = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(inward, width, 3, padding=1), nn.ReLU(inplace=True)]
            inward = width
        layers.append(nn.MaxPool2d(2))
    for inward, width in ((512 * 7 * 7, 4096), (4096, 4096)):
        layers += [nn.Flatten(), nn.Linear(inward, width), nn.ReLU(inplace=True), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(4096, 1000))


def _efficientnet_b0() -> nn.Module:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    scale = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "image_size": 224, "hidden_dim": 1280}
    config = EfficientNetConfig.from_dict({"dropout_rate": 0.2, "num_labels": 1000, **scale})
    return _logits_of(EfficientNetForImageClassification(config))


def _bert_mini() -> nn.Module:
    return _bert(num_hidden_layers=4, hidden_size=256, num_attention_heads=4, intermediate_size=1024)


def _bert_base() -> nn.Module:
    return _bert(num_hidden_layers=12, hidden_size=768, num_attention_heads=12, intermediate_size=3072)


_VOCABULARY = 30_522
"""Of BERT's word pieces."""


def _bert(**sizes: int) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    # Eager attention is plain matrix products and a softmax: the same graph when served, captured and exported.
    config = BertConfig.from_dict({"num_labels": 2, "vocab_size": _VOCABULARY, **sizes}, attn_implementation="eager")
    return _logits_of(BertForSequenceClassification(config))


def _logits_of(model: Any) -> nn.Module:
    """A transformers classifier as a module from positional tensors to one tensor; it is kept as `.model`."""
    from torch import Tensor, nn

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Tensor) -> Tensor:
            logits: Tensor = self.model(*inputs).logits
            return logits

    return Logits()


def _image(side: int, channels: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec("IMAGE", "FP32", (channels, side, side)),)


def _tokens(count: int) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("INPUT_IDS", "INT64", (count,), below=_VOCABULARY),
        TensorSpec("ATTENTION_MASK", "INT64", (count,), below=2),
    )


def _logits(classes: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec("LOGITS", "FP32", (classes,)),)


ARCHITECTURES: Mapping[str, Architecture] = {
    known.name: known
    for known in (
        Architecture("digits_cnn", _image(8, channels=1), _logits(10), _digits_cnn),
        Architecture("resnet18", _image(224, channels=3), _logits(1000), _resnet18),
        Architecture("resnet50", _image(224, channels=3), _logits(1000), _resnet50),
        Architecture("vgg16", _image(224, channels=3), _logits(1000), _vgg16),
        Architecture("efficientnet_b0", _image(224, channels=3), _logits(1000), _efficientnet_b0),
        Architecture("bert_mini", _tokens(64), _logits(2), _bert_mini),
        Architecture("bert_base", _tokens(128), _logits(2), _bert_base),
    )
}
