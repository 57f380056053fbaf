# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning beside what is served: whether it may run, how much of the time, and at which point it has room.

The trainer's notice says what it wants. What requests take alone and how long training cannot be interrupted are
measured; `predictor` says from that whether objectives are kept, windows of requests whether that was right. Nothing
here needs a board: without other places to look for room in, the point in force is the only one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial

from predictor.admission import Admit, Decision, Job, Load, Objective, Refuse
from predictor.pacing import Duty, Window
from predictor.room import Place
from telemetry.trainer_page import TrainerLimits

from .beside import Beside, Heard
from .draw import Draw
from .foresight import Foresight, Found
from .guard import Slo
from .operations import Operations
from .points import Point
from .quiet import ENOUGH, Quiet
from .reader import Snapshot, TrainerView
from .spots import Spot
from .training_status import UNASKED, TrainingStatus

TTL_S, EVERY_S = 2.0, 0.25
"""How long limits last, and how often they are written again."""
QUIET_S = 10.0
"""A model that is asked so seldom that enough batches take longer is judged by those there were."""
AGAIN_S, REFUSED_S = 20.0, 30.0
"""When a decision, and a refusal, is thought over."""
RAMP_S = 20.0
"""What a job loses because its duty begins low: kept of its deadline, or a quarter of that if it is short."""
PATIENCE_S = 10.0
"""A job that does not want to train for so long gives its place up."""
THINKING, MOVING = "measuring what requests take alone", "making room"


class Training:
    """Decides for one job after another; what the predictor has learnt stays. `tick` never blocks."""

    def __init__(
        self,
        write: Callable[[TrainerLimits, float], None],
        executor: Executor,
        clock: Callable[[], float],
        fault: Callable[[str, str], None],
    ) -> None:
        self.standing = TrainingStatus()
        self.disturbed_s = -math.inf
        """When training last had the device."""
        self._write, self._clock, self._fault = write, clock, fault
        self._beside, self._foresight = Beside(), Foresight(executor, fault)
        self.quiet = Quiet()
        """What is known of serving alone."""
        self._operations, self._draw = Operations(), Draw()
        self._clocks: Hashable = None
        self._from_s = self._written_s = self._wanted_s = -math.inf
        """Since when these clocks are in force; when limits were last written; when the job last wanted to train."""
        self._heard_at: tuple[Hashable, ...] = ()
        """The clocks at which requests alone were waited for long enough."""
        self._job = ""
        self._decision: Decision | None = None
        self._room: Spot | None = None
        self._duty: Duty | None = None
        self._again_s = -math.inf
        self._asked_step_s, self._asked_measured = 0.0, 0
        """One step as it was known when a decision was thought over last, and how well operations were."""
        self._pace = (math.inf, 0)
        """When a decision was thought over last, and the steps that were left."""

    @property
    def room(self) -> Point | None:
        """Where the job is to run, None if it is to run where the governor is."""
        return self._room.point if self._room else None

    @property
    def under_way(self) -> bool:
        """Whether a job may train now, or is about to."""
        return self.standing.phase in ("thinking", "admitted", "paced")

    def tick(
        self,
        now: Snapshot,
        slos: Mapping[str, Slo],
        held: str = "",
        clocks: Hashable = None,
        spots: Callable[[], Sequence[Spot]] = tuple,
    ) -> TrainerLimits:
        """One look; what training may take.

        `held` says why nothing may train now; `clocks` names those in force; `spots` are the points where there may be
        room, the present one first.
        """
        if clocks != self._clocks:
            self._clocks, self._from_s = clocks, self._clock()
            self._beside.restart()
        self._see(now.trainer)
        self._draw.see(now.board, now.trainer, clocks)
        self.quiet.forget({view.info.instance for view in now.instances})
        self.quiet.add(now.instances, clocks, max(self._from_s, self.disturbed_s))
        if (found := self._foresight.take()) is not None:
            self._take(found)
        known = self._foresight.error
        self.standing.error_ratio, self.standing.held_ratio = known.mape, known.held_share
        phase, limits = self._decided(now, slos, held, spots)
        self._say(phase, limits)
        return limits

    def leave(self) -> None:
        """Nothing is governed any more: no point is any job's place, and what was decided is thought over."""
        self._foresight.drop()
        self._room = self._decision = None
        self._again_s = -math.inf

    def no_room(self, why: str) -> None:
        """The place that was found cannot be had."""
        self._room, self._decision = None, Refuse(f"no room: {why}")
        self._again_s = self._clock() + REFUSED_S

    def _forget(self, job: str) -> None:
        """Another job, or none."""
        self._job = job
        self._operations.forget()
        self._foresight.drop()
        self._draw.begin(None)
        self._decision = self._room = self._duty = None
        self._again_s = -math.inf
        self._pace, self._asked_step_s, self._asked_measured = (math.inf, 0), 0.0, 0

    def _see(self, trainer: TrainerView | None) -> None:
        """Take in what the trainer did and wants."""
        standing, before, now_s = self.standing, self.standing.trainer, self._clock()
        standing.trainer = trainer
        if trainer is not None:
            wants = trainer.notice.wants
            if trainer.busy_ns != (before.busy_ns if before else 0) or (wants and standing.limits.duty > 0):
                self.disturbed_s = now_s
            if wants:
                self._wanted_s = now_s
                if trainer.notice.job != self._job:
                    self._forget(trainer.notice.job)
            self._operations.see(trainer)
        if self._job and now_s - self._wanted_s > PATIENCE_S:
            self._forget("")
        standing.longest_s = self._operations.longest_s

    def _decided(
        self, now: Snapshot, slos: Mapping[str, Slo], held: str, spots: Callable[[], Sequence[Spot]]
    ) -> tuple[str, TrainerLimits]:
        """The phase, and what training may take."""
        if not self.standing.notice.wants:
            self._beside.restart()
            return "idle", _hold(UNASKED)
        if held:
            self._beside.restart()
            return "held", _hold(held)
        trained = self._duty is not None and self._duty.now > 0
        heard = self._beside.add(now.instances, slos, now.now_ns, trained=trained)
        if heard is not None:
            self._learn(heard, slos, trained=trained)
        if (not self._asked_step_s and self.standing.notice.step_s) or self._operations.measured > self._asked_measured:
            self._again_s = -math.inf  # only now it is known how long the job takes, or what requests wait for
        if not self._foresight.busy and self._clock() >= self._again_s:
            self._think(now, slos, spots)
        if self._room is not None and self._room.clocks != self._clocks:
            return "thinking", _hold(MOVING)
        if self._decision is None:
            return "thinking", _hold(THINKING)
        if isinstance(self._decision, Refuse) or self._duty is None:
            return "refused", _hold(getattr(self._decision, "reason", THINKING))
        limits = self._duty.limits
        phase = "refused" if self._duty.refused else "admitted" if isinstance(self._decision, Admit) else "paced"
        return phase, TrainerLimits(limits.duty, limits.slice_s, limits.reason)

    def _learn(self, heard: Heard, slos: Mapping[str, Slo], *, trained: bool) -> None:
        """A window beside training, or without it, is over: the loop and the predictor follow it."""
        seen = {name: self.quiet.asked(name, self._clocks, arrivals_s) for name, arrivals_s in heard.arrivals_s.items()}
        training = None
        if self._duty is not None:
            training = self._operations.slices(self._duty.now, self._duty.slice_s) if trained else None
            asked = partial(self.quiet.serving, clocks=self._clocks)
            alone = self._foresight.late_alone(asked, heard, slos) if trained else 0.0
            self._duty = self._duty.after(Window(heard.worst, alone), self._clock())
            if heard.worst > 1 >= alone and trained:
                self._fault("training", f"the objective was broken beside job {self._job}: training gets less")
        known = training is None or training.stretches_s
        for name, serving in seen.items():
            if serving is not None and known:
                told = slos[name].quantile, heard.latency_s[name], len(serving.arrivals_s)
                self._foresight.learn(serving, training, *told)

    def _think(self, now: Snapshot, slos: Mapping[str, Slo], spots: Callable[[], Sequence[Spot]]) -> None:
        """Let the predictor say where there is room, once it is known what requests take alone."""
        names = [view.info.instance for view in now.instances if view.info.instance in slos]
        if self._clock() - max(self._from_s, self.disturbed_s) >= QUIET_S:
            self._heard_at = (self._clocks,)
        seldom = any(self.quiet.batches(name, self._clocks) < ENOUGH for name in names)
        if seldom and self._heard_at != (self._clocks,):
            return
        found = [self._place(names, slos, spot) for spot in self._candidates(spots)]
        places = [place for place in found if place is not None]
        notice = self.standing.notice
        left_s = notice.deadline_left_s
        job = Job(notice.step_s, notice.steps_left, left_s - min(RAMP_S, left_s / 4))
        if places:
            self._pace = self._clock(), notice.steps_left
            self._asked_step_s, self._asked_measured = notice.step_s, self._operations.measured
            self._foresight.ask(places, job)

    def _candidates(self, spots: Callable[[], Sequence[Spot]]) -> list[Spot | None]:
        """The present point, and others unless the job has found its place already."""
        present, *others = spots() or (None,)
        refused = self._duty is not None and self._duty.refused
        if self._room is not None and not (refused or isinstance(self._decision, Refuse)):
            return [present]
        return list(others) if others and (refused or self._late) else [present, *others]

    @property
    def _late(self) -> bool:
        """Whether the job, at the pace of late, misses its deadline."""
        notice, (since_s, left_then) = self.standing.notice, self._pace
        done = left_then - notice.steps_left
        span_s = self._clock() - since_s
        return span_s >= AGAIN_S / 2 and notice.steps_left * span_s > max(done, 0) * notice.deadline_left_s

    def _place(self, names: Sequence[str], slos: Mapping[str, Slo], spot: Spot | None) -> Place[Spot | None] | None:
        """What is known of a point; None where not every instance that is asked anything was timed there."""
        clocks = spot.clocks if spot else self._clocks
        limits = spot.batch_limits if spot else {}
        loads: list[Load] = []
        for name in names:
            serving = self.quiet.serving(name, clocks, limits.get(name))
            if serving is not None:
                loads.append((serving, Objective(slos[name].quantile, slos[name].limit_s)))
            elif clocks != self._clocks:
                return None
        slowdown = self.quiet.slowdown(names, clocks, self._clocks)
        watts = spot.serving_w if spot else 0.0
        training = self._operations.at_worst((objective.limit_s for _, objective in loads), slowdown)
        return Place(spot, loads, training, watts, self._draw.over_serving * watts)

    def _take(self, found: Found) -> None:
        now_s = self._clock()
        if isinstance(found, Refuse):
            # who has begun and will be late had better go on than stop
            goes_on = found.deadline_s is not None and self._duty is not None
            self._decision, self._again_s = self._decision if goes_on else found, now_s + REFUSED_S
            return
        decision, spot = found.decision, found.place.point
        self._draw.begin(spot)
        elsewhere = spot is not None and spot.clocks != self._clocks
        if elsewhere:
            self._room = spot
        if self._duty is None or elsewhere:
            self._duty = Duty.granted(decision)
            self._beside.restart()
        else:
            self._duty = self._duty.regranted(decision)
        self._decision, self._again_s = decision, now_s + AGAIN_S

    def _say(self, phase: str, limits: TrainerLimits) -> None:
        """Tell the trainer, at once where something changed."""
        now_s = self._clock()
        if limits != self.standing.limits or now_s - self._written_s >= EVERY_S:
            self._written_s = now_s
            self._write(limits, TTL_S)
        self.standing.phase, self.standing.limits = phase, limits


def _hold(reason: str) -> TrainerLimits:
    return TrainerLimits(0.0, 0.0, reason)
