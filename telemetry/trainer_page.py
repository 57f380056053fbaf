# SPDX-License-Identifier: Apache-2.0
"""The trainer's page: what it wants and how busy it was, and the limits that the governor sets for it.

The fine-tuning process owns it. The governor writes only the limits; a virtual board's clockd writes only the stretch.
Inference on a virtual board reads until when training occupies its one GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from .pages import HEADER_WORDS, WORD, Page, Record, fixed, text

RING = 256
"""Stretches kept."""
ENDLESS_NS = (1 << 63) - 1
"""Occupied until further notice."""
JOB_STATES = ("queued", "admitted", "running", "paused", "done", "failed", "cancelled")
FAULT_KINDS = 12
"""Kinds of faults that the page has room for."""


@dataclass(frozen=True, slots=True)
class TrainerLimits:
    """What training may take: a share of the idle time, in slices; `duty` 0 holds it, and `reason` says why in words.

    `slice_s`: the longest it may go on, in whole operations, without looking up.
    """

    duty: float
    slice_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class JobNotice:
    """What a fine-tuning process tells of the job in its hands."""

    job: str = ""
    """Empty: it has none."""
    model: str = ""
    longest_s: float = 0.0
    """The longest operation as planned; what was measured is in the ring. 0: not known yet."""
    step_s: float = 0.0
    """One step when nothing interrupts it; 0: not known yet."""
    steps_left: int = 0
    deadline_left_s: float = math.inf
    wants: bool = False
    """Whether it would train now: a job is there, and its own conditions are met."""
    mix: float | None = None
    """Share of a step's time that memory traffic takes; None: not known yet."""


(_BUSY_NS, _SLICES, _STEPS, _STRETCHES, _OCCUPIED_UNTIL_NS, _SLOWDOWN_PPM) = range(HEADER_WORDS, HEADER_WORDS + 6)
_RING_AT = 16
_LIMITS = Record((_RING_AT + RING) * WORD, "ddQ96s")
_NOTICE = Record(_LIMITS.offset + _LIMITS.size, "64s64sddQdBd")
_JOBS = Record(_NOTICE.offset + _NOTICE.size, f"{len(JOB_STATES)}Q")
_FAULTS = Record(_JOBS.offset + _JOBS.size, "24sQ" * FAULT_KINDS)


class TrainerPage(Page):
    """One fine-tuning process."""

    magic = b"TEGTRAIN"
    version = 3
    size = _FAULTS.offset + _FAULTS.size

    def slice_done(self, busy_ns: int) -> None:
        """Add one uninterrupted slice of training; for the trainer only."""
        self.words[_BUSY_NS] += busy_ns
        self.words[_SLICES] += 1

    def step_done(self) -> None:
        """Count one training step; for the trainer only."""
        self.words[_STEPS] += 1

    def add_stretch(self, stretch_ns: int) -> None:
        """Note how long it was from one look at the gate to the next; for the trainer only."""
        number = self.words[_STRETCHES]
        self.words[_RING_AT + number % RING] = stretch_ns
        self.words[_STRETCHES] = number + 1

    @property
    def busy_ns(self) -> int:
        """Time spent training since the page was made, stretched on a virtual board."""
        return int(self.words[_BUSY_NS])

    @property
    def slices(self) -> int:
        """Slices trained since the page was made."""
        return int(self.words[_SLICES])

    @property
    def steps(self) -> int:
        """Training steps since the page was made."""
        return int(self.words[_STEPS])

    def stretches_since(self, cursor: int) -> tuple[list[float], int]:
        """Seconds of the stretches numbered `cursor` and later, and the next cursor.

        A stretch lies between two looks at the gate; of all of them an even sample is noted.
        """
        end = int(self.words[_STRETCHES])
        first = max(cursor, end - RING)
        return [self.words[_RING_AT + number % RING] / 1e9 for number in range(first, end)], end

    def occupy(self, until_ns: int) -> None:
        """Say until when the one virtual GPU is training's; `ENDLESS_NS`, or 0 for not at all; for the trainer only."""
        self.words[_OCCUPIED_UNTIL_NS] = until_ns

    @property
    def occupied_until_ns(self) -> int:
        """Until when training has the one virtual GPU; always 0 on a real board."""
        return int(self.words[_OCCUPIED_UNTIL_NS])

    def write_slowdown(self, factor: float) -> None:
        """Set how much slower than at maximum clocks training is; for a virtual board's clockd only."""
        self.words[_SLOWDOWN_PPM] = round(1e6 * factor)

    @property
    def slowdown(self) -> float:
        """How much slower training is than at maximum clocks; 0 on a real board, where that shows by itself."""
        return self.words[_SLOWDOWN_PPM] / 1e6

    def write_limits(self, limits: TrainerLimits, ttl_s: float) -> None:
        """Set the limits for `ttl_s` seconds; for the governor only."""
        expires_ns = max(0, time.monotonic_ns() + int(ttl_s * 1e9))
        _LIMITS.write(self.memory, (limits.duty, limits.slice_s, expires_ns, fixed(limits.reason, 96)))

    def read_limits(self, now_ns: int) -> TrainerLimits | None:
        """The limits in force, None if there are none or they have expired."""
        fields = _LIMITS.read(self.memory)
        return TrainerLimits(fields[0], fields[1], text(fields[3])) if fields and fields[2] > now_ns else None

    def write_notice(self, notice: JobNotice) -> None:
        """Say which job is in hand and what it wants; for the trainer only."""
        names = fixed(notice.job, 64), fixed(notice.model, 64)
        times = notice.longest_s, notice.step_s, notice.steps_left, notice.deadline_left_s
        _NOTICE.write(self.memory, (*names, *times, notice.wants, math.nan if notice.mix is None else notice.mix))

    @property
    def notice(self) -> JobNotice:
        """The job in hand; that of an idle process before one was written."""
        fields = _NOTICE.read(self.memory)
        if fields is None:
            return JobNotice()
        job, model, longest_s, step_s, steps_left, deadline_left_s, wants, mix = fields
        known = None if math.isnan(mix) else mix
        return JobNotice(text(job), text(model), longest_s, step_s, steps_left, deadline_left_s, bool(wants), known)

    def write_jobs(self, counts: Mapping[str, int]) -> None:
        """Say how many jobs are in each of `JOB_STATES`; for the trainer only."""
        _JOBS.write(self.memory, tuple(counts.get(state, 0) for state in JOB_STATES))

    @property
    def jobs(self) -> dict[str, int]:
        """Jobs by state; empty before they were counted."""
        fields = _JOBS.read(self.memory)
        return dict(zip(JOB_STATES, fields, strict=True)) if fields else {}

    def write_faults(self, counts: Mapping[str, int]) -> None:
        """Say how many faults of each kind fine-tuning met, of the first `FAULT_KINDS` kinds; for the trainer only."""
        rows = [*counts.items()][:FAULT_KINDS]
        rows += [("", 0)] * (FAULT_KINDS - len(rows))
        _FAULTS.write(self.memory, tuple(value for kind, count in rows for value in (fixed(kind, 24), count)))

    @property
    def faults(self) -> dict[str, int]:
        """Faults that fine-tuning met, by kind."""
        fields = _FAULTS.read(self.memory) or ()
        return {text(kind): count for kind, count in zip(fields[::2], fields[1::2], strict=True) if text(kind)}
