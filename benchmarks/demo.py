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
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from boards.physics import shipped
from governor.client import ClockClient
from governor.history import FILE, from_json
from governor.load import LoadPlan
from governor.trial import Invalid, TrialRecord, Violated
from telemetry.durable import read_log

from . import photographs, plots
from .arms import Bench, Setting, Summary, Window, summarise
from .oracle import Figure, Oracle
from .recorder import Recorder
from .stack import Stack, running
from .tuned import (
    QUANTILE,
    ROUNDS,
    Baseline,
    Tuned,
    achievable,
    calibrate,
    chained,
    clocks_json,
    loaded,
    measure_baseline,
    offered_hz,
    say,
    setting_of,
    traces,
    tune,
)

MODEL, TENSOR, WORKLOAD = "resnet18", "IMAGE", "resnet"
MAX_BATCH = 8
TRIALS = 17
TRIAL_S = 3.5
REQUESTS = 504
"""Behind each figure: one baseline window of its own, and each arm over its rounds."""
T_95 = 3.182
"""Student's t for a two-sided 95 % interval over four rounds."""


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
        services = calibrate(stack, plan, table, MAX_BATCH)
        parts = traces(offered_hz(services), REQUESTS)
        oracle = Oracle(shipped(WORKLOAD), services.seconds, chained(parts, 1), QUANTILE)
        baseline = measure_baseline(stack, plan, table, oracle, slack, MAX_BATCH)
        oracle = loaded(oracle, baseline)
        endless = dataclasses.replace(plan, arrivals_s=chained(parts, 20))
        options = ("--trials", str(TRIALS), "--trial-s", str(TRIAL_S), "--breach-share", "1")
        found = tune(stack, endless, baseline.slo_s, folder / "state", options)
        tuned = setting_of(found.best or {}, table, MAX_BATCH)
        say(f"measuring baseline and tuned in {ROUNDS} interleaved rounds")
        rounds = measure_rounds(stack, plan, parts, baseline, tuned)
    ceiling = achievable(oracle, table, baseline, slack, MAX_BATCH)
    summary = summarise_run(baseline, tuned, rounds, found, ceiling, oracle)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    plots.timeline(folder / "timeline.png", recorder.record, trials_log(folder), baseline.slo_s, rounds)
    plots.pareto(folder / "pareto.png", found.trials, summary, ceiling)
    show(summary)
    say(f"{folder}/summary.json, timeline.png, pareto.png; {time.monotonic() - began_s:.0f} s")
    return 0 if summary["saving_fraction"] > 0 and summary["slo_kept"] and not summary["failed_requests"] else 1


def trials_log(folder: Path) -> list[tuple[float, TrialRecord]]:
    """When each trial ended, and the trial."""
    return [(row["at_s"], from_json(row)) for row in read_log(folder / "state" / FILE) if row["kind"] == "trial"]


def measure_rounds(
    stack: Stack, plan: LoadPlan, parts: Sequence[tuple[float, ...]], baseline: Baseline, tuned: Setting
) -> list[tuple[Window, Window]]:
    """Baseline and tuned in turn; both windows of a round get the same arrivals."""
    bench, rounds = Bench(stack.run_dir), []
    try:
        for number, arrivals_s in enumerate(parts):
            trace = dataclasses.replace(plan, arrivals_s=arrivals_s)
            arms = [baseline.setting, tuned] if number % 2 == 0 else [tuned, baseline.setting]
            windows = {arm: bench.measure(arm, trace) for arm in arms}
            rounds.append((windows[baseline.setting], windows[tuned]))
    finally:
        bench.close()
    return rounds


def summarise_run(
    baseline: Baseline,
    tuned: Setting,
    rounds: Sequence[tuple[Window, Window]],
    found: Tuned,
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
    clients = [baseline.window.client, found.load, *(window.client for pair in rounds for window in pair)]
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
        "trials": len(found.trials),
        "slo_violations": sum(isinstance(trial.outcome, Violated) for trial in found.trials),
        "invalid_trials": sum(isinstance(trial.outcome, Invalid) for trial in found.trials),
        "baseline": arm_json(baseline.setting, base),
        "tuned": arm_json(tuned, better),
        "slo_kept": better.p95_s <= baseline.slo_s,
        "saving_fraction": saving,
        "saving_interval": [statistics.mean(savings) - half, statistics.mean(savings) + half],
        "achievable_fraction": possible,
        "achieved_of_achievable": saving / possible,
        "achievable_point": {**clocks_json(ceiling[0].clocks), "batch": ceiling[0].batch},
        "host_service_s": {str(size): statistics.mean(times) for size, times in oracle.services.items()},
    }


def arm_json(setting: Setting, figures: Summary) -> dict[str, Any]:
    """One arm of the summary."""
    return {
        "point": clocks_json(setting.clocks),
        "batch": setting.batch,
        **dataclasses.asdict(figures),
    }


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
