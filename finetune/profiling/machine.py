# SPDX-License-Identifier: Apache-2.0
"""What a machine is called: measured times are of one machine."""

from __future__ import annotations

import platform
from pathlib import Path


def machine_name() -> str:
    """Its architecture and processor."""
    return f"{platform.machine()} {_processor()}"


def _processor(path: Path = Path("/proc/cpuinfo")) -> str:
    """The processor as its kernel names it; Arm kernels often give a part number alone, then the machine's model."""
    names = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    model = Path("/proc/device-tree/model")
    if model.exists():
        return model.read_text().rstrip("\0")
    return names[0] if names else "unknown processor"
