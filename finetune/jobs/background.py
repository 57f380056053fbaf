# SPDX-License-Identifier: Apache-2.0
"""Work that cannot look up (capturing, measuring, planning), in a thread that every other one goes before.

On Linux niceness belongs to a thread (sched(7)), so what follows in the caller's thread is not slowed by it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
NICEST = 19


def in_background(work: Callable[[], T]) -> T:
    """What `work` comes to, or raises; signals are handled meanwhile."""
    with ThreadPoolExecutor(1, "background", initializer=_be_nice) as pool:
        return pool.submit(work).result()


def _be_nice() -> None:
    with contextlib.suppress(PermissionError):  # a sandbox may forbid it; then it is only less polite
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICEST)
