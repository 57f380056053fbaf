# SPDX-License-Identifier: Apache-2.0
"""How fast a device's memory is, by a copy that no cache holds: the slope of its roofline (Williams et al., 2009)."""

from __future__ import annotations

import functools
import time

import torch

from ..executing.device import device_of

COPIED_BYTES, COPIES = 16 << 20, 12
"""More than the caches of a board hold, and little enough to ask for beside what is served."""
REST_S = 5e-3
"""Before each copy: who has slept is let finish a copy, who has not may lose its processor amid every one."""


@functools.cache
def memory_bytes_per_s(device: str) -> float:
    """Bytes read and written per second with the threads that torch has now, at best; measured once a process."""
    there = device_of(torch.device(device))
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    spans_s = []
    for _ in range(COPIES):
        there.settle()
        time.sleep(REST_S)
        start_s = time.perf_counter()
        target.copy_(source)
        there.settle()
        spans_s.append(time.perf_counter() - start_s)
    return 2 * COPIED_BYTES / min(spans_s)


def memory_share(traffic_bytes: int, bytes_per_s: float, step_s: float) -> float:
    """The share of a step's time that its traffic alone would take, 0 (arithmetic binds it) to 1 (memory does)."""
    return min(1.0, traffic_bytes / (bytes_per_s * step_s))
