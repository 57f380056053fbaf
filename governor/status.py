# SPDX-License-Identifier: Apache-2.0
"""Where the governor stands: what the exporter, the progress display and tests look at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from .guard import Slo
from .search import Best
from .trial import TrialRecord


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
    faults: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    windows: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Judged windows by (model, verdict)."""
    slos: dict[str, Slo] = field(default_factory=dict)
    latency_s: dict[str, float] = field(default_factory=dict)
    """The constrained quantile over the last judged window, by model."""
