# SPDX-License-Identifier: Apache-2.0
"""Which requests form the next batch, and when: decisions on frozen records, with the time passed in.

The order of a queue is (priority level, already delayed, arrival); level 1 goes first, as in Triton. A batch takes the
first request and whatever behind it has the same shapes, up to the limit. It starts at once when it is full or has a
preferred size, and otherwise when its oldest request has waited `wait_ns`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

TimeoutAction = Literal["REJECT", "DELAY"]
Shapes = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Triton's ModelQueuePolicy: what one priority level promises; 0 means no bound."""

    max_queue_size: int = 0
    timeout_ns: int = 0
    action: TimeoutAction = "REJECT"
    allow_override: bool = False

    def timeout_of(self, requested_ns: int) -> int:
        """The timeout in force; as in Triton a request can only shorten the policy's."""
        if not self.allow_override or requested_ns <= 0:
            return self.timeout_ns
        return min(requested_ns, self.timeout_ns) if self.timeout_ns else requested_ns


@dataclass(frozen=True, slots=True)
class Queueing:
    """The `dynamic_batching` block; `policies[level]` holds for a priority level, level 0 where there are none."""

    preferred: tuple[int, ...] = ()
    triton_delay_ns: int = 0
    """Triton has already held requests back for this long before we see them."""
    preserve_ordering: bool = False
    default_priority: int = 0
    policies: tuple[QueuePolicy, ...] = (QueuePolicy(),)

    def level(self, asked: int) -> int:
        """The priority level of a request that asked for `asked`; out of range means the default, as in Triton."""
        return asked if 1 <= asked < len(self.policies) else self.default_priority

    @property
    def has_timeouts(self) -> bool:
        """Whether a request can ever expire in the queue."""
        return any(policy.timeout_ns or policy.allow_override for policy in self.policies)


@dataclass(frozen=True, slots=True)
class Rules:
    """How batches are formed now: the limit counts samples, `wait_ns` is how long one may wait to fill."""

    limit: int
    wait_ns: int
    preferred: tuple[int, ...] = ()
    preserve_ordering: bool = False


@dataclass(frozen=True, slots=True)
class Ticket:
    """One waiting request; times are CLOCK_MONOTONIC nanoseconds."""

    number: int
    arrival_ns: int
    samples: int = 1
    shapes: Shapes = ()
    level: int = 0
    deadline_ns: int = 0
    """When it expires in the queue, 0 for never."""
    delayed: bool = False
    """It has expired under DELAY, and goes after everybody else of its level."""

    @property
    def order(self) -> tuple[int, bool, int]:
        """Its place in the queue."""
        return self.level, self.delayed, self.number


@dataclass(frozen=True, slots=True)
class Start:
    """Execute these requests now, by ticket number."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until_ns`; None means until something arrives."""

    until_ns: int | None


def expired(waiting: Sequence[Ticket], now_ns: int) -> list[Ticket]:
    """The tickets whose time in the queue is over."""
    return [ticket for ticket in waiting if 0 < ticket.deadline_ns <= now_ns]


def choose(waiting: Sequence[Ticket], rules: Rules, now_ns: int) -> Start | Wait:
    """What to do now with `waiting`, in queue order; a request is never split, so one above the limit goes alone."""
    if not waiting:
        return Wait(None)
    batch, samples = _gather(waiting, rules)
    preferred = _preferred(batch, rules.preferred)
    if samples >= rules.limit or rules.wait_ns <= 0:
        return Start(tuple(ticket.number for ticket in batch))
    if preferred:
        return Start(tuple(ticket.number for ticket in batch[:preferred]))
    until_ns = min(ticket.arrival_ns for ticket in batch) + rules.wait_ns
    # who would expire while the batch fills is not made to wait
    impatient = any(0 < ticket.deadline_ns <= until_ns for ticket in batch)
    if now_ns >= until_ns or impatient:
        return Start(tuple(ticket.number for ticket in batch))
    deadlines = [ticket.deadline_ns for ticket in waiting if ticket.deadline_ns]
    return Wait(min([until_ns, *deadlines]))


def _gather(waiting: Sequence[Ticket], rules: Rules) -> tuple[list[Ticket], int]:
    """The head of the queue with its like, and their samples; the head itself may exceed the limit."""
    head = waiting[0]
    batch, samples = [head], head.samples
    for ticket in waiting[1:]:
        if samples >= rules.limit:
            break
        fits = ticket.shapes == head.shapes and samples + ticket.samples <= rules.limit
        if fits:
            batch.append(ticket)
            samples += ticket.samples
        elif rules.preserve_ordering:
            break
    return batch, samples


def _preferred(batch: Sequence[Ticket], preferred: tuple[int, ...]) -> int:
    """How many tickets from the front make the largest preferred size, 0 if none does."""
    best = samples = 0
    for count, ticket in enumerate(batch, start=1):
        samples += ticket.samples
        if samples in preferred:
            best = count
    return best
