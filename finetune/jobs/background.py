# SPDX-License-Identifier: Apache-2.0
"""Work in a thread that goes behind all others, for what cannot look up (capturing, planning) and what can.

On Linux a nice value belongs to a thread and cannot be taken back without privilege (sched(7)); the caller's
thread, which publishes what came of the work, keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..pacer import step_aside

T = TypeVar("T")


def in_background(work: Callable[[], T], *, aside: bool) -> T:
    """What `work` comes to, or raises; signals are handled meanwhile. `aside`: see `step_aside`."""
    with ThreadPoolExecutor(1, "training", initializer=step_aside if aside else None) as pool:
        return pool.submit(work).result()
