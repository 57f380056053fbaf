# SPDX-License-Identifier: Apache-2.0
"""What a window says about a point, on windows whose truth is known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from governor.guard import Slo
from governor.joules import Tick
from governor.latency import HOPELESS, ModelWindow, latency_at_load_s, service_times, surprise
from governor.trial import Evidence, Feasible, Invalid, TrialRecord, Violated
from telemetry.instance_page import Sample, Status

IDLE_W, BUSY_W, SERVICE_S, RATE_HZ = 10.0, 40.0, 0.02, 15.0
SLO = Slo(0.95, 0.1)
POINT = {"gpu_hz": 306_000_000.0}
EXACT_J = (IDLE_W + (BUSY_W - IDLE_W) * RATE_HZ * SERVICE_S) / RATE_HZ


def ticks(per_segment: Sequence[int], segment_s: float = 0.5) -> list[Tick]:
    """Ten ticks a segment, on a board whose power is linear in its busy share; so many requests in each segment."""
    rows = [Tick(0.0, 0.0, 0.0, 0)]
    for count in per_segment:
        for _ in range(10):
            dt_s, busy_s = segment_s / 10, count * SERVICE_S / 10
            last = rows[-1]
            energy_j = last.energy_j + IDLE_W * dt_s + (BUSY_W - IDLE_W) * busy_s
            rows.append(Tick(last.at_s + dt_s, energy_j, last.busy_s + busy_s, last.requests))
        rows[-1] = Tick(rows[-1].at_s, rows[-1].energy_j, rows[-1].busy_s, rows[-1].requests + count)
    return rows


def samples(number: int, service_s: float = SERVICE_S, status: Status = Status.OK, batch: int = 1) -> list[Sample]:
    times = [(round(index / RATE_HZ * 1e9), round(service_s * 1e9)) for index in range(number)]
    return [Sample(start_ns, start_ns, start_ns + long_ns, batch, status) for start_ns, long_ns in times]


def arrivals(number: int = 1500, rate_hz: float = RATE_HZ, seed: int = 1) -> tuple[float, ...]:
    rng, now_s, times = random.Random(seed), 0.0, []
    for _ in range(number):
        times.append(now_s)
        now_s += rng.expovariate(rate_hz)
    return tuple(times)


def window(number: int = 75, service_s: float = SERVICE_S, slo: Slo = SLO) -> ModelWindow:
    return ModelWindow(tuple(samples(number, service_s)), arrivals(), slo, batch_limit=1)


def conclude(measured: Sequence[Tick], models: Sequence[ModelWindow], failed: int = 0) -> TrialRecord:
    return Evidence(tuple(measured), {f"m_{number}": model for number, model in enumerate(models)}, failed).record(
        POINT
    )


def test_a_batch_counts_once() -> None:
    """Four requests of one batch are one service time."""
    batch = [Sample(at_ns, 50, 1_050, 4, Status.OK) for at_ns in (10, 20, 30, 40)]
    assert service_times([*batch, Sample(0, 0, 9, 1, Status.FAILED)]).seconds == {4: (1e-6,)}


def test_what_passes_before_a_waiting_batch_begins_is_its_own() -> None:
    """A stall between two batches lengthens the one that waited for it, once; waiting to fill a batch is none."""
    waited = [
        Sample(at_ns, start_ns, start_ns + 100, 1, Status.OK) for at_ns, start_ns in ((0, 0), (50, 900), (2000, 2000))
    ]
    filling = [Sample(at_ns, 1_500, 1_600, 2, Status.OK) for at_ns in (500, 1_400)]
    assert service_times(waited).seconds == {1: (1e-7, 9e-7, 1e-7)}
    assert service_times([waited[0], *filling], batch_wait_s=1e-6).seconds == {1: (1e-7,), 2: (1e-7,)}
    assert service_times([waited[0], *filling]).seconds == {1: (1e-7,), 2: (1.1e-6,)}


def test_latency_is_replayed_against_the_whole_run() -> None:
    """Two windows that saw other requests but the same service times are given the same latency."""
    early, late = window(30), window(80)
    assert latency_at_load_s(early) == latency_at_load_s(late) > SERVICE_S


def test_latency_grows_with_service_time_up_to_hopeless() -> None:
    """Slower service is a higher quantile; beyond four limits it is reported as four limits."""
    figures = [latency_at_load_s(window(service_s=seconds)) for seconds in (0.01, 0.02, 0.04, 0.1)]
    assert figures == sorted(figures)
    assert figures[-1] == HOPELESS * SLO.limit_s


def test_a_good_window_is_feasible() -> None:
    """Energy at the offered load, the replayed latency, and the window's own beside it."""
    record = conclude(ticks([7, 8, 6, 9, 7, 8]), [window()])
    rate_hz = window().rate_hz
    assert record.outcome == Feasible()
    assert record.energy_j == pytest.approx((IDLE_W + 30.0 * rate_hz * SERVICE_S) / rate_hz)
    assert record.latency_s == latency_at_load_s(window())
    assert record.measured_latency_s == pytest.approx(SERVICE_S)
    assert (record.requests, record.window_s) == (75, pytest.approx(3.0))


def test_a_slow_window_is_violated() -> None:
    """The quantile at the offered load lies beyond the limit."""
    record = conclude(ticks([7, 8, 6, 9]), [window(service_s=0.06)])
    assert record.outcome == Violated()
    assert record.latency_s is not None
    assert record.latency_s > SLO.limit_s


@pytest.mark.parametrize("failed", [1, 10, 1000])
def test_failures_violate_and_say_so_in_the_latency(failed: int) -> None:
    """However fast the others were: the latency told lies beyond the limit, the further the more requests failed."""
    record = conclude(ticks([7, 8, 6, 9]), [window()], failed)
    assert record.outcome == Violated()
    assert record.latency_s is not None
    assert record.latency_s == pytest.approx(SLO.limit_s * (1 + 3 * failed / (failed + 75)))


def test_nothing_served_is_idle() -> None:
    """A window nobody used is invalid, and so is one in which every request failed: there is nothing to replay."""
    empty = ModelWindow((), arrivals(), SLO, 1)
    assert conclude(ticks([0, 0]), [empty]).outcome == Invalid("idle")
    assert conclude([], [window()]).outcome == Invalid("idle")
    failures = ModelWindow(tuple(samples(9, status=Status.FAILED)), arrivals(), SLO, 1)
    assert conclude(ticks([5, 4]), [failures], 9).outcome == Invalid("idle")


def test_joules_that_did_not_move_are_no_measurement() -> None:
    """An energy counter that stood still is a fault of the sensor, not free computing."""
    still = [Tick(tick.at_s, 5.0, tick.busy_s, tick.requests) for tick in ticks([7, 8, 6])]
    assert conclude(still, [window()]).outcome == Invalid("energy")


def test_of_several_models_the_one_nearest_its_limit_counts() -> None:
    """Its share of its own limit, in the first model's seconds; energy is shared by the requests of all."""
    easy, hard = window(slo=Slo(0.95, 1.0)), window(slo=Slo(0.95, 0.03))
    record = conclude(ticks([14, 16, 12, 18]), [easy, hard])
    assert record.outcome == Violated()
    assert record.latency_s == pytest.approx(1.0 * latency_at_load_s(hard) / 0.03)
    assert record.energy_j == pytest.approx((IDLE_W + 30.0 * 2 * easy.rate_hz * SERVICE_S) / (2 * easy.rate_hz))


def test_a_trial_is_judged_again_at_the_load_known_later() -> None:
    """The same evidence under denser arrivals costs fewer joules each and more latency."""
    evidence = Evidence(tuple(ticks([8, 7, 9, 6, 8])), {"m_0_0": window()})
    sparse, dense = (arrivals(rate_hz=rate_hz) for rate_hz in (5.0, 35.0))
    now, later = (evidence.under({"m_0_0": trace}, {}).record(POINT) for trace in (sparse, dense))
    assert (later.energy_j or 0) < 0.5 * (now.energy_j or 0)
    assert (later.latency_s or 0) > 1.2 * (now.latency_s or 0)
    assert (now.requests, now.point) == (later.requests, POINT)


def slow_spells(number: int) -> ModelWindow:
    """Of ten requests three came at once, in a run whose arrivals are far apart: the third took three services."""
    service_ns, seen = round(SERVICE_S * 1e9), samples(number)
    for index, sample in enumerate(seen):
        if (place := index % 10) in (1, 2):
            arrival_ns = seen[index - place].arrival_ns
            start_ns = arrival_ns + place * service_ns
            seen[index] = replace(sample, arrival_ns=arrival_ns, start_ns=start_ns, end_ns=start_ns + service_ns)
    return replace(window(), samples=tuple(seen), arrivals_s=tuple(float(second) for second in range(200)))


def test_spells_that_the_replay_does_not_know_lift_its_latencies() -> None:
    """The tail of what was seen over the tail of the replay, pooled over windows, multiplies every prediction."""
    factor = surprise([slow_spells(100), slow_spells(100)])
    assert factor == pytest.approx(3.0, rel=0.01)
    lifted = replace(slow_spells(100), surprise=factor)
    assert latency_at_load_s(lifted) == pytest.approx(3.0 * SERVICE_S, rel=0.01)


def test_a_few_requests_are_no_surprise() -> None:
    """Too few requests to know a tail, or latencies below the replay, leave the replay as it is."""
    assert surprise([slow_spells(100)]) == 1.0
    assert surprise([window(200), window(200)]) == 1.0
