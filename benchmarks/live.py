# SPDX-License-Identifier: Apache-2.0
"""`make bench-live`: real models on a real Triton and a virtual AGX Orin, tuned by `teg run` under open-loop load.

Each model is tuned from cold and from what tunings of the other models measured, brought by `teg history export` and
`import`. The point that is held is compared with the best of the whole clock table by the board's own formulas, with
service times of this host measured per batch size. Load and objective follow from these, as in `make demo`. Results are
kept by (model, start) in out/bench/live while neither product nor benchmark changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boards.physics import shipped
from governor.client import ClockClient
from governor.load import LoadPlan
from governor.trial import Feasible, Invalid, TrialRecord, Violated

from . import photographs
from .oracle import Figure, Oracle
from .recorder import Record, Recorder
from .stack import TEG, Stack, running
from .tuned import (
    QUANTILE,
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

SLACK = 1.5
LOAD_SHARE = 0.4
"""Of what maximum clocks can serve; the rest of this host is for the search and for the clients."""
TRIALS, TRIAL_S = 20, 3.0
LOAD_S = 20.0
"""Length of the load's trace, which comes again and again; one baseline window of it defines the objective."""
FEWEST, MOST = 160, 480
"""Requests in it."""
TUNE_S = 210.0
"""A tuning that takes longer is ended."""
BUDGET_S = 28 * 60.0
ITEM_S = 270.0
"""Nothing is begun that would not end within the budget."""
TARGET = 0.05
FOLDER = Path("out/bench/live")
COLD, PRIOR = "cold", "prior"


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the repository; photographs are sent as `tensor`, random tokens without one."""

    name: str
    workload: str
    tensor: str = ""
    max_batch: int = 8
    """Largest batch whose service time is measured; the repository's limits are no smaller."""


MODELS = (
    Model("resnet18", "resnet", "IMAGE"),
    Model("efficientnet_b0", "resnet", "IMAGE"),
    Model("bert_mini", "bert"),
)
FULL = (*MODELS, Model("bert_base", "bert", max_batch=2))


def main() -> int:
    """Tune every model from both starts; 0 if all of them end within the target and no request failed."""
    began_s, left_out = time.monotonic(), []
    models = FULL if os.environ.get("FULL") else MODELS
    entries = []
    for start in (COLD, PRIOR):
        for model in models:
            kept = FOLDER / f"{model.name}-{start}.json"
            if (entry := read_entry(kept)) is None:
                if not os.environ.get("FULL") and time.monotonic() - began_s > BUDGET_S - ITEM_S:
                    left_out.append(f"{model.name} from {start}: no time was left; run it again")
                    continue
                entry = measure(model, start, [other.name for other in models if other != model])
                kept.write_text(json.dumps(entry, indent=1) + "\n")
            entries.append(entry)
            show(entry)
    if not os.environ.get("FULL"):
        left_out.append("bert_base: FULL=1 adds it")
    met = all(entry["met"] for entry in entries)
    summary = {"board": "virtual:agx-orin", "virtual": True, "target": TARGET, "met": met, "left_out": left_out}
    (FOLDER.parent / "live.json").write_text(json.dumps(summary | {"tunings": entries}, indent=1) + "\n")
    say("\n".join(f"left out: {text}" for text in left_out))
    return 0 if met else 1


def measure(model: Model, start: str, others: Sequence[str]) -> dict[str, Any]:
    """Serve one model, find its load and objective, tune it, and judge the point that is held."""
    say(f"{model.name} from {start}")
    folder = FOLDER / f"{model.name}-{start}"
    shutil.rmtree(folder, ignore_errors=True)
    priors = bring(others, folder / "state") if start == PRIOR else 0
    with running(folder, model.name) as stack:
        with ClockClient(stack.run_dir.socket) as client:
            table = client.table()
        images = photographs.write(folder / "photographs.npz", model.tensor) if model.tensor else None
        plan = LoadPlan(stack.grpc_url, model.name, (), input_file=images)
        services = calibrate(stack, plan, table, model.max_batch)
        rate_hz = offered_hz(services, LOAD_SHARE)
        parts = traces(rate_hz, min(MOST, max(FEWEST, int(LOAD_S * rate_hz))))
        oracle = Oracle(shipped(model.workload), services.seconds, chained(parts, 1), QUANTILE)
        baseline = measure_baseline(stack, plan, table, oracle, SLACK, model.max_batch)
        endless = dataclasses.replace(plan, arrivals_s=chained(parts, 2 + int(TUNE_S / oracle.arrivals_s[-1])))
        with Recorder(stack.run_dir) as recorder:
            found = run(stack, endless, baseline, folder / "state")
    oracle = loaded(oracle, baseline)
    best, figures = achievable(oracle, table, baseline, SLACK, model.max_batch)
    limit_s = SLACK * oracle.figure(baseline.setting.clocks, baseline.setting.batch).latency_s
    tried = [by_formula(oracle, trial.point, table, model) for trial in found.trials]
    point = found.best or cheapest(found.trials)
    held = by_formula(oracle, point, table, model) if point else None
    return {
        "model": model.name,
        "start": start,
        "virtual_workload": model.workload,
        "made_by": fingerprint(),
        "priors": priors,
        **judged(found, held, best, limit_s),
        **paths(found.trials, tried, best, limit_s),
        **promises(found, recorder.record, baseline),
        "saving_of_max_clocks": saving(held, oracle.figure(baseline.setting.clocks, baseline.setting.batch)),
        "grid_points": len(figures),
        "host_service_s": {str(size): statistics.mean(times) for size, times in oracle.services.items()},
    }


def run(stack: Stack, plan: LoadPlan, baseline: Baseline, state_dir: Path) -> Tuned:
    """The tuning; of one that is not done in time the cheapest trial that kept the objective counts."""
    options = ("--trials", str(TRIALS), "--trial-s", str(TRIAL_S), "--breach-share", "1")
    return tune(stack, plan, baseline.slo_s, state_dir, options, TUNE_S)


def bring(others: Sequence[str], state_dir: Path) -> int:
    """Take what cold tunings of the other models measured into a state directory; of how many models."""
    brought = 0
    for name in others:
        source, shared = FOLDER / f"{name}-{COLD}" / "state", FOLDER / f"{name}.json"
        if not source.exists():
            continue
        subprocess.run([*TEG, "history", "export", str(shared), "--force", "--state", str(source)], check=True)
        subprocess.run([*TEG, "history", "import", str(shared), "--state", str(state_dir)], check=True)
        brought += 1
    return brought


def cheapest(trials: Sequence[TrialRecord]) -> dict[str, float] | None:
    """The point of the cheapest trial that kept the objective."""
    kept = [trial for trial in trials if isinstance(trial.outcome, Feasible)]
    return min(kept, key=lambda trial: trial.energy_j or 0.0).point if kept else None


def by_formula(oracle: Oracle, point: dict[str, float], table: Any, model: Model) -> Figure:
    """A point's figures by the board's formulas."""
    setting = setting_of(point, table, model.max_batch)
    return oracle.figure(setting.clocks, setting.batch)


def judged(found: Tuned, held: Figure | None, best: Figure, limit_s: float) -> dict[str, Any]:
    """How far the point held is from the best one, and whether that is near enough."""
    distance = held.j_per_request / best.j_per_request - 1 if held else None
    over = held.latency_s / limit_s - 1 if held else None
    return {
        "met": found.finished and distance is not None and distance <= TARGET and not found.load.failed,
        "distance": distance,
        "latency_over_limit": over,
        "held": figure_json(held) if held else None,
        "best": figure_json(best),
        "finished": found.finished,
        "seconds": found.seconds,
    }


def paths(trials: Sequence[TrialRecord], tried: Sequence[Figure], best: Figure, limit_s: float) -> dict[str, Any]:
    """How the search went: trials, how many until one was near the best, and violations."""
    near = [
        number
        for number, figure in enumerate(tried, 1)
        if figure.latency_s <= limit_s and figure.j_per_request <= (1 + TARGET) * best.j_per_request
    ]
    ratios = [
        (trial.energy_j or 0.0) / figure.j_per_request - 1
        for trial, figure in zip(trials, tried, strict=True)
        if trial.energy_j
    ]
    return {
        "trials": len(trials),
        "trials_to_target": near[0] if near else None,
        "violations": sum(isinstance(trial.outcome, Violated) for trial in trials),
        "violations_by_formula": sum(figure.latency_s > limit_s for figure in tried),
        "invalid": [trial.outcome.reason for trial in trials if isinstance(trial.outcome, Invalid)],
        "window_s_median": statistics.median(trial.window_s for trial in trials) if trials else None,
        "measured_against_formula_median": statistics.median(ratios) if ratios else None,
    }


def promises(found: Tuned, record: Record, baseline: Baseline) -> dict[str, Any]:
    """What clients saw of it."""
    return {
        "slo_s": baseline.slo_s,
        "slo_quantile": QUANTILE,
        "offered_rps": baseline.rate_hz,
        "requests": found.load.requests,
        "failed_requests": found.load.failed,
        "late_requests": sum(latency_s > baseline.slo_s for _, latency_s in record.latencies),
    }


def saving(held: Figure | None, own: Figure) -> float | None:
    """Share of the joules at maximum clocks that the point held saves, by formula."""
    return 1 - held.j_per_request / own.j_per_request if held else None


def figure_json(figure: Figure) -> dict[str, Any]:
    """A point and its figures by formula."""
    return {
        "point": clocks_json(figure.clocks),
        "batch": figure.batch,
        "j_per_request": figure.j_per_request,
        "latency_s": figure.latency_s,
    }


def read_entry(path: Path) -> dict[str, Any] | None:
    """A result of an earlier run by the same code."""
    if not path.exists():
        return None
    entry: dict[str, Any] = json.loads(path.read_text())
    return entry if entry["made_by"] == fingerprint() else None


def fingerprint() -> str:
    """A digest of the code that tunes and of the code that judges."""
    found, root = hashlib.sha256(), Path(__file__).resolve().parents[1]
    own = [root / "benchmarks" / f"{name}.py" for name in ("live", "tuned", "oracle", "arms")]
    for path in (*sorted((root / "governor").rglob("*.py")), *sorted((root / "predictor").glob("*.py")), *own):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def show(entry: dict[str, Any]) -> None:
    """One line."""
    distance = "nothing held" if entry["distance"] is None else f"{entry['distance']:+.1%} from the best"
    say(
        f"{entry['model']} from {entry['start']}: {distance}, {entry['trials']} trials, {entry['violations']} beyond "
        f"the SLO, {entry['late_requests']} late and {entry['failed_requests']} failed of {entry['requests']} "
        f"requests, {entry['seconds']:.0f} s"
    )


if __name__ == "__main__":
    # SIGTERM unwinds like Ctrl-C, so that clockd, Triton and the governor are ended
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
