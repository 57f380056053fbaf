# SPDX-License-Identifier: Apache-2.0
"""What clients may say to clockd: one JSON object per line of at most 4 KiB, verbs and integers only.

    {"verb": "hello" | "table" | "status" | "release"}
    {"verb": "lease", "point": {"gpu_hz": 612000000, ...}, "ttl_ms": 3000}
    {"verb": "renew", "ttl_ms": 3000}

Answers: {"ok": true, ...} or {"ok": false, "error": KIND, "message": TEXT}. Kind `board`, with "cause" and "knob": a
knob could not be set, and every clock is back; kind `ledger`: the originals could not be written down, and no clock has
moved. No path and no text of a client's ever reaches a kernel file: a point holds integers, and only those of the
board's table are taken.
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from typing import Any, Literal

from boards.clocks import KNOBS, Applied, ClockPoint, ClockTable
from boards.errors import KnobDenied, KnobNotRestored, NodeError, NodeMissing, NotRestored

VERSION = 1
LONGEST_BYTES = 4096
LONGEST_TTL_S = 5.0

Verb = Literal["hello", "table", "lease", "renew", "release", "status"]
Json = dict[str, Any]
FIELDS: dict[Verb, frozenset[str]] = {
    "hello": frozenset(),
    "table": frozenset(),
    "lease": frozenset({"point", "ttl_ms"}),
    "renew": frozenset({"ttl_ms"}),
    "release": frozenset(),
    "status": frozenset(),
}
"""Every verb, and the fields that it must have besides `verb`: no other, none missing."""

Kind = Literal[
    "malformed", "not_offered", "observe_only", "held", "no_lease", "forbidden", "board", "ledger", "not_restored"
]
Cause = Literal["denied", "busy", "missing", "refused"]


class Refused(Exception):
    """A request that gets no for an answer; `kind` tells programs why, the message people."""

    def __init__(self, kind: Kind, message: str) -> None:
        self.kind = kind
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, checked; `point` is empty and `ttl_s` 0 for verbs without them."""

    verb: Verb
    point: ClockPoint
    ttl_s: float


def cause_of(error: Exception) -> Cause:
    """Why a knob could not be set or put back, or the ledger not written."""
    first = error.failures[0] if isinstance(error, NotRestored) and error.failures else error
    if isinstance(first, (KnobDenied, PermissionError)):
        return "denied"
    if isinstance(first, NodeMissing) or (isinstance(first, KnobNotRestored) and first.found is None):
        return "missing"
    return "busy" if isinstance(first, NodeError) and first.code in (errno.EBUSY, errno.EAGAIN) else "refused"


def parse_request(line: bytes) -> Request:
    """A request from one line; raises `Refused` with kind `malformed`."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Refused("malformed", f"not JSON: {type(error).__name__}") from error
    if not isinstance(record, dict) or not isinstance(record.get("verb"), str) or record["verb"] not in FIELDS:
        raise Refused("malformed", f"verb must be one of {', '.join(FIELDS)}")
    verb: Verb = record.pop("verb")
    if set(record) != FIELDS[verb]:
        raise Refused("malformed", f"{verb} takes exactly the fields {sorted(FIELDS[verb])}")
    ttl_s = _parse_ttl(record["ttl_ms"]) if "ttl_ms" in record else 0.0
    return Request(verb, parse_point(record.get("point", {})), ttl_s)


def parse_point(record: object) -> ClockPoint:
    """A point from its JSON object; a knob that is missing or null is left alone."""
    if not isinstance(record, dict) or not set(record) <= set(KNOBS):
        raise Refused("malformed", f"point must be an object with some of {', '.join(KNOBS)}")
    for knob, value in record.items():
        if value is not None and type(value) is not int:
            raise Refused("malformed", f"{knob} must be an integer")
    return ClockPoint(**record)


def encode(record: Json) -> bytes:
    """One line."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def point_record(point: ClockPoint) -> dict[str, int]:
    """A point as a JSON object of the knobs that it sets."""
    return {knob: value for knob, value in zip(KNOBS, point.values(), strict=True) if value is not None}


def applied_record(applied: Applied) -> Json:
    """What became of a request, as a JSON object."""
    points = {"requested": point_record(applied.requested), "observed": point_record(applied.observed)}
    return points | {"settle_s": round(applied.settle_s, 6)}


def parse_applied(record: Json) -> Applied:
    """The opposite of `applied_record`."""
    return Applied(parse_point(record["requested"]), parse_point(record["observed"]), float(record["settle_s"]))


def table_record(table: ClockTable) -> dict[str, list[int]]:
    """A table as a JSON object."""
    return {knob: list(getattr(table, knob)) for knob in KNOBS}


def parse_table(record: dict[str, list[int]]) -> ClockTable:
    """The opposite of `table_record`."""
    return ClockTable(**{knob: tuple(record.get(knob, ())) for knob in KNOBS})


def _parse_ttl(value: object) -> float:
    longest_ms = int(1000 * LONGEST_TTL_S)
    if type(value) is not int or not 1 <= value <= longest_ms:
        raise Refused("malformed", f"ttl_ms must be an integer from 1 to {longest_ms}")
    return value / 1000
