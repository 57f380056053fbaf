# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a real Triton, real photographs, a virtual AGX Orin; tuned under load, then measured side by side.

The baseline is maximum clocks at their own best feasible batch limit. The offered load is half of the baseline's
capacity; the SLO is `SLACK` (1.5) times the baseline's 0.95 quantile in its own window. Then baseline and tuned run in
four rounds in turn, each pair of windows on the same arrivals. Only the silicon is virtual.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
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
from boards.physics import shipped
from governor.client import ClockClient
from governor.history import FILE, from_json
from governor.latency import service_times
from governor.load import LoadPlan, LoadReport, draw_arrivals, run_load
from governor.points import clocks_of
from governor.traffic import batch_values
from governor.trial import Invalid, TrialRecord, Violated
from predictor.queueing import ServiceTimes
from telemetry.durable import read_log

from . import photographs, plots
from .arms import Bench, Setting, Summary, Window, summarise
from .oracle import Figure, Oracle, best_within
from .recorder import Recorder
from .stack import TEG, Stack, child, running

MODEL, TENSOR, WORKLOAD = "resnet18", "IMAGE", "resnet"
QUANTILE = 0.95
LOAD_SHARE = 0.5
MAX_BATCH = 8
KNOBS = ("cpu_hz", "gpu_hz", "emc_hz", "batch")
TRIALS = 17
TRIAL_S = 3.5
ROUNDS = 4
REQUESTS = 504
"""Behind each figure: one baseline window of its own, and each arm over its rounds."""
BURSTS, FEWEST = 12, 3
T_95 = 3.182
"""Student's t for a two-sided 95 % interval over four rounds."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Maximum clocks at their best batch limit, the load they define and the objective that follows."""

    setting: Setting
    rate_hz: float
    slo_s: float
    window: Window


def main() -> int:
    """Run the demo; 0 if the tuned point saves energy, keeps the SLO, and no request failed."""
    began_s = time.monotonic()
    slack = float(os.environ.get("SLACK") or 1.5)
    folder = Path("out/demo")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state" / FILE).unlink(missing_ok=True)
    images = photographs.write(folder / "photographs.npz", TENSOR)
    say(f"serving {MODEL} on a real Triton and a virtual AGX Orin (logs in {folder})")
    with running(folder, MODEL) as stack, Recorder(stack.run_dir) as recorder:
        with ClockClient(stack.run_dir.socket) as client:
            table = client.table()
        plan = LoadPlan(stack.grpc_url, MODEL, (), input_file=images)
        services = calibrate(stack, plan, table)
        rate_hz = offered_hz(services)
        oracle = Oracle(shipped(WORKLOAD), services.seconds, chained(traces(rate_hz), 1), QUANTILE)
        baseline = measure_baseline(stack, plan, table, oracle, rate_hz, slack)
        # under load the host serves faster than after the pauses between bursts
        loaded = service_times(baseline.window.samples).seconds
        oracle = dataclasses.replace(oracle, services={**services.seconds, **loaded})
        trials, best, load = tune(stack, plan, baseline, folder)
        tuned = Setting(*setting_of(best or {}, table))
        say(f"measuring baseline and tuned in {ROUNDS} interleaved rounds")
        rounds = measure_rounds(stack, plan, baseline, tuned)
    ceiling = achievable(oracle, table, baseline, slack)
    summary = summarise_run(baseline, tuned, rounds, trials, load, ceiling, oracle)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    plots.timeline(folder / "timeline.png", recorder.record, trials_log(folder), baseline.slo_s, rounds)
    plots.pareto(folder / "pareto.png", trials, summary, ceiling)
    show(summary)
    say(f"{folder}/summary.json, timeline.png, pareto.png; {time.monotonic() - began_s:.0f} s")
    return 0 if summary["saving_fraction"] > 0 and summary["slo_kept"] and not summary["failed_requests"] else 1


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def calibrate(stack: Stack, plan: LoadPlan, table: ClockTable) -> ServiceTimes:
    """Service times at maximum clocks by batch size: bursts of exactly so many requests, far apart."""
    say("measuring service times at maximum clocks, by batch size")
    bench = Bench(stack.run_dir)
    sizes: dict[int, tuple[float, ...]] = {}
    gap_s = 0.25
    try:
        for batch in batch_values([MAX_BATCH]):
            bursts = tuple(number * gap_s for number in range(BURSTS // batch + FEWEST) for _ in range(batch))
            setting = Setting(table.maximum(), batch)
            window = bench.measure(
                setting, dataclasses.replace(plan, arrivals_s=bursts), settle_s=0.1, batch_wait_s=0.03
            )
            sizes[batch] = service_times(window.samples).seconds[batch]
            # the next size takes about twice as long
            gap_s = 0.1 + 2.5 * statistics.median(sizes[batch])
    finally:
        bench.close()
    return ServiceTimes(sizes)


def offered_hz(services: ServiceTimes) -> float:
    """Half of what maximum clocks can serve, at the batch size with the highest throughput."""
    return LOAD_SHARE * max(size / services.mean_s(size) for size in services.seconds)


def traces(rate_hz: float) -> list[tuple[float, ...]]:
    """One Poisson trace per round. Together they are the load of this demo, in every window of it.

    The p95 of 500 requests at half load depends on the luck of their arrivals by a quarter and more; an objective taken
    from one trace says little about another.
    """
    return [draw_arrivals(rate_hz, seed, requests=REQUESTS // ROUNDS) for seed in range(ROUNDS)]


def chained(parts: Sequence[tuple[float, ...]], times: int) -> tuple[float, ...]:
    """Traces one after the other, so many times over."""
    arrivals: list[float] = []
    begin_s = 0.0
    for part in list(parts) * times:
        arrivals += [begin_s + arrival_s for arrival_s in part]
        begin_s = arrivals[-1]
    return tuple(arrivals)


def measure_baseline(
    stack: Stack, plan: LoadPlan, table: ClockTable, oracle: Oracle, rate_hz: float, slack: float
) -> Baseline:
    """Maximum clocks at the batch limit that costs least among those within `slack` of the lowest latency."""
    figures = [oracle.figure(table.maximum(), batch) for batch in batch_values([MAX_BATCH])]
    limit_s = slack * min(figure.latency_s for figure in figures)
    setting = Setting(table.maximum(), best_within(figures, limit_s).batch)
    say(f"baseline: maximum clocks, batch limit {setting.batch}, {rate_hz:.1f} requests/s offered")
    bench = Bench(stack.run_dir)
    try:
        window = bench.measure(setting, dataclasses.replace(plan, arrivals_s=chained(traces(rate_hz), 1)))
    finally:
        bench.close()
    slo_s = slack * summarise([window]).p95_s
    say(f"SLO: p{QUANTILE * 100:g} <= {slo_s * 1e3:.1f} ms ({slack:g}x the baseline's)")
    return Baseline(setting, rate_hz, slo_s, window)


def tune(
    stack: Stack, plan: LoadPlan, baseline: Baseline, folder: Path
) -> tuple[list[TrialRecord], dict[str, float] | None, LoadReport]:
    """Let `teg run` tune under a load of its own; its trials, the point it would hold, and the load's report."""
    stop = threading.Event()
    reports: list[LoadReport] = []
    endless = dataclasses.replace(plan, arrivals_s=chained(traces(baseline.rate_hz), 20))
    loader = threading.Thread(target=lambda: reports.append(run_load(endless, stopped=stop.is_set)))
    loader.start()
    arguments = [*TEG, "run", "--run-dir", str(stack.run_dir.root), "--state-dir", str(folder / "state")]
    arguments += ["--slo-s", f"{baseline.slo_s:.6f}", "--slo-quantile", str(QUANTILE), "--knobs", ",".join(KNOBS)]
    arguments += ["--trials", str(TRIALS), "--trial-s", str(TRIAL_S), "--metrics-port", "0", "--exit-when-tuned"]
    try:
        with child(subprocess.Popen(arguments)) as governor:
            governor.wait()
    finally:
        stop.set()
        loader.join()
    rows = list(read_log(folder / "state" / FILE))
    held = [row["point"] for row in rows if row["kind"] == "hold" and row["feasible"]]
    return [from_json(row) for row in rows if row["kind"] == "trial"], held[-1] if held else None, reports[0]


def trials_log(folder: Path) -> list[tuple[float, TrialRecord]]:
    """When each trial ended, and the trial."""
    return [(row["at_s"], from_json(row)) for row in read_log(folder / "state" / FILE) if row["kind"] == "trial"]


def setting_of(point: dict[str, float], table: ClockTable) -> tuple[Any, int]:
    """The clocks and batch limit of a search point; maximum clocks where it is silent."""
    clocks = dataclasses.replace(table.maximum(), **_clocks_json(clocks_of(point, table)))
    return clocks, int(point.get("batch", MAX_BATCH))


def measure_rounds(stack: Stack, plan: LoadPlan, baseline: Baseline, tuned: Setting) -> list[tuple[Window, Window]]:
    """Baseline and tuned in turn; both windows of a round get the same arrivals."""
    bench, rounds = Bench(stack.run_dir), []
    try:
        for number, arrivals_s in enumerate(traces(baseline.rate_hz)):
            trace = dataclasses.replace(plan, arrivals_s=arrivals_s)
            arms = [baseline.setting, tuned] if number % 2 == 0 else [tuned, baseline.setting]
            windows = {arm: bench.measure(arm, trace) for arm in arms}
            rounds.append((windows[baseline.setting], windows[tuned]))
    finally:
        bench.close()
    return rounds


def achievable(oracle: Oracle, table: ClockTable, baseline: Baseline, slack: float) -> tuple[Figure, list[Figure]]:
    """The best point by the board's own formulas, under the formula's own SLO, and every point's figures."""
    own = oracle.figure(baseline.setting.clocks, baseline.setting.batch)
    figures = oracle.sweep(table, KNOBS, batch_values([MAX_BATCH]), slowest=slack)
    return best_within(figures, slack * own.latency_s), figures


def summarise_run(
    baseline: Baseline,
    tuned: Setting,
    rounds: Sequence[tuple[Window, Window]],
    trials: Sequence[TrialRecord],
    load: LoadReport,
    ceiling: tuple[Figure, list[Figure]],
    oracle: Oracle,
) -> dict[str, Any]:
    """Everything that `summary.json` says; SI units."""
    base, better = summarise([pair[0] for pair in rounds]), summarise([pair[1] for pair in rounds])
    savings = [1 - after.j_per_request / before.j_per_request for before, after in rounds]
    half = T_95 * statistics.stdev(savings) / math.sqrt(len(savings))
    own = oracle.figure(baseline.setting.clocks, baseline.setting.batch)
    saving = 1 - better.j_per_request / base.j_per_request
    possible = 1 - ceiling[0].j_per_request / own.j_per_request
    clients = [baseline.window.client, load, *(window.client for pair in rounds for window in pair)]
    return {
        "board": "virtual:agx-orin",
        "virtual": True,
        "virtual_workload": WORKLOAD,
        "model": MODEL,
        "slo_s": baseline.slo_s,
        "slo_quantile": QUANTILE,
        "offered_rps": baseline.rate_hz,
        "requests": sum(report.requests for report in clients),
        "failed_requests": sum(report.failed for report in clients),
        "trials": len(trials),
        "slo_violations": sum(isinstance(trial.outcome, Violated) for trial in trials),
        "invalid_trials": sum(isinstance(trial.outcome, Invalid) for trial in trials),
        "baseline": arm_json(baseline.setting, base),
        "tuned": arm_json(tuned, better),
        "slo_kept": better.p95_s <= baseline.slo_s,
        "saving_fraction": saving,
        "saving_interval": [statistics.mean(savings) - half, statistics.mean(savings) + half],
        "achievable_fraction": possible,
        "achieved_of_achievable": saving / possible,
        "achievable_point": {**_clocks_json(ceiling[0].clocks), "batch": ceiling[0].batch},
        "host_service_s": {str(size): statistics.mean(times) for size, times in oracle.services.items()},
    }


def arm_json(setting: Setting, figures: Summary) -> dict[str, Any]:
    """One arm of the summary."""
    return {
        "point": _clocks_json(setting.clocks),
        "batch": setting.batch,
        **dataclasses.asdict(figures),
    }


def _clocks_json(clocks: Any) -> dict[str, int]:
    return {name: value for name, value in dataclasses.asdict(clocks).items() if value is not None}


def show(summary: dict[str, Any]) -> None:
    """The table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{summary['model']} on a virtual AGX Orin, {summary['offered_rps']:.1f} requests/s")
    for column in ("", "GPU MHz", "EMC MHz", "CPU MHz", "batch", "J/request", "p50 ms", "p95 ms", "p99 ms", "requests"):
        table.add_column(column, justify="right" if column else "left")
    for name in ("baseline", "tuned"):
        arm = summary[name]
        clocks = [f"{arm['point'][knob] / 1e6:.1f}" for knob in ("gpu_hz", "emc_hz", "cpu_hz")]
        latencies = [f"{arm[key] * 1e3:.1f}" for key in ("p50_s", "p95_s", "p99_s")]
        energy = f"{arm['j_per_request']:.3f}"
        table.add_row(name, *clocks, str(arm["batch"]), energy, *latencies, str(arm["requests"]))
    console = Console()
    Console(width=max(console.width, 100)).print(table)
    low, high = summary["saving_interval"]
    print(
        f"saving {summary['saving_fraction']:.1%} (95 % interval {low:.1%} to {high:.1%}) "
        f"of {summary['achievable_fraction']:.1%} achievable\n"
        f"SLO p{summary['slo_quantile'] * 100:g} <= {summary['slo_s'] * 1e3:.1f} ms "
        f"{'kept' if summary['slo_kept'] else 'BROKEN'}; "
        f"{summary['failed_requests']} of {summary['requests']} requests failed; "
        f"{summary['trials']} trials, {summary['slo_violations']} beyond the SLO\n"
        "Energy and clocks are those of a virtual board."
    )


if __name__ == "__main__":
    # SIGTERM unwinds like Ctrl-C, so that clockd, Triton and the governor are ended
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
