# SPDX-License-Identifier: Apache-2.0
"""What a course does with points that are kept: hold the best, leave what breaks its promise, cool down, think again.

A hold ends when the world has changed for good: then the search is opened again, with what was learnt as its prior.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from telemetry.instance_page import InstanceInfo

from .allowance import Allowance
from .comeback import Comeback
from .demand import Demand
from .drift import Drift
from .holding import Finding, Holding
from .latency import HOPELESS
from .lessons import load_of, other_load
from .points import Point, Proposal
from .reader import Snapshot
from .requests import LATER, Means, Requests
from .setbacks import Backoff
from .spots import Spot, spots_of
from .status import Phase
from .thoughts import Thoughts
from .times_file import TimesFile
from .trial import Invalid, TrialRecord, Violated
from .tuning import Tuning
from .watch import Watch

DRAIN_S = 60.0
"""How long the fastest point may take to work off a backlog before the next trial begins all the same."""
INSISTS_S = 300.0
"""A search that had nothing to try but points that broke the objective is asked again after so long."""
LONGEST_S = 3600.0
"""The longest time between two openings of the search."""
WARM_S = 300.0
"""For how long training's heat may be in the board."""
GRACE_S = 1.0
"""What waits hopelessly beside training may do so for as long after that has been stopped."""
CLEAN = 2.0
"""Windows at the fastest point after a breach: wherever windows begin, one of them lies within whole, and is kept."""

log = logging.getLogger("teg.governor")


class Keeper:
    """Keeps points between the trials of one tuning. Once `over` says why, the governor has to start over."""

    def __init__(self, means: Means, tuning: Tuning, demand: Demand) -> None:
        self.tuning = tuning
        self.over = ""
        self._config, self._hand, self._status, self._clock = means.config, means.hand, means.status, means.clock
        self._training = means.training
        self._times_file = TimesFile(means.config.state_dir)
        self._training.quiet.recall(self._times_file.load(tuning.history.digest))
        self._requests = Requests(means, tuning)
        self._demand = demand
        self._thoughts = Thoughts(means.executor, means.status, means.clock)
        self._watch = Watch(demand.slos)
        self._reopenings = Backoff(means.config.reopen_s, LONGEST_S)
        self._reopen_s = self._until_s = 0.0
        """When the search may be opened again; when the phase is over."""
        self._allowance = Allowance(demand.slos, means.config.breach_share, means.clock())
        self._holding: Holding | None = None
        self._comeback: Comeback | None = None
        self._celsius: list[float] = []
        """The temperatures of the trials."""
        self._tried_hz: dict[str, float] = {}
        """The load by instance for which they chose the point held."""
        self._load_broke = False
        """Whether a hold broke because its load is no longer what it was."""
        self._blamed_s: float | None = None
        """When the trial began whose point is waited out because it broke the objective."""

    def _hold(self, now: Snapshot) -> None:
        """Keep the best point; step back to the fastest one when a window, or a hopeless wait, breaks the objective."""
        if self._holding is None:
            raise ValueError("nothing is held")
        if self._moved(now):
            return
        since_s = self._clock() - self._training.disturbed_s
        alone = self._training.disturbed_s < self._holding.began_s
        overloaded = since_s > GRACE_S and self._demand.waits(now.now_ns, HOPELESS) and self._status.best is not None
        plain = self._watch.broken and self._status.best is not None
        if not (self._holding.over or overloaded or plain):
            return
        if self._requests.found_again():
            self.over = "knobs"
            return
        away = self._status.point != self._home
        finding = self._holding.close(now, alone=alone and not away, cool=since_s > WARM_S and not away)
        self._count(finding)
        broken = (finding.broken and alone) or overloaded or plain
        if broken and away:
            self._training.no_room("its point broke the objective")
        elif broken and self._status.best is not None:
            self._broken(finding, HOPELESS if overloaded else finding.share_of_limit)
        elif finding.changed and self._may_reopen:
            self._reopen(finding.changed)
        elif self._status.paused and self._allowance.wait_s <= 0 and self._clock() >= self._until_s:
            self._go_on()

    def spots(self) -> list[Spot]:
        """Where a job may have room."""
        status = self._status
        return spots_of(self.tuning, status.point, status.best, sum(self._load_hz.values()), self._clock())

    def come_back(self) -> None:
        """What is served had died: keep the fastest point until it is well again."""
        self._comeback = Comeback(self._demand, self._config.slo_window_s, self._clock())
        self._cool_at(self.tuning.fastest(), 0.0)
        self._status.detail = "until what had died is well again"

    def succeed(self, instances: Mapping[str, InstanceInfo], now: Snapshot) -> None:
        """New versions of what is served: the point stays, the window under way begins again."""
        self.tuning.succeed(instances, self._clock())
        self._save()
        if self._holding is not None:
            self._holding.restart(now)

    @property
    def _home(self) -> Point:
        """The point that is held when no job needs another one."""
        best = self._status.best
        return dict(best.point) if best else self.tuning.fastest()

    def _moved(self, now: Snapshot) -> bool:
        """Go where a job has room, and back once it is over; whether the point was changed."""
        target = self._training.room or self._home
        if self._status.point == target or self._holding is None:
            return False
        reason = self._requests.attempt(target)
        if reason is not None:
            self._training.no_room(reason)
            if target == self._home:
                self._not_held(reason)
            return True
        self.tuning.history.note("hold", self._clock(), point=target, feasible=self._status.best is not None)
        self._holding.restart(now)
        self._status.detail = "" if target == self._home else "where a job has room"
        return True

    def _broken(self, finding: Finding, share_of_limit: float) -> None:
        """What was held broke the objective: back to the fastest point. More load than usual is not to blame on it."""
        point, best, load_hz = self._status.point, self._status.best, self._load_hz
        if finding.load_differs or finding.crowded or best is None:
            self._load_broke = True
            lesson = TrialRecord(point, Invalid("load"))
            self._status.fault("load", f"the objective was broken at {point} under another load")
        else:
            limit_s = self.tuning.slo_s
            lesson = TrialRecord(point, Violated(), best.energy_j, max(share_of_limit, 1.01) * limit_s)
            self._status.fault("objective", f"broken at {point}: back to the fastest point")
        self.tuning.finish(lesson, self._clock(), load_hz=load_hz)
        self._thoughts.drop()
        self._step_back(self._config.cooldown_s)

    def _cool(self, now: Snapshot) -> None:
        fastest = self.tuning.fastest()
        if self._hand.point is not None and self._status.point != fastest and self._demand.waits(now.now_ns, HOPELESS):
            self._requests.hold(fastest)
        self._guard()
        if self._comeback is not None and not self._comeback.over(self._clock()):
            return
        self._comeback = None
        if self._clock() < self._until_s or self._acquits():
            return
        self._load_broke &= other_load(self._tried_hz, self._demand.arrivals_s)
        if self._load_broke and self._may_reopen:
            self._reopen("load")
        else:
            self._go_on()
        self._load_broke = False

    def _guard(self) -> None:
        """Leave a point that plainly breaks its promise between trials."""
        point = self._status.point
        if self._watch.broken and self._hand.point is not None and not self.tuning.is_fastest(point):
            self.tuning.lessons.avoid(point, self._clock())
            self._status.fault("objective", f"broken at {point}, kept between trials")
            self._step_back()

    def _acquits(self) -> bool:
        """Take the blame for the last trial back if the load since its begin is not what it was.

        A trial that breaks the objective is over too soon to show it. True: not yet, the search thinks.
        """
        if self._blamed_s is None or not self._demand.changed(self._clock() - self._blamed_s):
            self._blamed_s = None
        elif self._thoughts.busy:
            return True
        else:
            self._blamed_s = None
            record = self.tuning.retract("load", self._clock())
            self._status.fault("load", f"trial at {record.point}, after its end")
            self._demand.forget()
            self._thoughts.drop()
        return False

    def _hold_best(self, proposal: Proposal, now: Snapshot) -> None:
        """Hold the best point for good, or until more may be tried."""
        status, best = self._status, proposal.best
        status.best, status.verdict, status.nothing_to_tune = best, proposal.verdict, not self.tuning.knobs
        status.paused = proposal.insists or proposal.next is not None
        if proposal.verdict:
            log.warning("%s", proposal.verdict)
        point = best.point if best else self.tuning.fastest()
        if best is None:
            self._requests.hold(point)
        elif (reason := self._requests.attempt(point)) is not None:
            self._not_held(reason)
            return
        else:
            self._requests.followed()
        self.tuning.history.note("hold", self._clock(), point=point, feasible=best is not None)
        self._save()
        self._tried_hz = self._tried_hz or self._load_hz
        celsius = sum(self._celsius) / len(self._celsius) if self._celsius else None
        drift = Drift(self._tried_hz, celsius)
        self._holding = Holding(self._demand, drift, self._clock, self._config.slo_window_s, now)
        self._enter(Phase.HOLDING, INSISTS_S if proposal.insists else 0.0)
        if status.paused:
            status.detail = "until more may be tried"

    def _not_held(self, reason: str) -> None:
        """The best point could not be had; it is asked for again after the cool-down."""
        if reason == LATER:
            self._enter(Phase.COOLING, self._config.cooldown_s)
            return
        self._status.fault(reason, f"the best point cannot be held: {self._status.best}")
        if self._requests.enough(reason):
            self._give_up(reason)
        else:
            self._cool_at(self.tuning.fastest(), self._config.cooldown_s)

    def _give_up(self, reason: str) -> None:
        self._requests.give_up(reason)
        self._enter(Phase.COOLING, self._config.cooldown_s)

    @property
    def _may_reopen(self) -> bool:
        return bool(self.tuning.knobs) and self._clock() >= self._reopen_s

    def _reopen(self, why: str) -> None:
        """Search again, from what was learnt; the point held stays meanwhile."""
        self._reopen_s = self._clock() + self._reopenings.next_s(self._clock())
        self.tuning.reopen(why, self._clock())
        self._celsius.clear()
        self._tried_hz = {}
        self._think()
        self._enter(Phase.PROPOSING, DRAIN_S)

    def _cool_at(self, point: Point, for_s: float) -> None:
        self._requests.hold(point)
        self._enter(Phase.COOLING, for_s)

    def _step_back(self, for_s: float = 0.0) -> None:
        """Keep the fastest point for so long, and until a whole window has been kept."""
        self._cool_at(self.tuning.fastest(), max(for_s, CLEAN * self._config.slo_window_s))

    def _go_on(self) -> None:
        """Try what is to be repeated, else let the search think."""
        if not self._thoughts.any:
            self._think()
        self._enter(Phase.PROPOSING, DRAIN_S)

    def _plan(self, point: Point) -> None:
        """Try this point next."""
        self._thoughts.plan(point, self._status.best)

    def _think(self) -> None:
        self._thoughts.begin(self.tuning.propose, self._demand.arrivals_s, self._clock())

    def _save(self) -> None:
        """Keep the surface for later tunings, and service times for later jobs; they do without if that fails."""
        try:
            self.tuning.save(self._demand.arrivals_s)
            self._times_file.save(self.tuning.history.digest, self._training.quiet.summary)
        except OSError as error:
            self._status.fault("surface", f"what was measured could not be kept: {error}")

    @property
    def _load_hz(self) -> dict[str, float]:
        return load_of(self._demand.arrivals_s)

    def _count(self, finding: Finding) -> None:
        """Count the verdicts on a window that was held."""
        for name, verdict in finding.verdicts.items():
            model = self.tuning.instances[name].model
            self._status.windows[model, verdict.value] += 1
            if (latency_s := finding.latency_s[name]) is not None:
                self._status.latency_s[model] = latency_s

    def _enter(self, phase: Phase, for_s: float) -> None:
        self._status.phase, self._status.detail = phase, ""
        self._until_s = self._clock() + for_s
