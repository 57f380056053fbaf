# SPDX-License-Identifier: Apache-2.0
"""clockd's decisions: grant, renew and end leases, restore the clocks, notice who else moves them, publish the page.

No sockets and no signals here; `server.py` has them.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from boards.clocks import Board, ClockPoint
from boards.errors import BoardError, NodeError, NotOffered, NotRestored
from telemetry.board_page import BoardPage, BoardReading

from .lease import Lease, grant, held_by
from .ledger import ClockLedger
from .notify import Notifier
from .protocol import (
    VERSION,
    Json,
    Refused,
    Request,
    applied_record,
    cause_of,
    parse_request,
    point_record,
    table_record,
)
from .sampler import Sampler

if TYPE_CHECKING:
    from .virtual_load import VirtualLoad

log = logging.getLogger("teg.clockd")

RETRY_S = 1.0
"""A restore that failed is tried again this often."""
RESCAN_S = 30.0
"""Parts that are missing, and another power mode, are looked for this often."""
_NOTES_LENGTH = 1500
"""Characters of notes in an answer; `teg doctor` has all of them."""


class Clockd:
    """The daemon without its socket. `board` is None where there is nothing to control: observe-only, `why` says so.

    `begin` is called before the first request of a lease: what else is to hold while it lasts, and goes back with it.
    """

    def __init__(
        self,
        board: Board | None,
        page: BoardPage,
        ledger: ClockLedger,
        clock: Callable[[], float],
        load: VirtualLoad | None = None,
        why: str = "",
        notifier: Notifier | None = None,
        begin: Callable[[], object] | None = None,
    ) -> None:
        self.board = board
        self.lease: Lease | None = None
        self.sampler = Sampler(board, clock())
        self.foreign_changes = 0
        self.faults: Counter[str] = Counter()
        """Requests and restores that failed, by cause."""
        self._page = page
        self._ledger = ledger
        self._clock = clock
        self._load = load
        self._why = why
        self._notifier = notifier or Notifier(clock, {})
        self._begin = begin or (lambda: None)
        self._left: dict[str, int] = {}
        """Knob files as they read right after the request."""
        self._still: Callable[[], bool] = lambda: True
        """Whether they still read so."""
        self._keep: frozenset[str] = frozenset()
        """Knob files that are not ours to put back any more."""
        self._not_restored = ""
        self._waits_for_missing = False
        self._tried_s = self._scanned_s = self._ticked_s = clock()

    def recover(self) -> None:
        """Restore what an earlier clockd left behind."""
        self._restore("left behind by an earlier clockd")

    def answer(self, holder: int, pid: int, line: bytes) -> Json:
        """The answer to one line of one connection."""
        try:
            return {"ok": True, **self._answer(holder, pid, parse_request(line))}
        except Refused as refusal:
            return {"ok": False, "error": refusal.kind, "message": str(refusal)}
        except BoardError as error:
            cause = self._count(error, "request failed")
            knob = error.knob if isinstance(error, NodeError) else ""
            return {"ok": False, "error": "board", "cause": cause, "knob": knob, "message": str(error)}

    def gone(self, holder: int) -> None:
        """A connection was closed: its lease ends with it."""
        if self.lease is not None and self.lease.holder == holder:
            self._end_lease("its holder has gone")

    def tick(self) -> None:
        """One sample: let a virtual board live, read the board, end what has expired, publish the page."""
        now_s = self._clock()
        if self._load is not None and now_s > self._ticked_s:
            self._load.tick(now_s, now_s - self._ticked_s)
        self._ticked_s = now_s
        self.sampler.sample(now_s)
        if self.lease is not None and self.lease.expired(now_s):
            self._end_lease("it has expired")
        elif self.lease is not None:
            self._watch()
        elif now_s - self._tried_s >= RETRY_S and self._ledger.pending():
            self._restore("once more")
        if self.board is not None and now_s - self._scanned_s >= RESCAN_S:
            self._rescan(self.board)
        self._publish(now_s)
        free = self._not_restored and f"clocks not restored: {self._not_restored}"
        self._notifier.tick(f"clocks leased to process {self.lease.pid}" if self.lease else free or "clocks free")

    def close(self) -> bool:
        """Restore the clocks and let go of pages; whether everything is as it was."""
        if self.lease is not None:
            self._end_lease("clockd ends")
        elif self._ledger.pending():
            self._restore("clockd ends")
        if self._load is not None:
            self._load.close()
        self._page.remove()
        return not self._ledger.pending()

    def _answer(self, holder: int, pid: int, request: Request) -> Json:
        if request.verb == "hello":
            return self._hello()
        if request.verb == "status":
            return self._status()
        board = self.board
        if board is None:
            raise Refused("observe_only", self._why)
        if request.verb == "table":
            return {"table": table_record(board.table)}
        if request.verb == "lease":
            return self._grant(board, holder, pid, request)
        lease = held_by(self.lease, holder, self._clock())
        if request.verb == "renew":
            self.lease = lease.renewed(request.ttl_s, self._clock())
            return {"ttl_ms": round(1000 * request.ttl_s)}
        self._end_lease("released")
        if self._ledger.pending():
            raise Refused("not_restored", f"clockd keeps trying: {self._not_restored}")
        return {}

    def _grant(self, board: Board, holder: int, pid: int, request: Request) -> Json:
        lease = grant(self.lease, holder, pid, request.point, request.ttl_s, self._clock())
        if self.lease is not None and self.lease.expired(self._clock()):
            self._end_lease("it has expired")
        if self.lease is None:
            if self._ledger.pending() and not self._waits_for_missing:
                raise Refused("not_restored", f"clocks of an earlier lease are not back: {self._not_restored}")
            self._rescan(board)
        if not board.table.offers(request.point):
            raise Refused("not_offered", f"not in this board's table: {point_record(request.point)}")
        self._remember(board)
        first, self.lease = self.lease is None, lease
        try:
            if first:
                self._begin()
            applied = board.request(request.point)
            self._still = board.watch_knobs()
            self._left = board.read_knobs()
        except NotOffered as error:
            self._end_lease("its point is not offered any more")
            raise Refused("not_offered", str(error)) from error
        except BoardError:
            self._end_lease("its request failed half-way")
            raise
        # Writing and settling took time that is not the holder's.
        self.lease = lease.renewed(request.ttl_s, self._clock())
        self.sampler.look_again()
        self.tick()
        return {"applied": applied_record(applied), "honoured": applied.honoured}

    def _remember(self, board: Board) -> None:
        """Have the originals on the disk before a knob is touched."""
        if self.lease is None:
            self._keep = frozenset()
        if self._ledger.pending():
            return
        try:
            self._ledger.remember(board.read_knobs())
        except OSError as error:
            self._count(error, "originals not written")
            raise Refused("ledger", f"the clocks as they are could not be written down: {error}") from error

    def _end_lease(self, reason: str) -> None:
        log.info("lease of process %s ends: %s", self.lease.pid if self.lease else 0, reason)
        self.lease = None
        self._left = {}
        self._restore(reason)

    def _restore(self, reason: str) -> None:
        """Put the clocks back; what fails stays in the ledger and is tried again."""
        self._tried_s = self._clock()
        self.sampler.look_again()
        try:
            if self._ledger.restore(self.board, self._keep):
                log.info("clocks restored: %s", reason)
        except (BoardError, OSError) as error:
            self._count(error, "clocks not restored")
            self._not_restored = str(error)
            failures = error.failures if isinstance(error, NotRestored) else (error,)
            self._waits_for_missing = all(cause_of(failure) == "missing" for failure in failures)
            # Who changes a clock that is back already, while others are still waited for, means it.
            self._keep |= self._ledger.settled(self.board) if self.board else frozenset()
        else:
            if self._waits_for_missing and self.board is not None:
                # What came back had our limits on it when it was looked at.
                self._rescan(self.board)
            self._not_restored, self._waits_for_missing, self._keep = "", False, frozenset()

    def _watch(self) -> None:
        """End the lease if somebody else has written to its knobs; heat, which moves them too, raises an alert."""
        if not self._changed() or self.board is None:
            return
        try:
            alerts = self.board.throttle().alerts
        except BoardError as error:
            self._count(error, "alerts not read")
            alerts = ()
        # Looked at again, for an alert may have gone while the clock it took was read.
        if not alerts and (changed := self._changed()):
            self.foreign_changes += 1
            self._keep |= changed
            log.warning("foreign change of %s: they stay, the rest goes back", ", ".join(sorted(changed)))
            self._end_lease("somebody else changed the clocks")

    def _changed(self) -> frozenset[str]:
        """Knob files that no longer read as we left them; one that has gone was not changed."""
        if self._as_left():
            return frozenset()
        now, left = self._read_knobs(), self._left
        return frozenset(name for name, value in now.items() if left.get(name, value) != value)

    def _as_left(self) -> bool:
        try:
            return self._still()
        except BoardError:
            # One file has gone, or cannot be read: then all are read, and the fault is counted.
            return False

    def _read_knobs(self) -> dict[str, int]:
        try:
            return self.board.read_knobs() if self.board else {}
        except BoardError as error:
            self._count(error, "knobs not read")
            return {}

    def _rescan(self, board: Board) -> None:
        self._scanned_s = self._clock()
        try:
            board.rescan()
        except BoardError as error:
            self._count(error, "parts not looked for")

    def _count(self, error: Exception, what: str) -> str:
        """Count and log a fault by its cause, which comes back."""
        cause = cause_of(error)
        self.faults[cause] += 1
        log.warning("%s (%s): %s", what, cause, error)
        return cause

    def _publish(self, now_s: float) -> None:
        board, lease, sampler, meter = self.board, self.lease, self.sampler, self.sampler.meter
        reading = BoardReading(
            board=board.name if board else "none",
            virtual=bool(board and board.virtual),
            observe_only=board is None,
            sampled_ns=round(1e9 * now_s),
            requested=(lease.point if lease else ClockPoint()).values(),
            observed=sampler.observed.values(),
            energy_j=meter.joules,
            energy_error_j=meter.error_j,
            power_w=meter.power_w,
            lease_pid=lease.pid if lease else 0,
            lease_expires_ns=round(1e9 * lease.expires_s) if lease else 0,
            throttle_events=sampler.throttle_events,
            foreign_changes=self.foreign_changes,
            brief_throttles=sampler.brief_throttles,
            averaging_s=meter.window_s,
            power_missing_s=meter.missing_s,
            power_same_s=sampler.power_same_s(now_s),
            zones_age_s=sampler.zones_age_s(now_s),
            rails_w=sampler.rails_w,
            zones_celsius=sampler.zones_celsius,
        )
        self._page.write(reading)

    def _hello(self) -> Json:
        board = self.board
        about = {"name": board.name if board else "none", "virtual": bool(board and board.virtual)}
        about |= {"observe_only": board is None, "reason": self._why, "notes": _shortened(board.notes if board else ())}
        about["physics"] = self._load.board.physics if self._load else ""
        return {"version": VERSION, "pid": os.getpid(), **about}

    def _status(self) -> Json:
        sampler, meter, lease, load = self.sampler, self.sampler.meter, self.lease, self._load
        held = lease and {
            "pid": lease.pid,
            "point": point_record(lease.point),
            "expires_in_s": round(lease.expires_s - self._clock(), 3),
        }
        virtual = load and {"unknown_workloads": load.unknown_workloads, "backlog_s": round(load.board.backlog_s, 6)}
        return {
            **self._hello(),
            "observed": point_record(sampler.observed),
            "lease": held,
            "restore_pending": self._ledger.pending(),
            "not_restored": self._not_restored,
            "ledgers_damaged": self._ledger.damaged(),
            "energy_j": meter.joules,
            "energy_error_j": meter.error_j,
            "power_w": meter.power_w,
            "throttle_events": sampler.throttle_events,
            "foreign_changes": self.foreign_changes,
            "sensor_faults": dict(sampler.faults),
            "board_faults": dict(self.faults),
            "load": virtual,
        }


def _shortened(notes: tuple[str, ...]) -> list[str]:
    """As many of the notes as fit an answer."""
    kept: list[str] = []
    for number, note in enumerate(notes):
        if sum(map(len, kept)) + len(note) > _NOTES_LENGTH:
            return [*kept, f"and {len(notes) - number} more: teg doctor"]
        kept.append(note)
    return kept
