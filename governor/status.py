# SPDX-License-Identifier: Apache-2.0
"""Where the governor stands: what the exporter, the progress display and tests look at."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from .guard import Slo
from .points import Best
from .training_status import TrainingStatus
from .trial import TrialRecord

log = logging.getLogger("teg.governor")


class Phase(Enum):
    """What the governor is doing; see `loop` for the transitions."""

    WAITING = "waiting"
    SETTLING = "settling"
    MEASURING = "measuring"
    PROPOSING = "proposing"
    HOLDING = "holding"
    COOLING = "cooling"


@dataclass(slots=True)
class Status:
    """One governor's state. `detail` says in words what it waits for; counters only grow."""

    phase: Phase = Phase.WAITING
    detail: str = "for clockd and a served model"
    point: dict[str, float] = field(default_factory=dict)
    trials: list[TrialRecord] = field(default_factory=list)
    best: Best | None = None
    leased: bool = False
    verdict: str = ""
    """Why there is no best point, in words, once that is certain."""
    paused: bool = False
    """Whether the point held is so only until more may be tried."""
    nothing_to_tune: bool = False
    """Whether no knob is left, or was there, to be searched."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Knobs that the search does without, and why."""
    alarms: dict[str, str] = field(default_factory=dict)
    """What needs a person's attention now, in words, by the name of the fault."""
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests that the board did not take, by (cause, knob)."""
    faults: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    windows: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Judged windows by (model, verdict)."""
    slos: dict[str, Slo] = field(default_factory=dict)
    latency_s: dict[str, float] = field(default_factory=dict)
    """The constrained quantile over the last judged window, by model."""

    server_faults: dict[str, int] = field(default_factory=dict)
    """What died of the server, by kind."""
    training: TrainingStatus = field(default_factory=TrainingStatus)

    def fault(self, kind: str, message: str) -> None:
        """Count a fault and log it by name."""
        self.faults[kind] += 1
        log.warning("%s: %s", kind, message)
