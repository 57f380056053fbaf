# SPDX-License-Identifier: Apache-2.0
"""One subject being tuned: its search, its history, and the translation between search points and clocks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from boards.clocks import ClockPoint, ClockTable

from .config import Config
from .errors import Infeasible, UnknownPoint
from .guard import Slo
from .history import AFRESH, RETRACT, History, Subject
from .points import (
    MakeSearch,
    Point,
    Proposal,
    Searcher,
    batch_knob,
    bayesian_search,
    clocks_of,
    is_batch,
    knob_values,
    project,
    without,
)
from .reader import Snapshot
from .trial import Evidence, Feasible, Invalid, TrialRecord, surprise

if TYPE_CHECKING:
    from telemetry.board_page import BoardReading

log = logging.getLogger("teg.governor")


class Tuning:
    """The search over one board and the instances it serves, resumed from the trials that earlier runs wrote down.

    With no knob to search it proposes nothing, and the fastest point is one that leaves the clocks alone.
    """

    def __init__(
        self,
        config: Config,
        table: ClockTable,
        now: Snapshot,
        slos: Mapping[str, Slo],
        make_search: MakeSearch = bayesian_search,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        if now.board is None:
            raise ValueError("a board page is needed to know what is tuned")
        self.instances = {view.info.instance: view.info for view in now.instances}
        self.left_out = dict(left_out or {})
        """Knobs that the search does without, and why."""
        self.trials: list[TrialRecord] = []
        self._config, self._table, self._slos, self._make_search = (
            config,
            table,
            dict(sorted(slos.items())),
            make_search,
        )
        self._board: BoardReading = now.board
        self._evidence: dict[int, Evidence] = {}
        self._budget = config.trials
        self._open()
        if config.fresh:
            self.history.note(AFRESH, now.now_ns / 1e9)
        self._resume()

    @property
    def knobs(self) -> dict[str, tuple[float, ...]]:
        """The values of each knob searched."""
        return self._search.knobs if self._search else {}

    def propose(self, arrivals_s: Mapping[str, tuple[float, ...]]) -> Proposal:
        """What to try next, and the best so far, at the load of these arrivals by instance.

        Takes a second or more on a slow processor.
        """
        if self._search is None:
            return Proposal(None, None)
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
        self.trials.append(record)
        self._tell(record)

    def retract(self, reason: str, at_s: float) -> TrialRecord:
        """Unlearn the last trial: something has come out that makes it invalid. Not while the search thinks."""
        self.history.note(RETRACT, at_s, reason=reason)
        self._evidence.pop(len(self.trials) - 1, None)
        self.trials[-1] = self.trials[-1].invalidated(reason)
        self._tell_all()
        return self.trials[-1]

    def leave_out(self, knob: str, why: str) -> None:
        """Search without this knob from now on; what was learnt stays learnt where it fits."""
        log.warning("%s leaves the search: %s", knob, why)
        self.left_out[knob] = why
        self._table = without(self._table, [knob])
        self.history.close()
        self._open()
        self._resume()
        self._tell_all()

    def clocks(self, point: Mapping[str, float]) -> ClockPoint:
        """The clocks of a search point on this board."""
        return clocks_of(point, self._table)

    def fastest(self) -> Point:
        """Every tuned clock at its top and the model's own batch limit: the safe point for latency."""
        return {name: values[-1] for name, values in self.knobs.items() if not is_batch(name)}

    def cooler(self, point: Mapping[str, float]) -> Point:
        """Where to cool down from this point: the cheapest feasible one with no clock above it, else itself."""
        below = [
            trial
            for trial in self.trials
            if isinstance(trial.outcome, Feasible)
            and trial.point.keys() == point.keys()
            and all(value <= point[name] for name, value in trial.point.items() if not is_batch(name))
        ]
        return dict(min(below, key=lambda trial: trial.energy_j or 0.0).point if below else point)

    def batch_limits(self, point: Mapping[str, float]) -> dict[str, int]:
        """Batch limit by instance: the point's for its model, or the model's own."""
        return {
            name: int(point.get(batch_knob(info.model, self._max_batches), info.max_batch))
            for name, info in self.instances.items()
        }

    @property
    def _max_batches(self) -> dict[str, int]:
        """The largest batch by model, of those that have an objective."""
        infos = [self.instances[name] for name in self._slos]
        models = {info.model for info in infos}
        return {model: min(info.max_batch for info in infos if info.model == model) for model in sorted(models)}

    def _open(self) -> None:
        """The search over the knobs that are left, and the history of that subject."""
        names = [name for name in self._config.knobs if name not in self.left_out]
        knobs = knob_values(names, self._table, self._max_batches)
        served = sorted((info.model, info.version) for info in self.instances.values())
        models, versions = tuple(model for model, _ in served), tuple(version for _, version in served)
        subject = Subject(self._board.board, self._board.virtual, models, tuple(self._slos.values()), knobs, versions)
        self.history = History(self._config.state_dir, subject)
        slo_s = next(iter(self._slos.values())).limit_s
        regret = self._config.regret or None
        self._search: Searcher | None = (
            self._make_search(knobs, slo_s, self._config.seed, None, regret) if knobs else None
        )

    def _resume(self) -> None:
        """Learn from earlier runs. Their invalid trials are shown and cost this run nothing of its budget."""
        for record in self.history.trials():
            self._budget += isinstance(record.outcome, Invalid)
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
        self._tell_all()

    def _tell_all(self) -> None:
        if self._search is not None:
            self._search.forget()
            for record in project(self.trials, self._search.knobs):
                self._tell(record)

    def _tell(self, record: TrialRecord) -> None:
        """Tell the search of a trial that measured something."""
        if self._search is None or record.energy_j is None or record.latency_s is None:
            return
        try:
            self._search.tell(record.point, record.latency_s, record.energy_j)
        except (UnknownPoint, ValueError) as error:
            # A history that somebody wrote by hand must not stop the governor.
            log.warning("a trial of the history teaches nothing: %s", error)
