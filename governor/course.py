# SPDX-License-Identifier: Apache-2.0
"""The course of one tuning, a step per tick.

    proposing -> settling -> measuring -> proposing -> ... -> holding <-> cooling

In `proposing` the search thinks, in a thread of its own, so that no tick is late however slow the processor; after a
trial that broke the SLO the fastest point is held meanwhile, until the backlog is gone. In `cooling` something that
went wrong is waited out: after a broken objective at the fastest point, after heat at a cooler one, after clocks that
were ignored with no lease at all.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future

from .demand import Demand
from .guard import Verdict
from .measurement import Measurement
from .points import Best, Point, Proposal
from .reader import Snapshot
from .requests import LATER, Means, Requests
from .status import Phase
from .trial import HOPELESS, REQUEST_FAILED, TRAFFIC, Evidence, Feasible, Invalid, TrialRecord, Violated
from .trust import BLIND_S, SAFE_S
from .tuning import Tuning
from .window import board_of

LATER_S = 1.0
LATE_S = 3.0
"""Throttle events that show up so long after a trial belong to it: counters move every 2 s and are read each second."""
DRAIN_S = 60.0
"""How long the fastest point may take to work off a backlog before the next trial begins all the same."""

log = logging.getLogger("teg.governor")


class Course:
    """One tuning's way through the phases. Once `over` says why, the governor has to start over."""

    def __init__(self, means: Means, tuning: Tuning, demand: Demand) -> None:
        self.tuning = tuning
        self.over = ""
        self._config, self._hand, self._status = means.config, means.hand, means.status
        self._executor, self._clock = means.executor, means.clock
        self._requests = Requests(means, tuning)
        self._demand = demand
        self._proposal: Future[Proposal] | None = None
        self._trial: Measurement | None = None
        self._until_s = 0.0
        self._repeated = False
        self._throttles = 0
        """Throttle events counted by now."""
        self._ended: tuple[float, int] | None = None
        """When the last trial that measured something ended, and the throttle events counted by then."""
        self._too_hot = False
        """Whether more of them came to light soon after."""
        self._think()

    def tick(self, now: Snapshot) -> None:
        """One step of the phase it is in; without temperatures nothing new is tried."""
        board = board_of(now)
        self._throttles = board.throttle_events
        if not board.observe_only and self._blind(board.zones_age_s):
            return
        self._unlearn_if_heat_shows()
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

    def _measure(self, now: Snapshot) -> None:
        if self._trial is None:
            raise ValueError("no trial is under way")
        concluded = self._trial.tick(now)
        if concluded is not None:
            self._finish(*concluded)
        elif self._trial.measuring and self._status.phase is Phase.SETTLING:
            self._enter(Phase.MEASURING, self._config.trial_s)

    def _propose(self, now: Snapshot) -> None:
        """Wait for the search and for the backlog to go, then try what it proposes, or hold the best."""
        if self._proposal is None or not self._proposal.done():
            return
        if self._demand.waits(now.now_ns, 1.0) and self._clock() < self._until_s:
            return
        proposal = self._proposal.result()
        self._proposal = None
        if proposal.next is None:
            self._hold_best(proposal.best)
        else:
            self._status.best = proposal.best
            self._try(proposal.next)

    def _hold(self, now: Snapshot) -> None:
        """Keep the best point; step back to the fastest one when a window, or a hopeless wait, breaks the objective."""
        overloaded = self._demand.waits(now.now_ns, HOPELESS)
        best = self._status.best
        if self._clock() < self._until_s and not (overloaded and best is not None):
            return
        if self._requests.found_again():
            self.over = "knobs"
            return
        broken = self._judge() or overloaded
        worst = HOPELESS if overloaded else self._demand.share_of_limit
        self._demand.mark()
        if broken and best is not None:
            log.warning("the objective was broken at %s: back to the fastest point", self._status.point)
            latency_s = worst * next(iter(self._demand.slos.values())).limit_s
            lesson = TrialRecord(self._status.point, Violated(), best.energy_j, latency_s)
            self.tuning.finish(lesson, self._clock())
            self._cool_at(self.tuning.fastest())
        else:
            self._enter(Phase.HOLDING, self._config.slo_window_s)

    def _cool(self, now: Snapshot) -> None:
        fastest = self.tuning.fastest()
        if self._hand.point is not None and self._status.point != fastest and self._demand.waits(now.now_ns, HOPELESS):
            self._requests.hold(fastest)
        if self._clock() >= self._until_s:
            self._go_on()

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

    def _hold_best(self, best: Best | None) -> None:
        self._status.best, self._status.nothing_to_tune = best, not self.tuning.knobs
        point = best.point if best else self.tuning.fastest()
        if best is None:
            self._requests.hold(point)
        elif (reason := self._requests.attempt(point)) is not None:
            self._not_held(reason)
            return
        else:
            self._requests.followed()
        self.tuning.history.note("hold", self._clock(), point=point, feasible=best is not None)
        self._demand.mark()
        self._enter(Phase.HOLDING, self._config.slo_window_s)

    def _finish(self, record: TrialRecord, evidence: Evidence | None = None) -> None:
        """Write the trial down, learn from it, go on; an invalid one is repeated once."""
        self.tuning.finish(record, self._clock(), evidence)
        reason = record.outcome.reason if isinstance(record.outcome, Invalid) else ""
        self._ended = None if reason else (self._clock(), self._throttles)
        if not reason:
            self._requests.followed()
        elif reason not in TRAFFIC:
            self._status.fault(reason, f"trial at {record.point}")
        self._repeated = bool(reason) and not self._repeated and record.point.keys() == self.tuning.knobs.keys()
        if self._repeated:
            self._plan(record.point)
        if reason == "throttled":
            self._cool_at(self.tuning.cooler(record.point))
        elif reason in REQUEST_FAILED and self._requests.enough(reason):
            self._give_up(reason)
        else:
            if not isinstance(record.outcome, Feasible) and reason != "blind":
                self._requests.hold(self.tuning.fastest())
            self._go_on()

    def _unlearn_if_heat_shows(self) -> None:
        """Throttle signs are read once a second and counters move in batches: what shows so late was in the trial."""
        if self._ended is not None:
            ended_s, throttles = self._ended
            self._too_hot |= self._throttles > throttles
            if self._too_hot or self._clock() - ended_s >= LATE_S:
                self._ended = None
        thinking = self._proposal is not None and not self._proposal.done()
        if not self._too_hot or thinking:
            return
        self._too_hot = False
        record = self.tuning.retract("throttled", self._clock())
        self._status.fault("throttled", f"trial at {record.point}, after its end")
        if self._status.phase in (Phase.PROPOSING, Phase.HOLDING):
            self._plan(record.point)
            self._cool_at(self.tuning.cooler(record.point))

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

    def _give_up(self, reason: str) -> None:
        self._requests.give_up(reason)
        self._enter(Phase.COOLING, self._config.cooldown_s)

    def _not_held(self, reason: str) -> None:
        """The best point could not be had; it is asked for again after the cool-down."""
        if reason == LATER:
            self._enter(Phase.COOLING, self._config.cooldown_s)
            return
        self._status.fault(reason, f"the best point cannot be held: {self._status.best}")
        if self._requests.enough(reason):
            self._give_up(reason)
        else:
            self._cool_at(self.tuning.fastest())

    def _cool_at(self, point: Point) -> None:
        self._requests.hold(point)
        self._enter(Phase.COOLING, self._config.cooldown_s)

    def _go_on(self) -> None:
        """Try what is to be repeated, else let the search think."""
        if self._proposal is None:
            self._think()
        else:
            self._enter(Phase.PROPOSING, DRAIN_S)

    def _plan(self, point: Point) -> None:
        """Try this point next."""
        self._proposal = Future()
        self._proposal.set_result(Proposal(point, self._status.best))

    def _think(self) -> None:
        self._proposal = self._executor.submit(self.tuning.propose, self._demand.arrivals_s)
        self._enter(Phase.PROPOSING, DRAIN_S)

    def _judge(self) -> bool:
        """Count the verdicts on the window; whether any promise was broken."""
        verdicts = self._demand.verdicts()
        for name, verdict in verdicts.items():
            model = self.tuning.instances[name].model
            self._status.windows[model, verdict.value] += 1
            if (latency_s := self._demand.traffic[name].quantile_s) is not None:
                self._status.latency_s[model] = latency_s
        return Verdict.BROKEN in verdicts.values()

    def _enter(self, phase: Phase, for_s: float) -> None:
        self._status.phase, self._status.detail = phase, ""
        self._until_s = self._clock() + for_s
