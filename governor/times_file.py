# SPDX-License-Identifier: Apache-2.0
"""How long batches take at which clocks, kept over restarts: a job may have room where the last run has been.

One JSON file in the state directory, of what was tuned last. One that cannot be read, or is of something else, is none.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from boards.clocks import ClockPoint
from telemetry.durable import replace

from .quiet import SUMMARY, Timed

FILE = "service-times.json"
MAX_BYTES = 4 << 20
log = logging.getLogger("teg.governor")


class TimesFile:
    """The file of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / FILE

    def save(self, subject: str, summary: Iterable[Timed]) -> None:
        """Keep a summary for the subject of this digest; raises `OSError`."""
        rows = [
            {"clocks": asdict(timed.clocks), "instance": timed.instance, "batch": timed.batch, "times_s": timed.times_s}
            for timed in summary
            if isinstance(timed.clocks, ClockPoint)
        ]
        replace(self.path, json.dumps({"format": 1, "subject": subject, "rows": rows}).encode())

    def load(self, subject: str) -> list[Timed]:
        """The summary kept for the subject of this digest; empty without one."""
        try:
            with self.path.open("rb") as file:
                known = json.loads(file.read(MAX_BYTES))
            if known["format"] != 1 or known["subject"] != subject:
                return []
            return [_timed(row) for row in known["rows"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s is passed over: %s", self.path, error)
            return []


def _timed(row: Any) -> Timed:
    """A row; raises `ValueError`, `TypeError`, `KeyError`."""
    times_s = tuple(float(time_s) for time_s in row["times_s"])
    batch = row["batch"]
    if not (0 < len(times_s) <= SUMMARY and all(0 < time_s < math.inf for time_s in times_s)):
        raise ValueError("times_s must be a few seconds above 0")
    if not (isinstance(batch, int) and batch > 0 and isinstance(row["instance"], str)):
        raise ValueError("batch must be a number above 0, instance a name")
    clocks = ClockPoint(**row["clocks"])
    if not all(value is None or type(value) is int for value in clocks.values()):
        raise ValueError("clocks must be whole hertz")
    return Timed(clocks, row["instance"], batch, times_s)
