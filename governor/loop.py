# SPDX-License-Identifier: Apache-2.0
"""The governor: one tick reads the pages, renews the lease and the knobs, and takes the course one step further.

    waiting -> (a course: see `course`) -> waiting ...

It waits until clockd, a served model with an objective, and requests are there. Whatever breaks a course, it starts
over by itself; what it has learnt lies in the history.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from boards.clocks import ClockTable
from telemetry.board_page import BoardReading
from telemetry.instance_page import Knobs
from telemetry.trainer_page import TrainerLimits

from .config import Config
from .course import Course
from .demand import ENOUGH_ARRIVALS, Demand
from .errors import ClockdUnavailable, GovernorError, LeaseLost, LeaseRefused
from .hand import Clocks, Hand
from .points import MakeSearch, bayesian_search
from .presence import Presence
from .reader import Snapshot
from .requests import Means
from .setbacks import Backoff
from .status import Phase, Status
from .training import Training
from .tuning import Tuning

RETRY_S = 1.0

log = logging.getLogger("teg.governor")


class Pages(Protocol):
    """What the governor sees of the device, and where it puts batch knobs; `PageReader` on a real one."""

    def read(self) -> Snapshot:
        """What the pages say now."""
        ...

    def write_knobs(self, instance: str, knobs: Knobs, ttl_s: float) -> None:
        """Set one instance's knobs for `ttl_s` seconds; an instance that has gone is passed over."""
        ...

    def write_limits(self, limits: TrainerLimits, ttl_s: float) -> None:
        """Set the limits of training for `ttl_s` seconds; a trainer that has gone is passed over."""
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
        make_search: MakeSearch = bayesian_search,
    ) -> None:
        self.config = config
        self.status = Status()
        self._clocks = clocks
        self._reader = reader
        self._clock = clock
        self._make_search = make_search
        self._hand = Hand(clocks, reader.write_knobs, config.lease_ttl_s, clock)
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="search")
        self._training = Training(reader.write_limits, self._executor, clock, self.status.fault)
        self.status.training = self._training.standing
        self._course: Course | None = None
        self._demand = Demand(config)
        self._presence = Presence(self.status, clock)
        self._until_s = 0.0
        self._foreign = Backoff(config.cooldown_s)
        self._foreign_changes: int | None = None
        """As many as clockd had counted at the last look."""

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
            now = self._reader.read()
            self._presence.look(now)
            self._step(now)
            self._train(now)
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
        self._drop_course()
        self._executor.shutdown()
        self._reader.close()

    def _step(self, now: Snapshot) -> None:
        self._demand.add(now.instances)
        infos = {view.info.instance: view.info for view in now.instances}
        if self._changed_by_others(now.board):
            self._make_way()
        elif self._course is None:
            self._demand.keep(infos.keys())
            self._begin(now)
        elif not self._keep():
            return
        elif now.board is None:
            self._start_over("clockd")
        elif infos.keys() != (known := self._course.tuning.instances).keys():
            if self._presence.comes_back:
                # who starts it again needs the machine at once, not when the lease has expired
                self._hand.release()
            self._start_over("instances")
        elif any(replace(info, version=known[name].version) != known[name] for name, info in infos.items()):
            self._start_over("version")
        else:
            if infos != known:
                self._course.succeed(infos, now)
            self._course.tick(now)
            if self._course.over:
                self._start_over(self._course.over)

    def _train(self, now: Snapshot) -> None:
        """Say what training may take."""
        course = self._course
        why_not = self._presence.why_not_train(now, tuning=course is not None)
        self._training.tick(now, self._demand.slos, why_not, self._hand.point, course.spots if course else tuple)

    def _keep(self) -> bool:
        """Renew the lease; False if it was taken back because somebody else changed a clock."""
        try:
            self._hand.keep()
        except LeaseLost:
            if not self._changed_by_others(self._reader.read().board):
                raise
            self._make_way()
            return False
        return True

    def _begin(self, now: Snapshot) -> None:
        """Start once clockd, an instance with an objective, and requests are there."""
        if self._clock() < self._until_s:
            return
        self._until_s = self._clock() + RETRY_S
        if now.board is None:
            self.status.detail = "for clockd"
        elif not self._demand.traffic:
            self.status.detail = "for a model with an objective (slo_ms)"
        elif not self._demand.known:
            self.status.detail = f"for {ENOUGH_ARRIVALS} requests"
        else:
            self._set_out(now, now.board)

    def _set_out(self, now: Snapshot, board: BoardReading) -> None:
        """Begin a course with the clocks that the board offers now; of an observe-only board nothing can be tuned."""
        slos = self._demand.slos
        table = ClockTable() if board.observe_only else self._clocks.table()
        left_out = {"batch": "no_power"} if board.observe_only else {}
        tuning = Tuning(self.config, table, now, slos, self._make_search, left_out)
        if tuning.history.damaged:
            self.status.fault("history", f"{tuning.history.damaged} damaged records kept aside")
        # should it have to start over, the trials made from here on are worth keeping
        self.config = replace(self.config, fresh=False)
        self.status.trials, self.status.left_out = tuning.trials, dict(tuning.left_out)
        self.status.slos = {tuning.instances[name].model: slo for name, slo in slos.items()}
        self.status.alarms.pop("foreign", None)
        self.status.verdict, self.status.paused = "", False
        things = self.config, self._clocks, self._hand, self.status, self._executor, self._clock, self._training
        self._course = Course(Means(*things), tuning, self._demand)
        if self._presence.comes_back:
            self._presence.comes_back = False
            self._course.come_back()

    def _changed_by_others(self, board: BoardReading | None) -> bool:
        """Whether clockd has seen somebody else change a clock that we held since the last look."""
        if board is None:
            return False
        before, self._foreign_changes = self._foreign_changes, board.foreign_changes
        return self._course is not None and before is not None and board.foreign_changes > before

    def _make_way(self) -> None:
        """Leave the clocks to whoever changed them, for longer each time; then see what is offered."""
        wait_s = self._foreign.next_s(self._clock())
        text = f"somebody else changed a clock; tuning begins again in {wait_s:.0f} s"
        self.status.fault("foreign", text)
        self.status.alarms["foreign"] = text
        self._start_over("foreign", wait_s=wait_s)

    def _start_over(self, why: str, error: Exception | None = None, wait_s: float = RETRY_S) -> None:
        """Drop everything and wait for things to come back; a trial in progress is kept as invalid."""
        if error is not None:
            self.status.fault(why, str(error))
        if self._course is not None:
            self._course.lose(why)
        self._drop_course()
        self._hand.drop()
        self._demand = Demand(self.config)
        self._until_s = self._clock() + wait_s
        self.status.phase, self.status.detail = Phase.WAITING, f"after {why}"
        self.status.left_out = {}

    def _drop_course(self) -> None:
        if self._course is not None:
            self._course.end()
            self._course = None
            self._training.leave()
