# SPDX-License-Identifier: Apache-2.0
"""The course of one tuning, a step per tick.

    proposing -> settling -> measuring -> proposing -> ... -> holding <-> cooling

In `proposing` the search thinks, in a thread of its own, so that no tick is late however slow the processor. In
`cooling` something that went wrong is waited out: a trial that broke the objective, until a whole window has been kept
at the fastest point; a broken hold; heat, at a cooler point; clocks that were ignored, with no lease at all; a search
that failed. While anything but the fastest point is kept, its windows are judged. A hold ends when the world has
changed for good: then the search is opened again, with what was learnt as its prior.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from telemetry.instance_page import InstanceInfo

from .afterheat import AfterHeat
from .demand import Demand
from .holding import hottest
from .keeping import DRAIN_S, Keeper
from .measurement import Measurement
from .points import Point
from .reader import Snapshot
from .requests import LATER, Means
from .status import Phase
from .trial import REQUEST_FAILED, TRAFFIC, Evidence, Feasible, Invalid, TrialRecord, Violated
from .trust import BLIND_S, SAFE_S
from .tuning import Tuning
from .window import board_of

LATER_S = 1.0

log = logging.getLogger("teg.governor")


class Course(Keeper):
    """One tuning's way through the phases. Once `over` says why, the governor has to start over."""

    def __init__(self, means: Means, tuning: Tuning, demand: Demand) -> None:
        super().__init__(means, tuning, demand)
        self._trial: Measurement | None = None
        self._repeated = False
        self._measured_s = 0.0
        """Since when the trial measures."""
        self._heat = AfterHeat()
        self._think()
        self._enter(Phase.PROPOSING, DRAIN_S)

    def tick(self, now: Snapshot) -> None:
        """One step of the phase it is in; without temperatures nothing new is tried."""
        board = board_of(now)
        beside = self._clock() - self._training.disturbed_s < self._config.slo_window_s
        exploring = bool(self._status.point) and not self.tuning.is_fastest(self._status.point)
        self._allowance.add(now.instances, self._clock(), exploring=exploring and not beside)
        self._watch.add(now.instances, max(self._hand.changed_s, self._training.disturbed_s))
        if not board.observe_only and self._blind(board.zones_age_s):
            return
        self._unlearn_if_heat_shows(board.throttle_events)
        phases = {
            Phase.SETTLING: self._measure,
            Phase.MEASURING: self._measure,
            Phase.PROPOSING: self._propose,
            Phase.HOLDING: self._hold,
            Phase.COOLING: self._cool,
        }
        phases[self._status.phase](now)

    def lose(self, why: str) -> None:
        """Write a trial in progress down as invalid."""
        if self._status.phase is not Phase.MEASURING:
            return
        try:
            self.tuning.finish(TrialRecord(self._status.point, Invalid(why)), self._clock())
        except OSError as error:
            # A full disk may be the very reason for starting over.
            log.warning("the lost trial could not be written down: %s", error)

    def succeed(self, instances: Mapping[str, InstanceInfo], now: Snapshot) -> None:
        """New versions of what is served: a trial under way is lost, all else goes on."""
        super().succeed(instances, now)
        if self._status.phase in (Phase.SETTLING, Phase.MEASURING):
            self._finish(TrialRecord(self._status.point, Invalid("version")))

    def end(self) -> None:
        """Keep what was measured, and close the history."""
        self._save()
        self.tuning.history.close()

    def _measure(self, now: Snapshot) -> None:
        if self._trial is None:
            raise ValueError("no trial is under way")
        concluded = self._trial.tick(now)
        if self._status.phase is Phase.MEASURING and self._training.disturbed_s > self._measured_s:
            concluded = TrialRecord(self._status.point, Invalid("training")), None
        if concluded is not None:
            if (celsius := hottest(board_of(now))) is not None:
                self._celsius.append(celsius)
            self._finish(*concluded)
        elif self._trial.measuring and self._status.phase is Phase.SETTLING:
            self._measured_s = self._clock()
            self._enter(Phase.MEASURING, self._config.trial_s)

    def _propose(self, now: Snapshot) -> None:
        """Wait for the search, for the backlog to go, and for a version on trial; then try or hold what it proposes."""
        if self._thoughts.busy:
            self._guard()
            return
        if now.rollout or (self._demand.waits(now.now_ns, 1.0) and self._clock() < self._until_s):
            return
        proposal = self._thoughts.take()
        if proposal is not None and proposal.strayed:
            self._status.fault("search", f"it proposed {proposal.strayed} points that the board does not offer")
        if proposal is None:
            self._enter(Phase.COOLING, self._config.cooldown_s)
        elif proposal.next is None:
            self._hold_best(proposal, now)
        elif proposal.best is not None and self._allowance.wait_s > 0 and not self.tuning.is_fastest(proposal.next):
            self._thoughts.put_back(proposal)
            self._hold_best(proposal, now)
        else:
            self._status.best, self._status.paused = proposal.best, False
            self._try(proposal.next)

    def _try(self, point: Point) -> None:
        reason = self._requests.attempt(point)
        if reason is None:
            limits, length_s = self.tuning.batch_limits(point), self._config.trial_s
            self._trial = Measurement(point, limits, self._hand, self._demand, self._clock, length_s)
            self._enter(Phase.SETTLING, length_s)
        elif reason == LATER:
            self._plan(point)
            self._enter(Phase.COOLING, LATER_S)
        else:
            self._finish(TrialRecord(point, Invalid(reason)))

    def _finish(self, record: TrialRecord, evidence: Evidence | None = None) -> None:
        """Write the trial down, learn from it, go on; an invalid one is repeated once."""
        if isinstance(record.outcome, Feasible) and evidence is not None and self._watch.broken:
            evidence = replace(evidence, broken=True)
            record = evidence.record(record.point)
        record = self.tuning.finish(record, self._clock(), evidence, self._load_hz)
        reason = record.outcome.reason if isinstance(record.outcome, Invalid) else ""
        self._heat.trial_ended(self._clock(), measured=not reason)
        if not reason:
            self._requests.followed()
        elif reason not in TRAFFIC or reason == "load":
            self._status.fault(reason, f"trial at {record.point}")
        self._repeated = bool(reason) and not self._repeated and record.point.keys() == self.tuning.knobs.keys()
        if self._repeated:
            self._plan(record.point)
        if reason == "throttled":
            self._cool_at(self.tuning.cooler(record.point), self._config.cooldown_s)
        elif reason in REQUEST_FAILED and self._requests.enough(reason):
            self._give_up(reason)
        elif isinstance(record.outcome, Violated):
            self._status.fault("objective", f"broken at {record.point}, in a trial")
            self._blamed_s = self._clock() - record.window_s
            self._think()
            self._step_back()
        elif reason == "load":
            # No point's fault, but one that breaks windows all the same.
            self._step_back()
        else:
            if not isinstance(record.outcome, Feasible) and reason != "blind":
                self._requests.hold(self.tuning.fastest())
            self._go_on()

    def _unlearn_if_heat_shows(self, throttles: int) -> None:
        """Throttle signs are read once a second and counters move in batches: what shows so late was in the trial."""
        self._heat.look(self._clock(), throttles)
        if self._thoughts.busy or not self._heat.shows():
            return
        self._blamed_s = None
        record = self.tuning.retract("throttled", self._clock())
        self._status.fault("throttled", f"trial at {record.point}, after its end")
        if self._status.phase in (Phase.PROPOSING, Phase.HOLDING):
            self._plan(record.point)
            self._cool_at(self.tuning.cooler(record.point), self._config.cooldown_s)

    def _blind(self, age_s: float) -> bool:
        """Whether no temperature can be read: a trial is lost, the point is kept, and after a while given back."""
        status = self._status
        if age_s <= BLIND_S:
            status.alarms.pop("blind", None)
            return False
        if "blind" not in status.alarms:
            status.alarms["blind"] = "no temperature can be read; nothing is tried until one can"
            if status.phase in (Phase.SETTLING, Phase.MEASURING):
                self._finish(TrialRecord(status.point, Invalid("blind")))
            else:
                status.fault("blind", status.alarms["blind"])
        if age_s > SAFE_S and self._hand.point is not None:
            self._hand.release()
            status.point = {}
            if status.phase is Phase.HOLDING:
                self._enter(Phase.COOLING, 0.0)
        return True
