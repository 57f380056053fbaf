# SPDX-License-Identifier: Apache-2.0
"""clockd's decisions: grant, renew and end leases, restore the clocks, sample the board, publish its page.

No sockets and no signals here; `server.py` has them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from boards.clocks import Applied, Board, ClockPoint
from boards.errors import BoardError
from boards.thermal import Throttle
from telemetry.board_page import BoardPage, BoardReading

from .energy import Energy
from .lease import Lease, grant, held_by
from .ledger import ClockLedger
from .protocol import VERSION, Json, Refused, Request, applied_record, parse_request, point_record, table_record
from .virtual_load import VirtualLoad

log = logging.getLogger("teg.clockd")

SLOW_S = 1.0
"""Temperatures and throttle counters are read this often, and a failed restore is tried again."""


@dataclass(slots=True)
class Sampled:
    """What the latest samples said, and what was counted since the start."""

    observed: ClockPoint = ClockPoint()  # noqa: RUF009 - frozen
    energy: Energy = Energy()  # noqa: RUF009 - frozen
    throttle: Throttle | None = None
    throttle_events: int = 0
    foreign_changes: int = 0
    sensor_faults: int = 0
    board_faults: int = 0


class Clockd:
    """The daemon without its socket. `board` is None where there is nothing to control: observe-only, `why` says so."""

    def __init__(
        self,
        board: Board | None,
        page: BoardPage,
        ledger: ClockLedger,
        clock: Callable[[], float],
        load: VirtualLoad | None = None,
        why: str = "",
    ) -> None:
        self.board = board
        self.lease: Lease | None = None
        self.sampled = Sampled()
        self._page = page
        self._ledger = ledger
        self._clock = clock
        self._load = load
        self._why = why
        self._applied: Applied | None = None
        self._foreign = False
        self._complaint = ""
        self._rails: dict[str, float] = {}
        self._zones: dict[str, float] = {}
        self._slow_s = float("-inf")
        self._ticked_s = clock()

    def recover(self) -> None:
        """Restore what an earlier clockd left behind."""
        if self.board is not None:
            self._restore("left behind by an earlier clockd")

    def answer(self, holder: int, pid: int, line: bytes) -> Json:
        """The answer to one line of one connection."""
        try:
            return {"ok": True, **self._answer(holder, pid, parse_request(line))}
        except Refused as refusal:
            return {"ok": False, "error": refusal.kind, "message": str(refusal)}
        except (BoardError, OSError) as error:
            self.sampled.board_faults += 1
            log.warning("request failed: %s", error)
            return {"ok": False, "error": "board", "message": str(error)}

    def gone(self, holder: int) -> None:
        """A connection was closed: its lease ends with it."""
        if self.lease is not None and self.lease.holder == holder:
            self._end_lease("its holder has gone")

    def tick(self) -> None:
        """One sample: let a virtual board live, read the board, end what has expired, publish the page."""
        now_s = self._clock()
        if self.board is not None:
            try:
                self._sample(self.board, now_s)
            except BoardError as error:
                self.sampled.board_faults += 1
                self._complain(f"sample failed: {error}")
        self._ticked_s = now_s
        if self.lease is not None and self.lease.expired(now_s):
            self._end_lease("it has expired")
        self._publish(now_s)

    def close(self) -> bool:
        """Restore the clocks and let go of pages; whether everything is as it was."""
        if self.lease is not None:
            self._end_lease("clockd ends")
        elif self._ledger.pending() and self.board is not None:
            self._restore("clockd ends")
        if self._load is not None:
            self._load.close()
        self._page.remove()
        return self.board is None or not self._ledger.pending()

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
            raise Refused("not_restored", "some clocks did not go back; clockd keeps trying")
        return {}

    def _grant(self, board: Board, holder: int, pid: int, request: Request) -> Json:
        if not board.table.offers(request.point):
            raise Refused("not_offered", f"not in this board's table: {point_record(request.point)}")
        lease = grant(self.lease, holder, pid, request.point, request.ttl_s, self._clock())
        if self.lease is not None and self.lease.holder != holder:
            self._end_lease("it has expired")
        if self.lease is None and self._ledger.pending():
            raise Refused("not_restored", "clocks of an earlier lease have not gone back yet")
        self._ledger.remember(board.read_knobs())
        self.lease = lease
        try:
            self._applied = board.request(request.point)
        except BoardError:
            self._end_lease("its request failed half-way")
            raise
        # Writing and settling took time that is not the holder's.
        self.lease = lease.renewed(request.ttl_s, self._clock())
        self._foreign = False
        self.tick()
        return {"applied": applied_record(self._applied), "honoured": self._applied.honoured}

    def _end_lease(self, reason: str) -> None:
        log.info("lease of process %s ends: %s", self.lease.pid if self.lease else 0, reason)
        self.lease = None
        self._applied = None
        self._restore(reason)

    def _restore(self, reason: str) -> None:
        """Put the clocks back; what fails stays in the ledger and is tried again."""
        if self.board is None:
            return
        try:
            if self._ledger.restore(self.board):
                log.info("clocks restored: %s", reason)
        except (BoardError, OSError) as error:
            self.sampled.board_faults += 1
            log.warning("clocks not restored: %s", error)

    def _sample(self, board: Board, now_s: float) -> None:
        if self._load is not None and now_s > self._ticked_s:
            self._load.tick(now_s, now_s - self._ticked_s)
        self.sampled.observed = board.observe()
        if self._applied is not None:
            changed = self.sampled.observed != self._applied.observed
            # A clock that heat has taken is nobody's doing.
            if changed and not self._foreign and not board.throttle().alerts:
                self.sampled.foreign_changes += 1
            self._foreign = changed
        if now_s - self._slow_s >= SLOW_S:
            self._slow_s = now_s
            self._sample_slowly(board)
        try:
            self._rails = board.rails()
            power_w = board.power_w(self._rails)
        except BoardError as error:
            # The interval then counts as a gap: in doubt as a whole.
            self.sampled.sensor_faults += 1
            self._complain(f"power not read: {error}")
        else:
            self._complaint = ""
            self.sampled.energy = self.sampled.energy.then(now_s, power_w)

    def _complain(self, message: str) -> None:
        """Log a fault of sampling once, not twenty times a second."""
        if message != self._complaint:
            self._complaint = message
            log.warning("%s", message)

    def _sample_slowly(self, board: Board) -> None:
        if self.lease is None and self._ledger.pending():
            self._restore("once more")
        self._zones = {zone: value for zone, value in board.thermals().items() if value is not None}
        throttle, before = board.throttle(), self.sampled.throttle
        if before is not None:
            self.sampled.throttle_events += max(0, throttle.events - before.events)
            self.sampled.throttle_events += len(set(throttle.alerts) - set(before.alerts))
        self.sampled.throttle = throttle

    def _publish(self, now_s: float) -> None:
        board, lease, sampled = self.board, self.lease, self.sampled
        reading = BoardReading(
            board=board.name if board else "none",
            virtual=bool(board and board.virtual),
            observe_only=board is None,
            sampled_ns=round(1e9 * now_s),
            requested=(lease.point if lease else ClockPoint()).values(),
            observed=sampled.observed.values(),
            energy_j=sampled.energy.joules,
            energy_error_j=sampled.energy.error_j(board.averaging_s if board else 0.0),
            power_w=sampled.energy.power_w,
            lease_pid=lease.pid if lease else 0,
            lease_expires_ns=round(1e9 * lease.expires_s) if lease else 0,
            throttle_events=sampled.throttle_events,
            foreign_changes=sampled.foreign_changes,
            rails_w=self._rails,
            zones_celsius=self._zones,
        )
        self._page.write(reading)

    def _hello(self) -> Json:
        board = self.board
        about = {"name": board.name if board else "none", "virtual": bool(board and board.virtual)}
        return {"version": VERSION, "pid": os.getpid(), **about, "observe_only": board is None, "reason": self._why}

    def _status(self) -> Json:
        sampled, lease, load = self.sampled, self.lease, self._load
        held = lease and {
            "pid": lease.pid,
            "point": point_record(lease.point),
            "expires_in_s": round(lease.expires_s - self._clock(), 3),
        }
        virtual = load and {"unknown_workloads": load.unknown_workloads, "backlog_s": round(load.board.backlog_s, 6)}
        return {
            **self._hello(),
            "observed": point_record(sampled.observed),
            "lease": held,
            "restore_pending": self._ledger.pending(),
            "energy_j": sampled.energy.joules,
            "energy_error_j": sampled.energy.error_j(self.board.averaging_s if self.board else 0.0),
            "power_w": sampled.energy.power_w,
            "throttle_events": sampled.throttle_events,
            "foreign_changes": sampled.foreign_changes,
            "sensor_faults": sampled.sensor_faults,
            "board_faults": sampled.board_faults,
            "load": virtual,
        }
