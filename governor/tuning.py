# SPDX-License-Identifier: Apache-2.0
"""One subject being tuned: its search, its history, and the translation between search points and clocks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from boards.clocks import ClockPoint, ClockTable

from .config import Config
from .errors import Infeasible
from .guard import Slo
from .history import AFRESH, History, Subject
from .reader import Snapshot
from .search import Best, Search
from .traffic import batch_values
from .trial import Evidence, TrialRecord, surprise

Point = dict[str, float]
log = logging.getLogger("teg.governor")


@dataclass(frozen=True, slots=True)
class Proposal:
    """The next point to try, None when the budget is spent or the search is done; the best so far, None if none is."""

    next: Point | None
    best: Best | None


class Tuning:
    """The search over one board and the instances it serves, resumed from the trials that earlier runs wrote down."""

    def __init__(self, config: Config, table: ClockTable, now: Snapshot, slos: Mapping[str, Slo]) -> None:
        if now.board is None:
            raise ValueError("a board page is needed to know what is tuned")
        self.instances = {view.info.instance: view.info for view in now.instances}
        knobs = knob_values(config.knobs, table, [info.max_batch for info in self.instances.values()])
        models = tuple(sorted(info.model for info in self.instances.values()))
        subject = Subject(now.board.board, now.board.virtual, models, tuple(slos.values()), knobs)
        self.trials: list[TrialRecord] = []
        self._evidence: dict[int, Evidence] = {}
        self.history = History(config.state_dir, subject)
        self._search = Search(knobs, next(iter(slos.values())).limit_s, config.seed)
        self._table = table
        self._budget = config.trials
        if config.fresh:
            self.history.note(AFRESH, now.now_ns / 1e9)
        for record in self.history.trials():
            self.learn(record)

    def propose(self, arrivals_s: Mapping[str, tuple[float, ...]]) -> Proposal:
        """What to try next, and the best so far, at the load of these arrivals by instance.

        Takes a second or more on a slow processor.
        """
        self._judge_again(arrivals_s)
        try:
            point = None if len(self.trials) >= self._budget else self._search.ask()
        except Infeasible as error:
            log.warning("%s", error)
            return Proposal(None, None)
        return Proposal(point, self._search.best())

    def finish(self, record: TrialRecord, at_s: float, evidence: Evidence | None = None) -> None:
        """Write a trial down, then learn from it; with `evidence` it is judged again as more of the load is known."""
        self.history.add(record, at_s)
        if evidence is not None:
            self._evidence[len(self.trials)] = evidence
        self.learn(record)

    def learn(self, record: TrialRecord) -> None:
        """Count a trial; an invalid one teaches nothing."""
        self.trials.append(record)
        self._tell(record)

    def _judge_again(self, arrivals_s: Mapping[str, tuple[float, ...]]) -> None:
        """Bring every trial of this run to the same load, so that early and late ones can be compared."""
        if any(len(trace_s) < 2 for trace_s in arrivals_s.values()):
            return  # the load has just changed; what was judged before stands until more is known
        now = {number: evidence.under(arrivals_s, {}) for number, evidence in self._evidence.items()}
        surprises = {name: surprise([evidence.models[name] for evidence in now.values()]) for name in arrivals_s}
        for number, evidence in now.items():
            self.trials[number] = evidence.under(arrivals_s, surprises).record(self.trials[number].point)
        self._search.forget()
        for record in self.trials:
            self._tell(record)

    def _tell(self, record: TrialRecord) -> None:
        if record.energy_j is not None and record.latency_s is not None:
            self._search.tell(record.point, record.latency_s, record.energy_j)

    def clocks(self, point: Mapping[str, float]) -> ClockPoint:
        """The clocks of a search point on this board."""
        return clocks_of(point, self._table)

    def fastest(self) -> Point:
        """Every tuned clock at its top and the model's own batch limit: the safe point for latency."""
        return {name: values[-1] for name, values in self._search.knobs.items() if name != "batch"}

    def batch_limits(self, point: Mapping[str, float]) -> dict[str, int]:
        """Batch limit by instance: the point's, or the model's own."""
        return {name: int(point.get("batch", info.max_batch)) for name, info in self.instances.items()}


def clocks_of(point: Mapping[str, float], table: ClockTable) -> ClockPoint:
    """The clocks of a search point. The GPU's lower limit is pinned to its upper one, where the board has one."""
    clocks = {name: int(value) for name, value in point.items() if name != "batch"}
    if "gpu_hz" in clocks and table.gpu_min_hz:
        clocks["gpu_min_hz"] = clocks["gpu_hz"]
    return ClockPoint(**clocks)


def knob_values(names: Sequence[str], table: ClockTable, max_batches: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The values to search: what the board offers, and batch limits while there is a single instance."""
    values: dict[str, tuple[int, ...]] = {
        name: offered for name in names if name != "batch" and (offered := getattr(table, name))
    }
    if "batch" in names and len(max_batches) == 1:
        values["batch"] = batch_values(max_batches)
    return values
