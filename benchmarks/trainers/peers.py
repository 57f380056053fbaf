# SPDX-License-Identifier: Apache-2.0
"""Eager training, and torch's own ways to need less memory: checkpoints, selective ones, the partitioner's budget."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from .setting import Setting

DEAR = [
    torch.ops.aten.convolution.default,
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten._softmax.default,
]
"""What a selective checkpoint keeps: torch's own examples save matrix products, here convolutions and softmax too."""
BUDGET = 0.5


class Eager:
    """An ordinary step."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def step(self) -> Tensor:
        """Forward, then backward."""
        loss = self.setting.forward()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def figures(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Nothing is held."""


class Checkpointed(Eager):
    """`torch.utils.checkpoint` around each block, random state kept, as its documentation recommends: not reentrant."""

    def __init__(self, setting: Setting, **options: Any) -> None:
        super().__init__(setting)
        for block in setting.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, **options)

    def figures(self) -> Mapping[str, Any]:
        """How many blocks."""
        return {"blocks": len(self.setting.blocks)}

    def close(self) -> None:
        """The blocks' own forward passes again."""
        for block in self.setting.blocks:
            del block.forward


class Selective(Checkpointed):
    """The same, with what is dear to compute kept."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, context_fn=partial(create_selective_checkpoint_contexts, DEAR))


class MemoryBudget(Eager):
    """`torch.compile` with `activation_memory_budget`, eager's random numbers asked for."""

    def __init__(self, setting: Setting, backend: str = "inductor") -> None:
        super().__init__(setting)
        from torch._functorch import config as partitioner
        from torch._inductor import config as inductor

        partitioner.activation_memory_budget = BUDGET
        inductor.fallback_random = True
        inductor.compile_threads = 1  # else it leaves a pool of processes behind
        self._model = torch.compile(setting.model, backend=backend)

    def step(self) -> Tensor:
        """As eager, with the compiled model; the first one compiles."""
        batch = self.setting.batch
        loss = self.setting.loss(self._model(*batch[:-1]), batch[-1])
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def figures(self) -> Mapping[str, Any]:
        """The budget, a share."""
        return {"activation_memory_budget": BUDGET}
