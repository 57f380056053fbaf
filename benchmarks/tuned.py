# SPDX-License-Identifier: Apache-2.0
"""One served model under load: its service times, the load and objective that they define, and a tuning by `teg run`.

What `make demo` and `make bench-live` share. Only the silicon is virtual.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boards.clocks import ClockTable
from governor.history import FILE, from_json
from governor.latency import service_times
from governor.load import LoadPlan, LoadReport, draw_arrivals, run_load
from governor.points import clocks_of
from governor.traffic import batch_values
from governor.trial import TrialRecord
from predictor.queueing import ServiceTimes
from telemetry.durable import read_log

from .arms import Bench, Setting, Window, summarise
from .oracle import Figure, Oracle, best_within
from .stack import TEG, Stack, child

QUANTILE = 0.95
LOAD_SHARE = 0.5
KNOBS = ("cpu_hz", "gpu_hz", "emc_hz", "batch")
ROUNDS = 4
BURSTS, FEWEST, FILL_S = 12, 3, 0.03


@dataclass(frozen=True, slots=True)
class Baseline:
    """Maximum clocks at their best batch limit, the load they define and the objective that follows."""

    setting: Setting
    rate_hz: float
    slo_s: float
    window: Window


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tuning by `teg run`: its trials, the point that it would hold, the load's report, and how long it took."""

    trials: list[TrialRecord]
    best: dict[str, float] | None
    load: LoadReport
    seconds: float
    finished: bool


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def calibrate(stack: Stack, plan: LoadPlan, table: ClockTable, max_batch: int) -> ServiceTimes:
    """Service times at maximum clocks by batch size: bursts of exactly so many requests, far apart."""
    say("measuring service times at maximum clocks, by batch size")
    bench = Bench(stack.run_dir)
    sizes: dict[int, tuple[float, ...]] = {}
    gap_s = 0.25
    try:
        for batch in batch_values([max_batch]):
            bursts = tuple(number * gap_s for number in range(BURSTS // batch + FEWEST) for _ in range(batch))
            setting = Setting(table.maximum(), batch)
            window = bench.measure(
                setting, dataclasses.replace(plan, arrivals_s=bursts), settle_s=0.1, batch_wait_s=FILL_S
            )
            sizes[batch] = service_times(window.samples, FILL_S).seconds[batch]
            # the next size takes about twice as long
            gap_s = 0.1 + 2.5 * statistics.median(sizes[batch])
    finally:
        bench.close()
    return ServiceTimes(sizes)


def offered_hz(services: ServiceTimes, share: float = LOAD_SHARE) -> float:
    """A share of what maximum clocks can serve, at the batch size with the highest throughput."""
    return share * max(size / services.mean_s(size) for size in services.seconds)


def traces(rate_hz: float, requests: int) -> list[tuple[float, ...]]:
    """One Poisson trace per round, `requests` in all. Together they are the load, in every window of it.

    The p95 of 500 requests at half load depends on the luck of their arrivals by a quarter and more; an objective taken
    from one trace says little about another.
    """
    return [draw_arrivals(rate_hz, seed, requests=requests // ROUNDS) for seed in range(ROUNDS)]


def chained(parts: Sequence[tuple[float, ...]], times: int) -> tuple[float, ...]:
    """Traces one after the other, so many times over."""
    arrivals: list[float] = []
    begin_s = 0.0
    for part in list(parts) * times:
        arrivals += [begin_s + arrival_s for arrival_s in part]
        begin_s = arrivals[-1]
    return tuple(arrivals)


def measure_baseline(
    stack: Stack, plan: LoadPlan, table: ClockTable, oracle: Oracle, slack: float, max_batch: int
) -> Baseline:
    """Maximum clocks at the batch limit that costs least among those within `slack` of the lowest latency."""
    figures = [oracle.figure(table.maximum(), batch) for batch in batch_values([max_batch])]
    limit_s = slack * min(figure.latency_s for figure in figures)
    setting = Setting(table.maximum(), best_within(figures, limit_s).batch)
    say(f"baseline: maximum clocks, batch limit {setting.batch}, {oracle.rate_hz:.1f} requests/s offered")
    bench = Bench(stack.run_dir)
    try:
        window = bench.measure(setting, dataclasses.replace(plan, arrivals_s=oracle.arrivals_s))
    finally:
        bench.close()
    slo_s = slack * summarise([window]).p95_s
    say(f"SLO: p{QUANTILE * 100:g} <= {slo_s * 1e3:.1f} ms ({slack:g}x the baseline's)")
    return Baseline(setting, oracle.rate_hz, slo_s, window)


def loaded(oracle: Oracle, baseline: Baseline) -> Oracle:
    """The oracle with service times under load, where known: the host serves faster than after a pause."""
    return dataclasses.replace(oracle, services={**oracle.services, **service_times(baseline.window.samples).seconds})


def tune(
    stack: Stack,
    plan: LoadPlan,
    slo_s: float,
    state_dir: Path,
    options: Sequence[str],
    limit_s: float | None = None,
) -> Tuned:
    """Let `teg run` tune under a load of its own, which the plan's arrivals must outlast; end it after `limit_s`."""
    stop = threading.Event()
    reports: list[LoadReport] = []
    loader = threading.Thread(target=lambda: reports.append(run_load(plan, stopped=stop.is_set)))
    loader.start()
    arguments = [*TEG, "run", "--run-dir", str(stack.run_dir.root), "--state-dir", str(state_dir), *options]
    arguments += ["--slo-s", f"{slo_s:.6f}", "--slo-quantile", str(QUANTILE), "--knobs", ",".join(KNOBS)]
    arguments += ["--metrics-port", "0", "--exit-when-tuned"]
    began_s, finished = time.monotonic(), False
    try:
        with child(subprocess.Popen(arguments)) as governor, contextlib.suppress(subprocess.TimeoutExpired):
            governor.wait(limit_s)
            finished = True
    finally:
        stop.set()
        loader.join()
    rows = list(read_log(state_dir / FILE))
    held = [row["point"] for row in rows if row["kind"] == "hold" and row["feasible"]]
    trials = [from_json(row) for row in rows if row["kind"] == "trial"]
    return Tuned(trials, held[-1] if held else None, reports[0], time.monotonic() - began_s, finished)


def setting_of(point: dict[str, float], table: ClockTable, max_batch: int) -> Setting:
    """The clocks and batch limit of a search point; maximum clocks where it is silent."""
    clocks = dataclasses.replace(table.maximum(), **clocks_json(clocks_of(point, table)))
    return Setting(clocks, int(point.get("batch", max_batch)))


def achievable(
    oracle: Oracle, table: ClockTable, baseline: Baseline, slack: float, max_batch: int
) -> tuple[Figure, list[Figure]]:
    """The best point by the board's own formulas, under the formula's own SLO, and every point's figures."""
    own = oracle.figure(baseline.setting.clocks, baseline.setting.batch)
    figures = oracle.sweep(table, KNOBS, batch_values([max_batch]), slowest=slack)
    return best_within(figures, slack * own.latency_s), figures


def clocks_json(clocks: Any) -> dict[str, int]:
    """Clocks by knob, without those that are not set."""
    return {name: value for name, value in dataclasses.asdict(clocks).items() if value is not None}
