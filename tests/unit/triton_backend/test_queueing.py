# SPDX-License-Identifier: Apache-2.0
"""Which requests form the next batch, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triton_backend.queueing import QueuePolicy, Rules, Start, Ticket, Wait, choose, expired

tickets = st.builds(
    Ticket,
    number=st.integers(0, 10**6),
    arrival_ns=st.integers(0, 1000),
    samples=st.integers(1, 5),
    shapes=st.sampled_from([("a",), ("b",)]),
    level=st.integers(0, 2),
    deadline_ns=st.just(0) | st.integers(1, 3000),
    delayed=st.booleans(),
)
queues = st.lists(tickets, max_size=20, unique_by=lambda ticket: ticket.number).map(
    lambda waiting: sorted(waiting, key=lambda ticket: ticket.order)
)
rules = st.builds(
    Rules,
    limit=st.integers(1, 8),
    wait_ns=st.just(0) | st.integers(1, 2000),
    preferred=st.just(()) | st.just((2, 4)),
    preserve_ordering=st.booleans(),
)


@given(queues, rules, st.integers(0, 4000))
def test_any_decision_is_sound(waiting: list[Ticket], rules: Rules, now_ns: int) -> None:
    """A batch begins with the head of the queue, has one shape, keeps the order and respects the limit; a wait ends."""
    decision = choose(waiting, rules, now_ns)
    if isinstance(decision, Wait):
        if waiting:
            assert decision.until_ns is not None
            assert now_ns < waiting[0].arrival_ns + rules.wait_ns
        else:
            assert decision.until_ns is None
        return
    by_number = {ticket.number: ticket for ticket in waiting}
    batch = [by_number[number] for number in decision.numbers]
    assert batch[0] is waiting[0]
    assert [waiting.index(ticket) for ticket in batch] == sorted(waiting.index(ticket) for ticket in batch)
    assert {ticket.shapes for ticket in batch} == {waiting[0].shapes}
    assert len(batch) == 1 or sum(ticket.samples for ticket in batch) <= rules.limit
    if rules.preserve_ordering:
        assert batch == waiting[: len(batch)]


@given(queues, rules)
def test_nobody_waits_for_ever(waiting: list[Ticket], rules: Rules) -> None:
    """Asked again at the moment it named, the decision is a batch or an expiry."""
    decision = choose(waiting, rules, 0)
    if isinstance(decision, Wait) and decision.until_ns is not None:
        later = choose(waiting, rules, decision.until_ns)
        assert isinstance(later, Start) or expired(waiting, decision.until_ns)


def queue(*arrivals_ns: int, samples: int = 1) -> list[Ticket]:
    return [Ticket(number, arrival_ns, samples) for number, arrival_ns in enumerate(arrivals_ns)]


@pytest.mark.parametrize(
    ("waiting", "rules", "now_ns", "decision"),
    [
        (queue(10, 11, 12), Rules(2, 0), 20, Start((0, 1))),
        (queue(10, 11), Rules(4, 100), 20, Wait(110)),
        (queue(10, 11), Rules(4, 100), 110, Start((0, 1))),
        (queue(10, 11, 12, 13), Rules(4, 100), 20, Start((0, 1, 2, 3))),
        (queue(10, 11, 12), Rules(8, 100, preferred=(2,)), 20, Start((0, 1))),
        (queue(10, samples=5), Rules(4, 100), 20, Start((0,))),
        (queue(10, 11, samples=3), Rules(4, 0), 20, Start((0,))),
    ],
    ids=["limit", "fills", "waited enough", "full", "preferred size", "above the limit alone", "never split"],
)
def test_when_a_batch_starts(waiting: list[Ticket], rules: Rules, now_ns: int, decision: Start | Wait) -> None:
    """A full batch, a preferred size, or an oldest request that has waited long enough; samples count, not requests."""
    assert choose(waiting, rules, now_ns) == decision


def test_the_impatient_are_not_made_to_wait() -> None:
    """A request that would expire while its batch fills starts at once; one of another shape ends the wait in time."""
    waiting = [Ticket(0, 10, deadline_ns=50)]
    assert choose(waiting, Rules(4, 100), 20) == Start((0,))
    other = [Ticket(0, 10), Ticket(1, 10, shapes=("other",), deadline_ns=50)]
    assert choose(other, Rules(4, 100), 20) == Wait(50)


def test_other_shapes_are_passed_over() -> None:
    """Requests of another shape neither join nor stop a batch, unless the order must be preserved."""
    waiting = [Ticket(0, 0), Ticket(1, 1, shapes=("other",)), Ticket(2, 2)]
    assert choose(waiting, Rules(4, 0), 5) == Start((0, 2))
    assert choose(waiting, Rules(4, 0, preserve_ordering=True), 5) == Start((0,))


@pytest.mark.parametrize(
    ("policy", "asked_ns", "timeout_ns"),
    [
        (QueuePolicy(timeout_ns=100), 50, 100),
        (QueuePolicy(timeout_ns=100, allow_override=True), 50, 50),
        (QueuePolicy(timeout_ns=100, allow_override=True), 500, 100),
        (QueuePolicy(allow_override=True), 500, 500),
        (QueuePolicy(allow_override=True), 0, 0),
    ],
)
def test_timeouts_only_shorten(policy: QueuePolicy, asked_ns: int, timeout_ns: int) -> None:
    """As in Triton, a request's own timeout counts only where allowed, and only to shorten the policy's."""
    assert policy.timeout_of(asked_ns) == timeout_ns
