# SPDX-License-Identifier: Apache-2.0
"""clockd's pure parts: the protocol and the lease."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from boards.clocks import KNOBS, Applied, ClockPoint, ClockTable
from governor.clockd import protocol
from governor.clockd.lease import grant, held_by
from governor.clockd.protocol import Refused, parse_request

POINT = ClockPoint(gpu_hz=612_000_000, cores=8)


def line(**record: object) -> bytes:
    return json.dumps(record).encode()


def test_every_verb_is_understood() -> None:
    """The six verbs, each with exactly its fields."""
    assert parse_request(line(verb="hello")).verb == "hello"
    request = parse_request(line(verb="lease", point={"gpu_hz": 612_000_000, "cores": 8, "emc_hz": None}, ttl_ms=1500))
    assert (request.point, request.ttl_s) == (POINT, 1.5)
    assert parse_request(line(verb="renew", ttl_ms=5000)).ttl_s == 5.0


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"hello"',
        b"[" * 4000,
        line(verb="reboot"),
        line(verb=["hello"]),
        line(verb="hello", colour="red"),
        line(verb="lease", point={}),
        line(verb="lease", point=[], ttl_ms=10),
        line(verb="lease", point={"gpu_hz": "612000000"}, ttl_ms=10),
        line(verb="lease", point={"gpu_hz": 6.12e8}, ttl_ms=10),
        line(verb="lease", point={"gpu_hz": True}, ttl_ms=10),
        line(verb="lease", point={"/sys/class/devfreq": 1}, ttl_ms=10),
        line(verb="renew", ttl_ms=0),
        line(verb="renew", ttl_ms=5001),
        line(verb="renew", ttl_ms=1.5),
        line(verb="renew", ttl_ms=True),
    ],
)
def test_anything_else_is_malformed(bad: bytes) -> None:
    """Unknown verbs and fields, floats, booleans, texts, and times to live beyond 5 s are refused."""
    with pytest.raises(Refused) as refused:
        parse_request(bad)
    assert refused.value.kind == "malformed"


LINES = some.binary(max_size=200) | some.recursive(
    some.none() | some.integers() | some.text(), lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner)
).map(lambda value: json.dumps(value).encode())


@given(LINES)
def test_garbage_is_refused_and_nothing_else(data: bytes) -> None:
    """No line of garbage gets through, and none raises anything but `Refused`."""
    with pytest.raises(Refused) as refused:
        parse_request(data)
    assert refused.value.kind == "malformed"


@given(some.dictionaries(some.sampled_from(KNOBS), some.integers() | some.booleans() | some.floats() | some.none()))
def test_a_point_holds_integers_only(record: dict[str, object]) -> None:
    """Whatever a client sends as a point, what comes out is integers or nothing."""
    try:
        point = protocol.parse_point(record)
    except Refused:
        assert any(value is not None and type(value) is not int for value in record.values())
    else:
        assert all(value is None or type(value) is int for value in point.values())


def test_answers_survive_the_wire() -> None:
    """Tables and applied points come back as they went."""
    table = ClockTable((1, 2), (1, 2), (), (5,), (4, 8))
    assert protocol.parse_table(json.loads(protocol.encode(protocol.table_record(table)))) == table
    applied = Applied(POINT, ClockPoint(1, 2, 3, 4, 5), 0.25)
    assert protocol.parse_applied(json.loads(protocol.encode(protocol.applied_record(applied)))) == applied


def test_one_holder_at_a_time() -> None:
    """A lease that lives keeps everybody else out; its own holder may move it."""
    lease = grant(None, 1, 100, POINT, 2.0, now_s=10.0)
    assert lease.expires_s == 12.0
    with pytest.raises(Refused, match="process 100") as refused:
        grant(lease, 2, 200, POINT, 2.0, now_s=11.9)
    assert refused.value.kind == "held"
    assert grant(lease, 1, 100, ClockPoint(cores=4), 2.0, now_s=11.0).point.cores == 4


def test_an_expired_lease_is_nobodys() -> None:
    """At its expiry a lease is over for its holder, and free for others."""
    lease = grant(None, 1, 100, POINT, 2.0, now_s=10.0)
    assert held_by(lease, 1, 11.9) is lease
    for holder, now_s in ((1, 12.0), (2, 11.0)):
        with pytest.raises(Refused) as refused:
            held_by(lease, holder, now_s)
        assert refused.value.kind == "no_lease"
    assert grant(lease, 2, 200, POINT, 2.0, now_s=12.0).pid == 200


def test_renewal_counts_from_now() -> None:
    """A renewal is not added to what was left."""
    assert grant(None, 1, 100, POINT, 5.0, now_s=0.0).renewed(1.0, 2.0).expires_s == 3.0


@pytest.mark.parametrize("ttl_s", [0, -1, 5.001, float("nan")])
def test_a_lease_lives_at_most_five_seconds(ttl_s: float) -> None:
    """No lease outlives a dead governor by more than 5 s."""
    with pytest.raises(ValueError, match="at most"):
        grant(None, 1, 100, POINT, ttl_s, now_s=0.0)
