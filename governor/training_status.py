# SPDX-License-Identifier: Apache-2.0
"""Where fine-tuning beside inference stands, as status and metrics show it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from telemetry.trainer_page import JobNotice, TrainerLimits

from .reader import TrainerView

UNASKED = "nothing wants to train"


@dataclass(slots=True)
class TrainingStatus:
    """What is shown of training. `phase`: idle, held, thinking, admitted, paced or refused."""

    phase: str = "idle"
    limits: TrainerLimits = field(default_factory=lambda: TrainerLimits(0.0, 0.0, UNASKED))
    trainer: TrainerView | None = None
    """As of the last look, None while there is none."""
    longest_s: float = 0.0
    """The longest operation seen of the job."""
    error_ratio: float = math.nan
    held_ratio: float = math.nan
    """The predictor's mean relative error, and the share of its intervals that held."""

    @property
    def notice(self) -> JobNotice:
        """What the trainer wants."""
        return self.trainer.notice if self.trainer else JobNotice()
