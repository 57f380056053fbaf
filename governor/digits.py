# SPDX-License-Identifier: Apache-2.0
"""Training `digits_cnn` on the real handwritten digits that ship with scikit-learn (1797 images, UCI Optdigits)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_repository.architectures import architecture

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

REQUIRED_ACCURACY = 0.97
SEED = 0
_TRAINING_IMAGES = 1437
_EPOCHS = 20
_BATCH = 64
_PEAK_RATE = 3e-3


class AccuracyTooLow(Exception):
    """The network recognises too few of the digits it has not seen to be published."""

    def __init__(self, accuracy: float) -> None:
        self.accuracy = accuracy
        super().__init__(f"test accuracy {accuracy:.4f} is below the {REQUIRED_ACCURACY} required; nothing published")


@dataclass(frozen=True, slots=True)
class Digits:
    """The images (n x 1 x 8 x 8, ink from 0 to 1) and what they show (n), split once and for all by a fixed seed."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load() -> Digits:
    """The digits; reads what is installed with scikit-learn, and needs it."""
    import torch
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(raw.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    train, test = order[:_TRAINING_IMAGES], order[_TRAINING_IMAGES:]
    return Digits(images[train], labels[train], images[test], labels[test])


def train(digits: Digits) -> nn.Module:
    """`digits_cnn` in evaluation mode, trained; the same weights each time on one kind of processor. Some seconds."""
    import torch
    from torch.nn.functional import cross_entropy

    torch.manual_seed(SEED)
    module = architecture("digits_cnn").build()
    optimizer = torch.optim.AdamW(module.parameters(), lr=_PEAK_RATE)
    steps = _EPOCHS * -(-len(digits.train_images) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=steps)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(digits.train_images))
        for chosen in (order[first : first + _BATCH] for first in range(0, len(order), _BATCH)):
            optimizer.zero_grad()
            loss = cross_entropy(module(digits.train_images[chosen]), digits.train_labels[chosen])
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return module.eval()


def measure_accuracy(predict: Callable[[Tensor], Tensor], digits: Digits) -> float:
    """The share of test images that `predict` (images to logits) recognises; raises `AccuracyTooLow`."""
    right = predict(digits.test_images).argmax(dim=1) == digits.test_labels
    accuracy = right.float().mean().item()
    if accuracy < REQUIRED_ACCURACY:
        raise AccuracyTooLow(accuracy)
    return accuracy
