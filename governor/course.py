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

from boards.clocks import ClockPoint

from .demand import Demand
from .guard import Verdict
from .points import Best, Point, Proposal
from .reader import Snapshot
from .requests import Means, Requests
from .status import Phase
from .trial import HOPELESS, REQUEST_FAILED, TRAFFIC, Evidence, Feasible, Invalid, TrialRecord, Violated
from .trust import BLIND_S, SAFE_S
from .tuning import Tuning
from .window import Window, board_of

SETTLE_S = 0.6
"""After a change of clocks: the INA3221's running average of 430 ms, and the slowest clock's settling (EMC)."""

SETTLE_MAX_S = 10.0
"""Requests that arrived before the change must be answered by then."""

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
        self._window: Window | None = None
        self._until_s = 0.0
        self._repeated = False
        self._think()

    def tick(self, now: Snapshot) -> None:
        """One step of the phase it is in; without temperatures nothing new is tried."""
        if self._blind(board_of(now).zones_age_s):
            return
        phases = {
            Phase.SETTLING: self._settle,
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

    def _settle(self, now: Snapshot) -> None:
        """Wait until clocks and sensors settled and every request in flight arrived after the change."""
        old = self._demand.began_before(self._hand.changed_s)
        if self._clock() < self._until_s or (old and self._clock() < self._until_s + SETTLE_MAX_S):
            return
        if old:
            self._finish(TrialRecord(self._status.point, Invalid("backlog")))
            return
        self._demand.mark()
        self._window = Window(now, self._config.trial_s, self._hand.changed_s)
        self._enter(Phase.MEASURING, self._config.trial_s)

    def _measure(self, now: Snapshot) -> None:
        window = self._window or Window(now, self._config.trial_s, self._hand.changed_s)
        reason = window.add(now)
        if not self._hand.honoured(ClockPoint(*board_of(now).observed)):
            reason = reason or "clocks"
        if reason is not None:
            self._finish(TrialRecord(self._status.point, Invalid(reason), window_s=window.span_s))
            return
        # Hopeless is hopeless before the window ends, and however rough its joules, once something was served.
        overloaded = self._demand.waits(now.now_ns, HOPELESS) and self._demand.all_served
        if not overloaded and (self._clock() < self._until_s or (window.in_doubt and window.may_go_on)):
            return
        self._conclude(window, "window" if window.in_doubt and not overloaded else None)

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
        if (reason := self._requests.attempt(point)) is not None:
            self._finish(TrialRecord(point, Invalid(reason)))
        else:
            self._enter(Phase.SETTLING, SETTLE_S + self._requests.settle_s)

    def _hold_best(self, best: Best | None) -> None:
        self._status.best = best
        point = best.point if best else self.tuning.fastest()
        if best is None:
            self._requests.hold(point)
        elif (reason := self._requests.attempt(point)) is not None:
            self._status.fault(reason, f"the best point cannot be held: {point}")
            self._wait_out(reason)
            return
        self.tuning.history.note("hold", self._clock(), point=point, feasible=best is not None)
        self._demand.mark()
        self._enter(Phase.HOLDING, self._config.slo_window_s)

    def _finish(self, record: TrialRecord, evidence: Evidence | None = None) -> None:
        """Write the trial down, learn from it, go on; an invalid one is repeated once."""
        self.tuning.finish(record, self._clock(), evidence)
        reason = record.outcome.reason if isinstance(record.outcome, Invalid) else ""
        if reason and reason not in TRAFFIC:
            self._status.fault(reason, f"trial at {record.point}")
        self._repeated = bool(reason) and not self._repeated and record.point.keys() == self.tuning.knobs.keys()
        if self._repeated:
            self._proposal = Future()
            self._proposal.set_result(Proposal(record.point, self._status.best))
        if reason == "throttled":
            self._cool_at(self.tuning.cooler(record.point))
        elif reason in REQUEST_FAILED and self._requests.enough(reason):
            self._give_up(reason)
        else:
            if not isinstance(record.outcome, Feasible) and reason != "blind":
                self._requests.hold(self.tuning.fastest())
            self._go_on()

    def _conclude(self, window: Window, reason: str | None) -> None:
        """Judge the window that has ended."""
        point, span_s = self._status.point, window.span_s
        self._requests.followed()
        if self._demand.changed(span_s):
            reason = "load"
            self._demand.forget()
        if reason is not None:
            self._finish(TrialRecord(point, Invalid(reason), window_s=span_s))
            return
        evidence = window.evidence(self._demand, self.tuning.batch_limits(point))
        record = evidence.record(point)
        self._finish(record, None if isinstance(record.outcome, Invalid) else evidence)

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

    def _wait_out(self, reason: str) -> None:
        """What cannot be held is tried again after the cool-down."""
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
