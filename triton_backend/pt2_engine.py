# SPDX-License-Identifier: Apache-2.0
"""The engine for programs saved with `torch.export.save`; their archives may hold pickles, so only pinned ones load."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from .parameters import BackendConfig
from .placement import Placement
from .torch_engine import TorchEngine, use_threads_and_device
from .trust import read_model_file


def open_pt2(config: BackendConfig, version_folder: Path, placement: Placement) -> TorchEngine:
    """Load an exported program whose inputs are in config.pbtxt's order; raises `ModelFileRefused`."""
    device = use_threads_and_device(config, placement)
    content = read_model_file(version_folder, config.model_file, config.digest)
    program = torch.export.load(io.BytesIO(content))
    return TorchEngine(config, program.module().to(device), device)
