# SPDX-License-Identifier: Apache-2.0
"""Dropout on the CPU as eager torch computes it.

The traced step holds the fused operation, which scales by 1 / (1 - p) where eager divides the mask: the same random
numbers, for some p another last bit. These two are bitwise eager's, and keep a mask of one byte per element.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dropout(values: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """What is left of `values`, scaled, and the mask of what was left; draws from torch's generator."""
    kept = torch.empty_like(values).bernoulli_(1.0 - p)
    mask = kept.bool()
    return values * kept.div_(1.0 - p), mask


def dropout_backward(gradient: Tensor, mask: Tensor, p: float) -> Tensor:
    """The gradient of `dropout` towards its input."""
    return gradient * mask.to(gradient.dtype).div_(1.0 - p)
