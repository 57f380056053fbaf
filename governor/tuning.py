# SPDX-License-Identifier: Apache-2.0
"""One subject being tuned: its search, its history, and the translation between search points and clocks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from boards.clocks import ClockPoint, ClockTable

from .config import Config
from .errors import SurfaceInvalid
from .guard import Slo
from .history import AFRESH, REOPEN, RETRACT, SUCCEED, History, Subject
from .lessons import Lesson, Lessons, load_of, measured, table_of
from .points import (
    MakeSearch,
    Point,
    Proposal,
    Searcher,
    Table,
    batch_knob,
    bayesian_search,
    clocks_of,
    is_batch,
    knob_values,
    without,
)
from .reader import Snapshot
from .surface_file import Surface, of_table
from .surface_store import PRIORS, SurfaceStore
from .thinking import Thinking
from .trial import Evidence, Feasible, Invalid, TrialRecord

if TYPE_CHECKING:
    from telemetry.board_page import BoardReading
    from telemetry.instance_page import InstanceInfo

REOPENED, FEWEST = 3, 6
"""A search that is opened again is granted a third of the trials, and no fewer than six."""

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
        self.lessons = Lessons()
        self.trials: list[TrialRecord] = []
        """Every trial, of earlier runs too, as it was judged last."""
        self._config, self._table, self._make_search = config, table, make_search
        self._slos = dict(sorted(slos.items()))
        self._board: BoardReading = now.board
        self._budget = config.trials
        self._store = SurfaceStore(config.state_dir)
        self._saved: set[str] = set()
        self.history: History
        self._open()
        if config.fresh:
            self.history.note(AFRESH, now.now_ns / 1e9)
        self._resume()

    @property
    def knobs(self) -> dict[str, tuple[float, ...]]:
        """The values of each knob searched."""
        return self._thinking.knobs

    def propose(self, arrivals_s: Mapping[str, tuple[float, ...]], now_s: float) -> Proposal:
        """What to try next, and the best so far, at the load of these arrivals by instance; see `thinking`."""
        proposal = self._thinking.propose(
            arrivals_s, now_s, lambda: self._budget - self.lessons.spent, lambda: self._priors(arrivals_s)
        )
        self._show()
        return proposal

    def finish(
        self,
        record: TrialRecord,
        at_s: float,
        evidence: Evidence | None = None,
        load_hz: Mapping[str, float] | None = None,
    ) -> TrialRecord:
        """Write a trial down, then learn from it; with `evidence` it is judged again as more of the load is known.

        What comes back is the trial as it was written: invalid if its figures are none.
        """
        if not (isinstance(record.outcome, Invalid) or measured(record)):
            record, evidence = record.invalidated("figures"), None
        self.history.add(record, at_s, load_hz or {})
        self.lessons.add(Lesson(record, at_s, load_hz or {}, evidence))
        self.trials.append(record)
        self._thinking.tell(record)
        return record

    def retract(self, reason: str, at_s: float) -> TrialRecord:
        """Unlearn the last trial: something has come out that makes it invalid. Not while the search thinks."""
        self.history.note(RETRACT, at_s, reason=reason)
        self.lessons.retract(reason)
        self._show()
        self._thinking.tell_all()
        return self.trials[-1]

    def reopen(self, why: str, at_s: float) -> None:
        """Search again, for a share of the trials: what was learnt so far is a prior now. Not while it thinks."""
        log.warning("the search is opened again: %s", why)
        self.history.note(REOPEN, at_s, why=why)
        self.lessons.reopen(why)
        self._grant_less()
        self._think_anew()

    def succeed(self, instances: Mapping[str, InstanceInfo], at_s: float) -> None:
        """Go on with new versions of the same models: what was learnt holds until something shows that it does not."""
        before = self.history.digest
        self.instances = dict(instances)
        self.history.close()
        self.history = History(self._config.state_dir, self._subject)
        self.history.note(SUCCEED, at_s, of=before)

    def leave_out(self, knob: str, why: str) -> None:
        """Search without this knob from now on; what was learnt stays learnt where it fits."""
        log.warning("%s leaves the search: %s", knob, why)
        self.left_out[knob] = why
        self._table = without(self._table, [knob])
        self.history.close()
        self._open()
        self._resume()

    def save(self, arrivals_s: Mapping[str, tuple[float, ...]]) -> None:
        """Keep what was measured for later tunings; raises `OSError`."""
        surface = self._surface(table_of(self.lessons.current), arrivals_s)
        if surface is not None:
            self._saved.add(surface.key)
            self._store.save(surface)

    def clocks(self, point: Mapping[str, float]) -> ClockPoint:
        """The clocks of a search point on this board."""
        return clocks_of(point, self._table)

    def fastest(self) -> Point:
        """Every tuned clock at its top and the model's own batch limit: the safe point for latency."""
        return {name: values[-1] for name, values in self.knobs.items() if not is_batch(name)}

    def is_fastest(self, point: Mapping[str, float]) -> bool:
        """Whether no clock could be higher, and every batch limit is the model's own."""
        fastest = self.fastest()
        same_limits = self.batch_limits(point) == self.batch_limits(fastest)
        return same_limits and self.clocks(point) == self.clocks(fastest)

    def cooler(self, point: Mapping[str, float]) -> Point:
        """Where to cool down from this point: the cheapest feasible one with no clock above it, else itself."""
        below = [
            trial
            for trial in self.lessons.current
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
        self._values = knob_values(names, self._table, self._max_batches)
        self.history = History(self._config.state_dir, self._subject)
        self._think_anew()

    @property
    def _subject(self) -> Subject:
        served = sorted((info.model, info.version) for info in self.instances.values())
        models, versions = tuple(model for model, _ in served), tuple(version for _, version in served)
        slos = tuple(self._slos.values())
        return Subject(self._board.board, self._board.virtual, models, slos, self._values, versions)

    def _think_anew(self) -> None:
        seed, regret = self._config.seed, self._config.regret or None
        make_search, knobs, slo_s = self._make_search, self._values, self.slo_s

        def make(priors: Sequence[Table]) -> Searcher:
            return make_search(knobs, slo_s, seed, list(priors) or None, regret)

        self._thinking = Thinking(self.lessons, knobs, slo_s, make)

    def _resume(self) -> None:
        """Learn from earlier runs. Their invalid trials are shown and cost this run nothing of its budget."""
        logged = self.history.logged()
        for entry in logged:
            self.lessons.add(Lesson(entry.record, entry.at_s, entry.load_hz, None, entry.outdated, resumed=True))
            self.trials.append(entry.record)
        if any(entry.outdated for entry in logged):
            self._grant_less()

    def _grant_less(self) -> None:
        self._budget = max(FEWEST, self._config.trials // REOPENED)

    def _priors(self, arrivals_s: Mapping[str, tuple[float, ...]]) -> list[Table]:
        """What the world was like before it changed, then what the store has of this board, the most alike first.

        Trials that are told need no prior, and `fresh` asks for none of earlier runs.
        """
        earlier = self.lessons.earlier
        like = self._surface(table_of(self.lessons.current), arrivals_s)
        if self._config.fresh:
            return earlier
        if like is None:
            like = Surface(self._board.board, self._board.virtual, self._models, self.slo_s, 1.0, {})
        found = self._store.priors(like, self._saved | {like.key})
        return (earlier + [surface.table for surface in found])[:PRIORS]

    def _surface(self, table: Table, arrivals_s: Mapping[str, tuple[float, ...]]) -> Surface | None:
        """The surface of a table measured at this load, None if it is none."""
        board, rate_hz = self._board, sum(load_of(arrivals_s).values())
        try:
            return of_table(table, board.board, self._models, self.slo_s, rate_hz, virtual=board.virtual)
        except SurfaceInvalid as error:
            log.debug("no surface: %s", error)
            return None

    def _show(self) -> None:
        """Show the trials as they are judged now."""
        self.trials[:] = [lesson.record for lesson in self.lessons.all]

    @property
    def slo_s(self) -> float:
        """The limit in whose seconds latencies are told: the first instance's."""
        return next(iter(self._slos.values())).limit_s

    @property
    def _models(self) -> tuple[str, ...]:
        return tuple(sorted(info.model for info in self.instances.values()))
