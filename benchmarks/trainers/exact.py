# SPDX-License-Identifier: Apache-2.0
"""Whether a trainer's step is eager's: loss, gradients, buffers and the random state after it, number by number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .setting import Setting, Trainer, zero_gradients

SEED = 11
KINDS = ("loss", "gradient", "buffer")


def outcome(setting: Setting, trainer: Trainer, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What one step from zero gradients, these buffers and a fixed seed leaves; keys `loss`, `gradient W`, ..."""
    with torch.no_grad():
        for name, buffer in setting.model.named_buffers():
            buffer.copy_(buffers[name])
    zero_gradients(setting.model)
    torch.manual_seed(SEED)
    found = {"loss": trainer.step().clone(), "random": torch.get_rng_state()}
    return found | left_behind(setting.model)


def left_behind(model: nn.Module) -> dict[str, Tensor]:
    """A model's gradients and buffers, not copied."""
    found = {f"gradient {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {f"buffer {name}": buffer for name, buffer in model.named_buffers()}


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Any]:
    """The largest absolute difference of each kind, and whether all is equal bit for bit.

    `gradient_relative` is the norm of all gradients' differences over that of eager's.
    """
    worst = dict.fromkeys(KINDS, 0.0)
    bitwise = set(expected) == set(found)
    wrong = whole = 0.0
    for name, tensor in expected.items():
        kind = name.partition(" ")[0]
        other = found.get(name)
        bitwise = bitwise and other is not None and torch.equal(tensor, other)
        if kind not in KINDS:
            continue
        apart = math.inf if other is None or other.shape != tensor.shape else _apart(tensor, other)
        worst[kind] = max(worst[kind], apart)
        if kind == "gradient" and other is not None and math.isfinite(apart):
            wrong += float((tensor.double() - other.double()).square().sum())
            whole += float(tensor.double().square().sum())
    same_random = "random" in found and torch.equal(expected["random"], found["random"])
    relative = math.sqrt(wrong / whole) if whole else 0.0
    return worst | {"gradient_relative": relative, "random_state": same_random, "bitwise": bitwise}


def _apart(expected: Tensor, found: Tensor) -> float:
    """The largest absolute difference; infinite where one of the two is not a number."""
    if not expected.numel():
        return 0.0
    apart = float((expected.double() - found.double()).abs().max())
    return apart if math.isfinite(apart) else math.inf
