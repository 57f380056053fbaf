# SPDX-License-Identifier: Apache-2.0
"""Clients in step are waited for; nobody else is."""

from __future__ import annotations

from triton_backend.company import LONGEST_NS, SHARE, Company

SERVICE_NS = 20_000_000
HOLD_NS = int(SHARE * SERVICE_NS)


def test_those_just_answered_are_waited_for_until_all_are_back() -> None:
    """Four were answered together: three are not enough before the hold is over, four are at once."""
    company = Company()
    company.parted(4, 0, SERVICE_NS, now_ns=1000)
    assert company.holds(3, 8, 1001)
    assert not company.holds(4, 8, 1001)
    assert not company.holds(3, 8, 1000 + HOLD_NS)


def test_a_full_batch_is_never_held() -> None:
    """The limit in force ends the hold."""
    company = Company()
    company.parted(4, 0, SERVICE_NS, now_ns=0)
    assert not company.holds(2, 2, 1)


def test_a_single_client_is_not_held() -> None:
    """One answered and nobody waiting: the next request starts when it comes."""
    company = Company()
    company.parted(1, 0, SERVICE_NS, now_ns=1000)
    assert company.until_ns == 0


def test_a_hold_is_short() -> None:
    """However long a batch takes, nobody is held for more than a few milliseconds."""
    company = Company()
    company.parted(4, 0, 1e12, now_ns=0)
    assert company.until_ns == LONGEST_NS


def test_where_nobody_comes_back_holding_is_given_up() -> None:
    """In an open loop holding brings nobody: after a few vain holds only one batch in thirty-two is held."""
    company, held = Company(), 0
    for number in range(640):
        company.parted(2, 1, SERVICE_NS, now_ns=number)
        held += company.until_ns > 0
        company.started(1)
    assert 15 <= held <= 30


def test_where_they_come_back_again_holding_pays_again() -> None:
    """A try that brings company is followed by holds after every batch."""
    company = Company()
    for number in range(100):
        company.parted(2, 1, SERVICE_NS, now_ns=number)
        company.started(1)
    for number in range(200):
        company.parted(4, 0, SERVICE_NS, now_ns=number)
        company.started(4)
    company.parted(4, 0, SERVICE_NS, now_ns=0)
    assert company.until_ns > 0
