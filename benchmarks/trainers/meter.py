# SPDX-License-Identifier: Apache-2.0
"""Bytes of heap at most while something runs, above what there was before: activations and what operations hold inside.

A small C library (`meter.c`) preloaded into the process sees every allocation, of every thread, and costs nothing that
a step's time shows. Where there is no C compiler torch's own events are used, which see what torch allocates.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from finetune.capturing.torch_private import recording_memory

SOURCE = Path(__file__).with_name("meter.c")
Result = TypeVar("Result")


def build(folder: Path) -> Path | None:
    """The library for LD_PRELOAD, compiled into a folder; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "meter.so"
    flags = ["-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-fno-builtin"]
    subprocess.run([compiler, *flags, "-o", library, SOURCE], check=True)
    return library.resolve()


def preloaded() -> bool:
    """Whether this process was started with the library."""
    return hasattr(ctypes.CDLL(None), "meter_live")


def peak_bytes(run: Callable[[], Result]) -> tuple[Result, int]:
    """What `run` returns, and its peak above what lay on the heap before."""
    return counting(run) if preloaded() else recorded(run)


def counting(run: Callable[[], Result]) -> tuple[Result, int]:
    """By the preloaded library."""
    library = ctypes.CDLL(None)
    live, peak = library.meter_live, library.meter_peak
    live.restype = peak.restype = ctypes.c_long
    library.meter_reset()
    before = live()
    result = run()
    return result, peak() - before


def recorded(run: Callable[[], Result]) -> tuple[Result, int]:
    """By torch's allocation events, which are slow to read afterwards: `run` is not to be timed meanwhile."""
    with recording_memory() as events:
        result = run()
    moves = sorted((start_ns, size_bytes) for name, start_ns, _, size_bytes in events if name == "[memory]")
    now = most = 0
    for _, size_bytes in moves:
        now += size_bytes
        most = max(most, now)
    return result, most
