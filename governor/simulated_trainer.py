# SPDX-License-Identifier: Apache-2.0
"""A fine-tuning process on a simulated device, in virtual time: it obeys its limits as the gate does.

For tests and rehearsals. Its operations cannot be interrupted; between two of them it gets out of the way of requests.
"""

from __future__ import annotations

import math

from boards.clocks import ClockPoint
from boards.physics import Workload, shipped
from telemetry.trainer_page import JobNotice, TrainerLimits

from .reader import TrainerView

BATCH = 16.0
RARE = 200


class SimulatedTrainer:
    """A job of `steps` steps of `step_s` seconds each, in operations of `op_s`, both at maximum clocks."""

    def __init__(
        self, model: str, steps: int = 1000, step_s: float = 0.1, op_s: float = 0.005, workload: str = "resnet"
    ) -> None:
        self.job, self.model, self.steps, self.step_s, self.op_s = "job-1", model, steps, step_s, op_s
        self.wants = True
        self.deadline_s = math.inf
        """Until the end of which, on the simulation's clock, the job is to be done."""
        self.rare_s = 0.0
        """The one operation among `RARE` that is not `op_s`; 0 for none."""
        self.cold = 0.0
        """How much longer the first batch after training takes, as a share."""
        self.told = 1.0
        """By how much what it tells of its operations is wrong."""
        self.busy_s = self.done_s = 0.0
        """Time on the device; the same at maximum clocks."""
        self.slices = self._ops = 0
        self.workload: Workload = shipped(workload)
        self.limits: TrainerLimits | None = None
        self._limits_until_s = self._rest_until_s = self._slice_s = -math.inf
        self._noted: list[float] = []

    @property
    def steps_done(self) -> int:
        """Whole steps."""
        return int(self.done_s / self.step_s)

    @property
    def finished(self) -> bool:
        """Whether the job is done."""
        return self.steps_done >= self.steps

    def take_limits(self, limits: TrainerLimits, until_s: float) -> None:
        """Obey the governor's limits until then."""
        self.limits, self._limits_until_s = limits, until_s

    def next_s(self, now_s: float) -> float:
        """When the next operation may begin; infinite while training is held."""
        held = self.limits is None or now_s >= self._limits_until_s or self.limits.duty <= 0
        return math.inf if held or self.finished or not self.wants else max(now_s, self._rest_until_s)

    def begin(self, point: ClockPoint, now_s: float) -> float:
        """Begin an operation; when it will end."""
        self._ops += 1
        op_s = self.rare_s if self.rare_s and not self._ops % RARE else self.op_s
        return now_s + op_s * self._slowdown(point)

    def end(self, point: ClockPoint, start_s: float, end_s: float, *, wanted: bool) -> None:
        """An operation has ended; `wanted`: somebody else wants the device."""
        busy_s = end_s - start_s
        self.busy_s += busy_s
        self.done_s += busy_s / self._slowdown(point)
        self._noted.append(self.told * busy_s)
        self._slice_s = max(0.0, self._slice_s) + busy_s
        if self.limits is None or wanted or self._slice_s >= self.limits.slice_s:
            duty = max(0.01, self.limits.duty if self.limits else 0.0)
            self._rest_until_s = max(end_s, self._rest_until_s) + self._slice_s * (1 / duty - 1)
            self._slice_s = 0.0
            self.slices += 1

    def power_w(self, point: ClockPoint) -> float:
        """Watts of the module while it computes."""
        return self.workload.busy_power_w(point, BATCH, training=bool(self.workload.training))

    def view(self, now_s: float) -> TrainerView:
        """What its page shows, with the operations noted since the view before."""
        noted, self._noted = tuple(self._noted), []
        wants, left = self.wants and not self.finished, self.steps - self.steps_done
        times = self.told * max(self.op_s, self.rare_s), self.step_s, left, self.deadline_s - now_s
        notice = JobNotice("" if self.finished else self.job, self.model, *times, wants)
        return TrainerView(notice, round(1e9 * self.busy_s), self.slices, self.steps_done, noted)

    def _slowdown(self, point: ClockPoint) -> float:
        return self.workload.slowdown(point, BATCH, training=bool(self.workload.training))
