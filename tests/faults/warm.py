# SPDX-License-Identifier: Apache-2.0
"""Imported by a zygote of fine-tuners: captures a step once, so that all that capturing imports is there already."""

from __future__ import annotations

import torch
from torch import nn

from finetune.capture import capture

from . import trainer

torch.set_num_threads(1)
with torch.random.fork_rng(devices=[]):
    images, labels = trainer.pictures()
    capture(trainer.network(), nn.functional.cross_entropy, (images[: trainer.BATCH], labels[: trainer.BATCH]))
