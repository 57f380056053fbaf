# SPDX-License-Identifier: Apache-2.0
"""Readings of jtop (jetson-stats, optional) from a process of its own: power, temperatures, clocks and power mode.

jtop only repeats what the kernel's files say, about once a second; nothing of ours needs it. It is here for boards
where it runs anyway, and for comparing its figures with those of `boards`.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from types import TracebackType

from .errors import GovernorError

START_S = 15.0
"""Importing jetson-stats and its first sample take this long at most."""
_STOP_S = 2.0


class JtopUnavailable(GovernorError):
    """There are no readings: jetson-stats is not installed, its service does not run or did not answer."""


@dataclass(frozen=True, slots=True)
class JtopSample:
    """One sample; None for what jtop does not know."""

    version: str
    power_w: float | None
    """Of the whole module, as jtop adds it up."""
    rails_w: dict[str, float]
    zones_celsius: dict[str, float]
    gpu_hz: int | None
    cpu_hz: int | None
    """Of the fastest core that is online."""
    emc_hz: int | None
    mode: int | None
    """Number and name of the nvpmodel power mode."""
    mode_name: str | None


class JtopReader:
    """Samples of a child process, which starts with the `with` block and ends with it."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self._command = [sys.executable, "-m", "governor.jtop_child", str(interval_s)]
        self._child: subprocess.Popen[bytes] | None = None
        self._text = b""

    def __enter__(self) -> JtopReader:
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def read(self, timeout_s: float = START_S) -> JtopSample:
        """The next sample. Raises `JtopUnavailable` with the reason if jtop has none within `timeout_s`."""
        record = json.loads(self._line(time.monotonic() + timeout_s, timeout_s))
        if "error" in record:
            raise JtopUnavailable(f"jtop: {record['error']}")
        return JtopSample(**record)

    def _line(self, deadline_s: float, timeout_s: float) -> bytes:
        if self._child is None or self._child.stdout is None:
            raise JtopUnavailable("jtop: its reader was not started")
        pipe = self._child.stdout.fileno()
        while b"\n" not in self._text:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline_s - time.monotonic()))
            if not ready:
                raise JtopUnavailable(f"jtop: no sample within {timeout_s:g} s")
            if not (chunk := os.read(pipe, 65536)):
                raise JtopUnavailable("jtop: its process ended without a word")
            self._text += chunk
        line, self._text = self._text.split(b"\n", 1)
        return line


def jtop_mode(timeout_s: float = START_S) -> str | None:
    """The power mode as jtop names it, such as "MODE_30W (2)"; None where jtop or nvpmodel has no answer."""
    try:
        with JtopReader() as reader:
            sample = reader.read(timeout_s)
    except JtopUnavailable:
        return None
    return None if sample.mode is None else f"{sample.mode_name} ({sample.mode})"
