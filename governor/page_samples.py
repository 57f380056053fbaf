# SPDX-License-Identifier: Apache-2.0
"""What the instances of one model version have answered of late, read from their pages."""

from __future__ import annotations

import time
from pathlib import Path

from telemetry.rundir import RunDir

from .comparison import Answered


def samples_of(run_dir: Path, model: str, version: int, last_s: float) -> Answered:
    """The requests that arrived within the last `last_s` seconds and have been answered; a ring holds 4096."""
    since_ns = time.monotonic_ns() - round(last_s * 1e9)
    found = []
    for page in RunDir(run_dir).open_instances():
        try:
            info = page.info
            if info is not None and (info.model, info.version) == (model, str(version)):
                found += [sample for sample in page.samples_since(0)[0] if sample.arrival_ns >= since_ns]
        finally:
            page.close()
    return Answered.of(found)
