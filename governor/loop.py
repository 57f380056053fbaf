# SPDX-License-Identifier: Apache-2.0
"""The governor: one tick reads the pages, judges the SLO, moves the running trial on, renews the lease and the knobs.

    waiting -> proposing -> settling -> measuring -> proposing -> ... -> holding <-> cooling

In `proposing` the search thinks, in a thread of its own, so that no tick is late however slow the processor; after a
trial that broke the SLO the fastest point is held meanwhile, until the backlog is gone. In `cooling`, after the held
point broke the SLO, the fastest one is held for a set time.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from boards.clocks import ClockPoint
from telemetry.instance_page import Knobs

from .config import Config
from .errors import ClockdUnavailable, GovernorError, LeaseLost, LeaseRefused
from .guard import Slo, Verdict, judge
from .hand import Clocks, Hand
from .reader import InstanceView, Snapshot
from .search import Best
from .status import Phase, Status
from .traffic import Traffic
from .trial import HOPELESS, Evidence, Feasible, Invalid, Tick, TrialRecord, Violated, conclude
from .tuning import Proposal, Tuning

SETTLE_S = 0.6
"""After a change of clocks: the INA3221's running average of 430 ms, and the slowest clock's settling (EMC)."""

SETTLE_MAX_S = 10.0
"""Requests that arrived before the change must be answered by then."""

DRAIN_S = 60.0
"""How long the fastest point may take to work off a backlog before the next trial begins all the same."""

RETRY_S = 1.0
LOAD_CHANGE = 0.2
ENOUGH_ARRIVALS = 30
"""Before as many arrivals the offered load is not known well enough to say what a request costs."""

log = logging.getLogger("teg.governor")


class Pages(Protocol):
    """What the governor sees of the device, and where it puts batch knobs; `PageReader` on a real one."""

    def read(self) -> Snapshot:
        """What the pages say now."""
        ...

    def write_knobs(self, instance: str, knobs: Knobs, ttl_s: float) -> None:
        """Set one instance's knobs for `ttl_s` seconds; an instance that has gone is passed over."""
        ...

    def close(self) -> None:
        """Let go of the pages."""
        ...


class Governor:
    """Tunes what the run directory's pages show. `tick` never blocks; `executor` is where the search thinks."""

    def __init__(
        self,
        config: Config,
        clocks: Clocks,
        reader: Pages,
        clock: Callable[[], float] = time.monotonic,
        executor: Executor | None = None,
    ) -> None:
        self.config = config
        self.status = Status()
        self._clocks = clocks
        self._reader = reader
        self._clock = clock
        self._hand = Hand(clocks, reader.write_knobs, config.lease_ttl_s, clock)
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="search")
        self._proposal: Future[Proposal] | None = None
        self._tuning: Tuning | None = None
        self._traffic: dict[str, Traffic] = {}
        self._ticks: list[Tick] = []
        self._until_s = 0.0
        self._throttle_events = 0
        self._repeated = False

    def run(self, stop: threading.Event, on_tick: Callable[[Status], None] = lambda status: None) -> None:
        """Tick until `stop` is set, then give clocks and knobs back."""
        try:
            while not stop.wait(self.config.tick_s):
                self.tick()
                on_tick(self.status)
        finally:
            self.close()

    def tick(self) -> None:
        """One step. A fault is counted, the trial it fell into is lost, and the governor starts over by itself."""
        try:
            self._step(self._reader.read())
        except LeaseRefused as error:
            self.status.refusals[error.reason] += 1
            self._start_over("refused", error)
        except (ClockdUnavailable, LeaseLost) as error:
            self._start_over("clockd", error)
        except Exception as error:
            # The tick is a border: whatever breaks inside must not end the governor, and must be seen.
            log.exception("tick failed")
            self._start_over("tick", error)
        self.status.leased = self._hand.point is not None

    def close(self) -> None:
        """Give clocks and knobs back and close what is open."""
        try:
            self._hand.release()
        except GovernorError as error:
            log.warning("the lease could not be released and will expire: %s", error)
        self.status.leased = False
        self._drop_tuning()
        self._executor.shutdown()
        self._reader.close()

    def _step(self, now: Snapshot) -> None:
        for view in now.instances:
            if (slo := self._slo(view)) is not None:
                self._traffic.setdefault(view.info.instance, Traffic(slo)).add(view)
        present = {view.info.instance for view in now.instances}
        if self._tuning is None:
            self._traffic = {name: traffic for name, traffic in self._traffic.items() if name in present}
            self._begin(now)
            return
        self._hand.keep()
        if now.board is None or present != set(self._tuning.instances):
            self._start_over("instances" if now.board else "clockd")
            return
        phases = {
            Phase.SETTLING: self._settle,
            Phase.MEASURING: self._measure,
            Phase.PROPOSING: self._propose,
            Phase.HOLDING: self._hold,
            Phase.COOLING: self._cool,
        }
        phases[self.status.phase](self._tuning, now)

    def _begin(self, now: Snapshot) -> None:
        """Start once clockd, an instance with an objective, and requests are there."""
        if self._clock() < self._until_s:
            return
        self._until_s = self._clock() + RETRY_S
        if now.board is None:
            self.status.detail = "for clockd"
        elif not self._traffic:
            self.status.detail = "for a model with an objective (slo_ms)"
        elif any(len(traffic.arrivals_s) < ENOUGH_ARRIVALS for traffic in self._traffic.values()):
            self.status.detail = f"for {ENOUGH_ARRIVALS} requests"
        else:
            slos = {name: traffic.slo for name, traffic in self._traffic.items()}
            self._tuning = Tuning(self.config, self._clocks.table(), now, slos)
            # should it have to start over, the trials made from here on are worth keeping
            self.config = replace(self.config, fresh=False)
            self.status.trials = self._tuning.trials
            self.status.slos = {self._tuning.instances[name].model: slo for name, slo in slos.items()}
            self._think(self._tuning)

    def _settle(self, tuning: Tuning, now: Snapshot) -> None:
        """Wait until clocks and sensors settled and every request in flight arrived after the change."""
        oldest = [traffic.oldest_arrival_ns / 1e9 for traffic in self._traffic.values() if traffic.in_flight]
        old = any(0 < arrival_s < self._hand.changed_s for arrival_s in oldest)
        if self._clock() < self._until_s or (old and self._clock() < self._until_s + SETTLE_MAX_S):
            return
        if old:
            self._finish(tuning, TrialRecord(self.status.point, Invalid("backlog")))
            return
        self._mark()
        self._ticks = [counters(now)]
        self._throttle_events = now.board.throttle_events if now.board else 0
        self._enter(Phase.MEASURING, self.config.trial_s)

    def _measure(self, tuning: Tuning, now: Snapshot) -> None:
        if (reason := self._spoiled(now)) is not None:
            self._finish(tuning, TrialRecord(self.status.point, Invalid(reason)))
            return
        if (tick := counters(now)).at_s > self._ticks[-1].at_s:
            self._ticks.append(tick)
        # Hopeless is hopeless before the window ends, once something was served to learn from.
        overloaded = self._waits(now, HOPELESS) and all(traffic.latencies_s for traffic in self._traffic.values())
        if self._clock() < self._until_s and not overloaded:
            return
        self._conclude(tuning)

    def _propose(self, tuning: Tuning, now: Snapshot) -> None:
        """Wait for the search and for the backlog to go, then try what it proposes, or hold the best."""
        if self._proposal is None or not self._proposal.done():
            return
        if self._waits(now, 1.0) and self._clock() < self._until_s:
            return
        proposal = self._proposal.result()
        self._proposal = None
        if proposal.next is None:
            self._hold_best(tuning, proposal.best)
        else:
            self.status.best = proposal.best
            self._try(tuning, proposal.next)

    def _hold(self, tuning: Tuning, now: Snapshot) -> None:
        """Keep the best point; step back to the fastest one when a window, or a hopeless wait, breaks the objective."""
        overloaded = self._waits(now, HOPELESS)
        if self._clock() < self._until_s and not (overloaded and self.status.best is not None):
            return
        broken = Verdict.BROKEN in self._judge(tuning) or overloaded
        worst = HOPELESS if overloaded else max(traffic.share_of_limit for traffic in self._traffic.values())
        self._mark()
        if broken and self.status.best is not None:
            log.warning("the objective was broken at %s: back to the fastest point", self.status.point)
            latency_s = worst * next(iter(self._traffic.values())).slo.limit_s
            lesson = TrialRecord(self.status.point, Violated(), self.status.best.energy_j, latency_s)
            tuning.finish(lesson, self._clock())
            self._move(tuning, tuning.fastest())
            self._enter(Phase.COOLING, self.config.cooldown_s)
        else:
            self._enter(Phase.HOLDING, self.config.slo_window_s)

    def _cool(self, tuning: Tuning, now: Snapshot) -> None:
        if self._clock() >= self._until_s:
            self._think(tuning)

    def _think(self, tuning: Tuning) -> None:
        arrivals_s = {name: traffic.arrivals_s for name, traffic in self._traffic.items()}
        self._proposal = self._executor.submit(tuning.propose, arrivals_s)
        self._enter(Phase.PROPOSING, DRAIN_S)

    def _try(self, tuning: Tuning, point: dict[str, float]) -> None:
        self._enter(Phase.SETTLING, SETTLE_S + self._move(tuning, point))

    def _hold_best(self, tuning: Tuning, best: Best | None) -> None:
        self.status.best = best
        point = best.point if best else tuning.fastest()
        self._move(tuning, point)
        tuning.history.note("hold", self._clock(), point=point, feasible=best is not None)
        self._mark()
        self._enter(Phase.HOLDING, self.config.slo_window_s)

    def _finish(self, tuning: Tuning, record: TrialRecord, evidence: Evidence | None = None) -> None:
        """Write the trial down, learn from it, go on; an invalid one is repeated once."""
        tuning.finish(record, self._clock(), evidence)
        self._repeated = isinstance(record.outcome, Invalid) and not self._repeated
        if not isinstance(record.outcome, Feasible):
            self._move(tuning, tuning.fastest())
        if self._repeated:
            self._proposal = Future()
            self._proposal.set_result(Proposal(record.point, self.status.best))
            self._enter(Phase.PROPOSING, DRAIN_S)
        else:
            self._think(tuning)

    def _conclude(self, tuning: Tuning) -> None:
        """Judge the window that has ended."""
        span_s = self._ticks[-1].at_s - self._ticks[0].at_s
        limits = tuning.batch_limits(self.status.point)
        if any(load_changed(traffic.rate_hz, traffic.seen, span_s) for traffic in self._traffic.values()):
            for traffic in self._traffic.values():
                traffic.forget()
            self._finish(tuning, TrialRecord(self.status.point, Invalid("load"), window_s=span_s))
            return
        failed = sum(traffic.failed for traffic in self._traffic.values())
        windows = {name: traffic.window(limits[name]) for name, traffic in self._traffic.items()}
        record = conclude(self.status.point, self._ticks, list(windows.values()), failed)
        evidence = None if isinstance(record.outcome, Invalid) else Evidence(tuple(self._ticks), windows, failed)
        self._finish(tuning, record, evidence)

    def _spoiled(self, now: Snapshot) -> str | None:
        """Why the running trial cannot be trusted, None if it can."""
        if now.board is None:
            return "clockd"
        if now.board.throttle_events > self._throttle_events:
            return "throttled"
        return None if self._hand.honoured(ClockPoint(*now.board.observed)) else "clocks"

    def _judge(self, tuning: Tuning) -> list[Verdict]:
        verdicts = []
        for name, traffic in self._traffic.items():
            verdict = judge(traffic.latencies_s, traffic.failed, traffic.slo)
            model = tuning.instances[name].model
            self.status.windows[model, verdict.value] += 1
            if (latency_s := traffic.quantile_s) is not None:
                self.status.latency_s[model] = latency_s
            verdicts.append(verdict)
        return verdicts

    def _waits(self, now: Snapshot, limits: float) -> bool:
        """Whether some request has waited for more than so many times its limit."""
        return any(traffic.waited_s(now.now_ns) > limits * traffic.slo.limit_s for traffic in self._traffic.values())

    def _move(self, tuning: Tuning, point: dict[str, float]) -> float:
        self.status.point = point
        return self._hand.hold(tuning.clocks(point), tuning.batch_limits(point))

    def _mark(self) -> None:
        for traffic in self._traffic.values():
            traffic.mark()

    def _slo(self, view: InstanceView) -> Slo | None:
        limit_s = self.config.slo_s or view.info.slo_s
        quantile = self.config.slo_quantile or view.info.slo_quantile
        return Slo(quantile, limit_s, self.config.slo_window_s) if limit_s else None

    def _enter(self, phase: Phase, for_s: float) -> None:
        self.status.phase, self.status.detail = phase, ""
        self._until_s = self._clock() + for_s

    def _start_over(self, why: str, error: Exception | None = None) -> None:
        """Drop everything and wait for things to come back; a trial in progress is kept as invalid."""
        if error is not None:
            self.status.faults[why] += 1
            log.warning("%s: %s", why, error)
        if self._tuning and self.status.phase is Phase.MEASURING:
            self._lose_trial(self._tuning, why)
        self._drop_tuning()
        self._proposal, self._repeated = None, False
        self._hand.drop()
        self._traffic = {}
        self._enter(Phase.WAITING, RETRY_S)
        self.status.detail = f"after {why}"

    def _lose_trial(self, tuning: Tuning, why: str) -> None:
        try:
            tuning.finish(TrialRecord(self.status.point, Invalid(why)), self._clock())
        except OSError as error:
            # A full disk may be the very reason for starting over.
            log.warning("the lost trial could not be written down: %s", error)

    def _drop_tuning(self) -> None:
        if self._tuning:
            self._tuning.history.close()
            self._tuning = None


def counters(now: Snapshot) -> Tick:
    """Energy, busy time and requests of the whole board at one moment; `ValueError` without a board."""
    if now.board is None:
        raise ValueError("no board, no counters")
    busy_ns = sum(view.busy_ns for view in now.instances)
    requests = sum(view.requests for view in now.instances)
    return Tick(now.board.sampled_ns / 1e9, now.board.energy_j, busy_ns / 1e9, requests)


def load_changed(usual_hz: float, seen: int, span_s: float) -> bool:
    """Whether the load differs by more than a fifth, and by more than Poisson luck (four deviations) explains."""
    usual = usual_hz * span_s
    return abs(seen - usual) > max(LOAD_CHANGE * usual, 4.0 * math.sqrt(usual))
