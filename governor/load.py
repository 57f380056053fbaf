# SPDX-License-Identifier: Apache-2.0
"""Open-loop load on one Triton model over gRPC.

All arrivals are drawn before the run; each request is sent at its own time, whether or not earlier ones have returned.
Latency runs from the *intended* arrival to the reply, so that a stalled server cannot hide the requests it delayed
(coordinated omission). A request that failed has missed every objective. `lag` is how late this generator itself was.
"""

from __future__ import annotations

import csv
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from .load_inputs import Requests, random_requests, requests_from

FIELDS = ("number", "intended_ns", "sent_ns", "done_ns", "error")
_HEAD_START_NS = 100_000_000
_ASK_EVERY_S = 0.1


class ServerUnreachable(Exception):
    """Nobody answers at the address, or it does not serve the model; `url` is the gRPC address."""

    def __init__(self, url: str, message: str) -> None:
        self.url = url
        super().__init__(f"{url}: {message}")


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to send where, and the objective to judge it by."""

    url: str
    model: str
    arrivals_s: tuple[float, ...]
    """When to send each request, in seconds from the start, ascending."""
    seed: int = 0
    input_file: Path | None = None
    """Inputs to send in turn; without it they are random."""
    warmup: int = 3
    """Requests sent one by one before the start; they are in no figure."""
    timeout_s: float = 60.0
    slo_s: float | None = None
    quantile: float = 0.99
    record: Path | None = None
    """A CSV file that gets one row per request as it is answered; `read_answers` reads it, also while it grows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request and how it ended; times are CLOCK_MONOTONIC nanoseconds, `error` is empty if it succeeded."""

    number: int
    intended_ns: int
    sent_ns: int
    done_ns: int
    error: str

    @property
    def latency_s(self) -> float:
        """From the intended arrival to the reply, in seconds."""
        return (self.done_ns - self.intended_ns) / 1e9

    @property
    def lag_s(self) -> float:
        """How late the request was sent, in seconds."""
        return (self.sent_ns - self.intended_ns) / 1e9


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a run showed; latencies in seconds and of the requests that succeeded, None if none did."""

    model: str
    requests: int
    failed: int
    seconds: float
    """From the first intended arrival to the last reply."""
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    max_s: float | None
    lag_p50_s: float | None
    lag_p99_s: float | None
    slo_s: float | None = None
    quantile: float = 0.99
    within_slo: float | None = None
    """Share of all requests answered within the objective, None without one."""
    slo_met: bool | None = None
    errors: dict[str, int] = field(default_factory=dict)
    """Failures by gRPC status."""
    first_error: str = ""


def draw_arrivals(
    rate_hz: float, seed: int, *, seconds: float | None = None, requests: int | None = None
) -> tuple[float, ...]:
    """Poisson arrivals in seconds from the start, ascending; the same arguments give the same ones everywhere.

    Bounded by `seconds`, `requests`, or both; `ValueError` if by neither or if the rate is not a positive number.
    """
    if not (rate_hz > 0 and math.isfinite(rate_hz)):
        raise ValueError(f"rate must be a positive number of requests per second, not {rate_hz}")
    if seconds is None and requests is None:
        raise ValueError("seconds or requests must bound the arrivals")
    rng = random.Random(seed)  # noqa: S311 - arrivals, not secrets; this generator is the same in every release
    arrivals: list[float] = []
    at_s = rng.expovariate(rate_hz)
    while (seconds is None or at_s <= seconds) and (requests is None or len(arrivals) < requests):
        arrivals.append(at_s)
        at_s += rng.expovariate(rate_hz)
    return tuple(arrivals)


def read_arrivals(path: Path) -> tuple[float, ...]:
    """The arrivals in a text file, one number of seconds from the start per line, sorted; raises `ValueError`."""
    arrivals = sorted(float(line) for line in path.read_text().splitlines() if line.strip())
    if arrivals and not (arrivals[0] >= 0 and math.isfinite(arrivals[-1])):
        raise ValueError(f"{path}: arrivals must be finite and not before 0")
    return tuple(arrivals)


def summarise(
    answers: Sequence[Answer], *, model: str, slo_s: float | None = None, quantile: float = 0.99
) -> LoadReport:
    """The figures of a run, or of any part of one."""
    latencies = [answer.latency_s for answer in answers if not answer.error]
    lags = [answer.lag_s for answer in answers]
    errors = Counter(answer.error.partition(":")[0] for answer in answers if answer.error)
    within = None
    if slo_s is not None and answers:
        within = sum(latency <= slo_s for latency in latencies) / len(answers)
    begin_ns = min((answer.intended_ns for answer in answers), default=0)
    return LoadReport(
        model=model,
        requests=len(answers),
        failed=len(answers) - len(latencies),
        seconds=max((answer.done_ns - begin_ns for answer in answers), default=0) / 1e9,
        p50_s=_quantile(latencies, 0.5),
        p95_s=_quantile(latencies, 0.95),
        p99_s=_quantile(latencies, 0.99),
        max_s=_quantile(latencies, 1.0),
        lag_p50_s=_quantile(lags, 0.5),
        lag_p99_s=_quantile(lags, 0.99),
        slo_s=slo_s,
        quantile=quantile,
        within_slo=within,
        slo_met=None if within is None else within >= quantile,
        errors=dict(errors),
        first_error=next((answer.error for answer in answers if answer.error), ""),
    )


def _quantile(values: list[float], q: float) -> float | None:
    return float(np.quantile(values, q)) if values else None


def read_answers(path: Path) -> list[Answer]:
    """The rows of a record file, in order of reply; a last line that is still being written is left out."""
    text = path.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [Answer(int(row[0]), int(row[1]), int(row[2]), int(row[3]), row[4]) for row in csv.reader(lines[1:])]


def run_load(
    plan: LoadPlan,
    *,
    stopped: Callable[[], bool] = lambda: False,
    on_answer: Callable[[Answer], None] | None = None,
) -> LoadReport:
    """Send the plan's requests and wait for every reply.

    The sending ends early once `stopped` says so, asked several times a second; what was sent is still waited for and
    reported. `on_answer` is called in a thread of the gRPC client. Raises `ServerUnreachable`, `InputsUnfit` if the
    inputs do not fit the model, and `OSError` if a file cannot be used.
    """
    with ExitStack() as stack:
        client = stack.enter_context(triton.InferenceServerClient(plan.url))
        requests = _prepare(client, plan)
        sinks = [on_answer] if on_answer else []
        if plan.record:
            file = stack.enter_context(plan.record.open("w", newline="", buffering=1))
            sinks.append(_row_writer(file))
        outbox = _Outbox(client, plan, requests, sinks)
        start_ns = time.monotonic_ns() + _HEAD_START_NS
        for number, arrival_s in enumerate(plan.arrivals_s):
            intended_ns = start_ns + round(arrival_s * 1e9)
            if not _wait_until(intended_ns, stopped):
                break
            outbox.send(number, intended_ns)
        answers = outbox.collect()
    return summarise(answers, model=plan.model, slo_s=plan.slo_s, quantile=plan.quantile)


def _wait_until(moment_ns: int, stopped: Callable[[], bool]) -> bool:
    """Sleep until `moment_ns`; False as soon as `stopped` says so."""
    while not stopped():
        left_s = (moment_ns - time.monotonic_ns()) / 1e9
        if left_s <= 0:
            return True
        time.sleep(min(left_s, _ASK_EVERY_S))
    return False


def _prepare(client: Any, plan: LoadPlan) -> Requests:
    """The requests to send in turn, after the warm-up."""
    try:
        config = client.get_model_config(plan.model, client_timeout=plan.timeout_s).config
        requests = requests_from(plan.input_file, config) if plan.input_file else random_requests(config, plan.seed)
        for number in range(plan.warmup):
            client.infer(plan.model, requests[number % len(requests)], client_timeout=plan.timeout_s)
    except InferenceServerException as error:
        raise ServerUnreachable(plan.url, str(error.message())) from error
    return requests


def _row_writer(file: Any) -> Callable[[Answer], None]:
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(FIELDS)

    def write(answer: Answer) -> None:
        rows.writerow((answer.number, answer.intended_ns, answer.sent_ns, answer.done_ns, answer.error))

    return write


class _Outbox:
    """Requests on their way; replies arrive in a thread of the gRPC client."""

    def __init__(self, client: Any, plan: LoadPlan, requests: Requests, sinks: list[Callable[[Answer], None]]) -> None:
        self._client = client
        self._plan = plan
        self._requests = requests
        self._sinks = sinks
        self._answered = threading.Condition()
        self._waiting: dict[int, tuple[int, int]] = {}
        self._answers: list[Answer] = []

    def send(self, number: int, intended_ns: int) -> None:
        """Send one request and return at once."""
        sent_ns = time.monotonic_ns()
        with self._answered:
            self._waiting[number] = (intended_ns, sent_ns)

        def arrived(result: Any, error: InferenceServerException | None) -> None:
            self._finish(number, time.monotonic_ns(), _describe(error) if error else "")

        inputs = self._requests[number % len(self._requests)]
        self._client.async_infer(self._plan.model, inputs, arrived, client_timeout=self._plan.timeout_s)

    def _finish(self, number: int, done_ns: int, error: str) -> None:
        with self._answered:
            if number not in self._waiting:
                return  # given up already
            answer = Answer(number, *self._waiting.pop(number), done_ns, error)
            self._answers.append(answer)
            for sink in self._sinks:
                sink(answer)
            self._answered.notify_all()

    def collect(self) -> list[Answer]:
        """Every answer, in order of sending; a request without a reply well past its deadline counts as failed."""
        with self._answered:
            self._answered.wait_for(lambda: not self._waiting, self._plan.timeout_s + 5.0)
            lost = list(self._waiting)
        for number in lost:
            self._finish(number, time.monotonic_ns(), "LOST: no reply and no error within the deadline")
        return sorted(self._answers, key=lambda answer: answer.number)


def _describe(error: InferenceServerException) -> str:
    """`UNAVAILABLE: message`, on one line."""
    status = str(error.status() or "UNKNOWN").removeprefix("StatusCode.")
    return " ".join(f"{status}: {error.message()}".split())[:160]
