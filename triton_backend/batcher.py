# SPDX-License-Identifier: Apache-2.0
"""The instance's own queue behind `execute`, and the one worker that serves it.

Triton lets a model answer later, so `execute` only enqueues and the governor can change the batch limit between two
batches; the price is that bounds, timeouts and priorities are kept here. A light model is served in place, inside
`execute`, when that cannot hide a queue: nothing waits, no batch is to be filled, the model is quick and mostly idle.
"""

from __future__ import annotations

import bisect
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Protocol

import numpy as np

from telemetry.instance_page import Knobs, Sample, Status

from .company import Company
from .courier import Courier
from .engine import Engine
from .errors import BadRequest, EngineFailed, Unavailable
from .inbound import Inbound
from .parameters import BackendConfig
from .queueing import Rules, Start, Ticket, Wait, choose, expired
from .recorder import Recorder, instant
from .tensors import Tensors
from .turns import Turns

LIGHT_NS = 1_000_000
"""A batch expected to take no longer may be served in place."""
LOOK_NS = 10_000_000
"""A request that waited less is not asked whether it was cancelled: asking costs a round trip to the server."""
COURIERS = 4
_BLEND = 0.2
_KNOWN_AFTER = 8
logger = logging.getLogger(__name__)


class Reply(Protocol):
    """The way back to one client; exactly one of `answer` and `refuse` is called, once."""

    def defer(self) -> None:
        """Called before `execute` returns if the answer comes later."""
        ...

    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        ...

    def answer(self, outputs: Tensors) -> None:
        """Send the outputs."""
        ...

    def refuse(self, status: Status, message: str) -> None:
        """Send an error."""
        ...


@dataclass(slots=True)
class Job:
    """One accepted request."""

    ticket: Ticket
    inbound: Inbound
    reply: Reply
    answered: bool = False


@dataclass(slots=True)
class _Pace:
    """How long the engine takes (a slow batch counts at once) and how long it idles before the next (a mean)."""

    batches: int = 0
    service_ns: float = 0.0
    gap_ns: float = 0.0

    def blend(self, service_ns: int, gap_ns: int) -> None:
        self.batches += 1
        self.service_ns = max(service_ns, self.service_ns + _BLEND * (service_ns - self.service_ns))
        self.gap_ns += _BLEND * (gap_ns - self.gap_ns)

    @property
    def light(self) -> bool:
        """Quick, and idle at least half of the time: then Triton's own queue in front of us stays empty."""
        return self.batches >= _KNOWN_AFTER and self.service_ns <= min(LIGHT_NS, self.gap_ns)


class Batcher:
    """Queue, worker and accounts of one model instance."""

    def __init__(
        self,
        engine: Engine,
        config: BackendConfig,
        recorder: Recorder,
        turns: Turns | None = None,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._config = config
        self._queueing = config.queueing
        self._recorder = recorder
        self._turns = turns
        self._clock_ns = clock_ns
        self._sleep = sleep
        self._cpu_timed = engine.in_thread and config.threads == 1
        self._changed = threading.Condition()
        self._waiting: list[Ticket] = []
        self._jobs: dict[int, Job] = {}
        self._next_number = 0
        self._ruled_by: Knobs | None = None
        self._ruling = Rules(config.max_batch, 0)
        self._busy = False
        self._closing = False
        self._pace = _Pace()
        self._company = Company()
        self._last_end_ns = clock_ns()
        self._courier = Courier(1 if config.queueing.preserve_ordering else COURIERS)
        self._worker = threading.Thread(target=self._work, name="governed-worker", daemon=True)

    def start(self) -> None:
        """Start the worker."""
        self._courier.start()
        self._worker.start()

    def submit(self, requests: Sequence[tuple[Inbound, Reply]], arrival_ns: int) -> None:
        """Serve the requests of one `execute` call now, or queue them; each is answered exactly once either way."""
        jobs = [self._job(inbound, reply, arrival_ns) for inbound, reply in requests]
        with self._changed:
            in_place = self._fits_in_place(jobs)
            if in_place:
                self._busy = True
            else:
                self._enqueue(jobs, arrival_ns)
        if in_place:
            for job in jobs:
                self._recorder.arrived(job.ticket.number, arrival_ns)
            self._serve_guarded(jobs, in_place=True)

    @property
    def depth(self) -> int:
        """Requests that wait now."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether the worker runs."""
        return self._worker.is_alive()

    def poke(self) -> None:
        """Look at the knobs again: they may have changed or expired while a batch was filling."""
        with self._changed:
            self._recorder.knobs(self._clock_ns())
            if self._waiting:
                self._changed.notify()

    def close(self) -> None:
        """Serve what waits, then stop."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._worker.is_alive():
            self._worker.join()
        self._courier.close()

    def _job(self, inbound: Inbound, reply: Reply, arrival_ns: int) -> Job:
        level = self._queueing.level(inbound.priority)
        timeout_ns = self._queueing.policies[level].timeout_of(inbound.timeout_ns)
        deadline_ns = arrival_ns + timeout_ns if timeout_ns else 0
        number = self._next_number
        self._next_number += 1
        return Job(Ticket(number, arrival_ns, inbound.samples, inbound.shapes, level, deadline_ns), inbound, reply)

    def _rules(self, now_ns: int) -> Rules:
        knobs = self._recorder.knobs(now_ns)
        if knobs is not self._ruled_by:
            self._ruled_by = knobs
            # Triton has held the request back for its own delay before we saw it
            wait_ns = max(0, knobs.batch_wait_ns - self._queueing.triton_delay_ns)
            queueing = self._queueing
            limit = 1 if self._config.alone else knobs.batch_limit
            self._ruling = Rules(limit, wait_ns, queueing.preferred, queueing.preserve_ordering)
        return replace(self._ruling, wait_ns=0) if self._closing else self._ruling

    def _fits_in_place(self, jobs: Sequence[Job]) -> bool:
        # a delegate's time is another model's, and may be anything
        if not jobs or self._waiting or self._busy or not (self._engine.in_thread and self._pace.light):
            return False
        rules = self._rules(self._clock_ns())
        if rules.wait_ns:
            return False
        if len(jobs) == 1:
            return jobs[0].ticket.samples <= rules.limit
        alike = all(job.ticket.shapes == jobs[0].ticket.shapes for job in jobs)
        return alike and sum(job.ticket.samples for job in jobs) <= rules.limit

    def _enqueue(self, jobs: Sequence[Job], now_ns: int) -> None:
        for job in jobs:
            job.reply.defer()
            limit = self._queueing.policies[job.ticket.level].max_queue_size
            if limit and sum(ticket.level == job.ticket.level for ticket in self._waiting) >= limit:
                self._turn_away(job, now_ns, Status.REJECTED, f"Exceeds maximum queue size of {limit}")
                continue
            job.inbound = job.inbound.kept()
            self._jobs[job.ticket.number] = job
            bisect.insort(self._waiting, job.ticket, key=lambda ticket: ticket.order)
            self._recorder.arrived(job.ticket.number, job.ticket.arrival_ns)
        self._changed.notify()

    def _turn_away(self, job: Job, now_ns: int, status: Status, message: str) -> None:
        self._recorder.turned_away(instant(job.ticket.arrival_ns, now_ns, job.ticket.samples, status))
        _refuse(job, status, message)

    def _work(self) -> None:
        while (jobs := self._next_batch()) is not None:
            self._serve_guarded(jobs)

    def _next_batch(self) -> list[Job] | None:
        """The next jobs to serve, as soon as they are due; None when closing and nothing waits."""
        with self._changed:
            while True:
                now_ns = self._clock_ns()
                if self._queueing.has_timeouts:
                    self._expire(now_ns)
                decision = Start(()) if self._busy else self._held(choose(self._waiting, self._rules(now_ns), now_ns))
                if isinstance(decision, Start) and decision.numbers:
                    self._busy = True
                    return self._take(decision.numbers)
                if self._closing and not self._waiting and not self._busy:
                    return None
                until_ns = None if isinstance(decision, Start) else decision.until_ns
                self._changed.wait(None if until_ns is None else max(0, until_ns - now_ns) / 1e9)

    def _held(self, decision: Start | Wait) -> Start | Wait:
        """The decision, or a short wait where those who were just answered are expected back."""
        if not isinstance(decision, Start) or not self._company.until_ns:
            return decision
        now_ns, samples = self._clock_ns(), sum(self._jobs[number].ticket.samples for number in decision.numbers)
        if not self._closing and self._company.holds(samples, self._ruling.limit, now_ns):
            return Wait(self._company.until_ns)
        self._company.started(samples)
        return decision

    def _take(self, numbers: Sequence[int]) -> list[Job]:
        chosen = set(numbers)
        self._waiting = [ticket for ticket in self._waiting if ticket.number not in chosen]
        return [self._jobs.pop(number) for number in numbers]

    def _expire(self, now_ns: int) -> None:
        for ticket in expired(self._waiting, now_ns):
            self._waiting.remove(ticket)
            if self._queueing.policies[ticket.level].action == "DELAY":
                late = replace(ticket, deadline_ns=0, delayed=True)
                self._jobs[late.number].ticket = late
                bisect.insort(self._waiting, late, key=lambda waiting: waiting.order)
            else:
                self._give_up([self._jobs.pop(ticket.number)], now_ns, Status.TIMED_OUT, "Request timeout expired")

    def _serve_guarded(self, jobs: Sequence[Job], *, in_place: bool = False) -> None:
        """Serve one batch; whatever goes wrong, every job is answered and the worker lives."""
        start_ns = self._clock_ns()
        try:
            self._serve(self._still_wanted(jobs, start_ns), in_place=in_place)
        except Exception:
            logger.exception("serving a batch failed")
            self._give_up(jobs, start_ns, Status.FAILED, "the backend failed; the server's log has the details")
        finally:
            self._settle(0 if in_place else sum(job.ticket.samples for job in jobs))

    def _still_wanted(self, jobs: Sequence[Job], now_ns: int) -> list[Job]:
        """The jobs whose clients still wait; the others are answered."""
        cancelled = [job for job in jobs if now_ns - job.ticket.arrival_ns >= LOOK_NS and job.reply.cancelled()]
        if not cancelled:
            return list(jobs)
        self._give_up(cancelled, now_ns, Status.CANCELLED, "the client cancelled the request")
        return [job for job in jobs if not job.answered]

    def _serve(self, jobs: Sequence[Job], *, in_place: bool) -> None:
        """Execute and answer; if the batch fails, each request is tried alone, so that a bad one harms no other."""
        if not jobs:
            return
        if self._recorder.virtual and self._turns is not None:
            self._turns.wait()
        start_ns = self._clock_ns()
        try:
            outputs = self._run(_join([job.inbound for job in jobs]), sum(job.ticket.samples for job in jobs))
        except (BadRequest, EngineFailed, Unavailable) as error:
            if len(jobs) == 1:
                self._give_up(jobs, start_ns, _status_of(error), str(error))
            else:
                for job in jobs:
                    self._serve([job], in_place=in_place)
            return
        self._account(jobs, start_ns, Status.OK)
        direct = in_place or (len(jobs) == 1 and not self._waiting and not self._queueing.preserve_ordering)
        for job, own in zip(jobs, self._split(outputs, jobs), strict=True):
            job.answered = True
            if direct:
                _answer(job, own)
            else:
                self._courier.give(partial(_answer, job, own))

    def _run(self, inputs: Tensors, samples: int) -> Tensors:
        """One execution, as long as the (virtual) board takes for it; raises `BadRequest`, `EngineFailed`."""
        timer = time.thread_time_ns if self._cpu_timed else self._clock_ns
        start_ns, began_ns = self._clock_ns(), timer()
        try:
            outputs = self._engine.run(inputs)
        except (BadRequest, Unavailable):
            raise
        except Exception as error:
            raise EngineFailed(f"{type(error).__name__}: {error}") from error
        finally:
            # the engine's own time: what other processes took from this thread must not be stretched as well
            own_ns = timer() - began_ns
            factor = self._recorder.stretch(samples, start_ns)
            if factor > 1.0:
                self._sleep((factor - 1.0) * own_ns / 1e9)
            self._recorder.executed(samples, int(factor * own_ns))
            end_ns = self._clock_ns()
            self._pace.blend(end_ns - start_ns, start_ns - self._last_end_ns)
            self._last_end_ns = end_ns
        self._check(outputs, samples)
        return outputs

    def _check(self, outputs: Tensors, samples: int) -> None:
        for spec in self._config.outputs:
            array = outputs.get(spec.name)
            if array is None:
                raise EngineFailed(f"the model did not return output '{spec.name}'")
            own = array.shape[1:] if self._config.batched else array.shape
            if not spec.fits(own) or (self._config.batched and array.shape[0] != samples):
                raise EngineFailed(f"output '{spec.name}' has shape {array.shape}, declared are {spec.dims}")

    def _split(self, outputs: Tensors, jobs: Sequence[Job]) -> list[Tensors]:
        if len(jobs) == 1:
            return [outputs]
        ends = list(accumulate(job.ticket.samples for job in jobs))
        return [
            {name: array[end - job.ticket.samples : end] for name, array in outputs.items()}
            for job, end in zip(jobs, ends, strict=True)
        ]

    def _account(self, jobs: Sequence[Job], start_ns: int, status: Status) -> None:
        end_ns = self._clock_ns()
        batch = sum(job.ticket.samples for job in jobs)
        self._recorder.finished(
            [(job.ticket.number, Sample(job.ticket.arrival_ns, start_ns, end_ns, batch, status)) for job in jobs]
        )

    def _give_up(self, jobs: Sequence[Job], start_ns: int, status: Status, message: str) -> None:
        left = [job for job in jobs if not job.answered]
        if not left:
            return
        self._account(left, start_ns, status)
        for job in left:
            _refuse(job, status, message)

    def _settle(self, answered: int) -> None:
        with self._changed:
            self._busy = False
            if answered and not self._pace.light:
                waiting = sum(ticket.samples for ticket in self._waiting)
                self._company.parted(answered, waiting, self._pace.service_ns, self._clock_ns())
            if self._waiting:  # an idle worker is let sleep: waking it costs a light model more than the model does
                self._changed.notify()


def _status_of(error: Exception) -> Status:
    if isinstance(error, BadRequest):
        return Status.INVALID
    return Status.REJECTED if isinstance(error, Unavailable) else Status.FAILED


def _answer(job: Job, outputs: Tensors) -> None:
    """Send the outputs."""
    try:
        job.reply.answer(outputs)
    except Exception:
        logger.exception("an answer could not be sent")
        _refuse(job, Status.FAILED, "the answer could not be sent; the server's log has the details")


def _refuse(job: Job, status: Status, message: str) -> None:
    """Send an error."""
    job.answered = True
    try:
        job.reply.refuse(status, message)
    except Exception:
        # Triton itself has gone, or the client has: there is nobody left to tell
        logger.exception("an error could not be sent")


def _join(requests: Sequence[Inbound]) -> Tensors:
    """The tensors of several requests along the batch axis."""
    if len(requests) == 1:
        return requests[0].tensors
    names = requests[0].tensors
    return {name: np.concatenate([request.tensors[name] for request in requests]) for name in names}
