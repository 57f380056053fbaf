# SPDX-License-Identifier: Apache-2.0
"""The trainer's page: how busy it was, and the limits that the governor sets for it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .pages import HEADER_WORDS, WORD, Page, Record, fixed, text

_BUSY_NS = HEADER_WORDS
_SLICES = HEADER_WORDS + 1


@dataclass(frozen=True, slots=True)
class TrainerLimits:
    """What a fine-tuning job may take: a share of the time, and the longest stretch between two looks at the gate."""

    duty: float
    slice_s: float


_LIMITS = Record(8 * WORD, "ddQ")
_JOB = Record(_LIMITS.offset + _LIMITS.size, "64s")


class TrainerPage(Page):
    """One fine-tuning process. The governor writes only the limits."""

    magic = b"TEGTRAIN"
    version = 1
    size = _JOB.offset + _JOB.size

    def slice_done(self, busy_ns: int) -> None:
        """Add one uninterrupted slice of training; for the trainer only."""
        self.words[_BUSY_NS] += busy_ns
        self.words[_SLICES] += 1

    @property
    def busy_ns(self) -> int:
        """Time spent training since the page was made, stretched on a virtual board."""
        return int(self.words[_BUSY_NS])

    @property
    def slices(self) -> int:
        """Slices trained since the page was made."""
        return int(self.words[_SLICES])

    def write_limits(self, limits: TrainerLimits, ttl_s: float) -> None:
        """Set the limits for `ttl_s` seconds; for the governor only."""
        _LIMITS.write(self.memory, (limits.duty, limits.slice_s, time.monotonic_ns() + int(ttl_s * 1e9)))

    def read_limits(self, now_ns: int) -> TrainerLimits | None:
        """The limits in force, None if there are none or they have expired."""
        fields = _LIMITS.read(self.memory)
        return TrainerLimits(fields[0], fields[1]) if fields and fields[2] > now_ns else None

    def write_job(self, job: str) -> None:
        """Name the job that runs; for the trainer only."""
        _JOB.write(self.memory, (fixed(job, 64),))

    @property
    def job(self) -> str:
        """The job that runs, empty if none."""
        fields = _JOB.read(self.memory)
        return text(fields[0]) if fields else ""
