# SPDX-License-Identifier: Apache-2.0
"""Fit the virtual AGX Orin's coefficients to measured tables, and say how well they fit.

`make fit-virtual DATA=<folder with infer_*.csv and train_*.csv>` writes boards/workloads/*.json. The tables (columns
cores, cpu_hz, gpu_hz, emc_hz, batch, latency_s, power_w, flagged) are not part of this repository. Latency is fitted
first, power then with the busy shares that follow from it; both in log space with a soft-L1 loss, because the tables
hold outliers. Dropped are cells flagged as defective, 2 cores, and the mode 4 cores, GPU 318.75 MHz, EMC 2133 MHz, in
which the clock was not applied.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import astuple, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from boards import physics
from boards.clocks import ClockPoint
from boards.physics import AGX_ORIN, LOADERS, Silicon, Surface, Workload
from boards.profile import read_profile

Table = Any
CLOCKS = read_profile("agx_orin_64gb").table()
OUT = Path(physics.__file__).with_name("workloads")
SOURCE = {
    "measurements": "Jetson AGX Orin developer kit, PyTorch eager; public repository kedar-1401/Dream-Lab on GitHub",
    "papers": ["Fulcrum, arXiv 2509.20205", "PowerTrain, arXiv 2407.13944"],
}
LOAD = 0.5
"""Share of the maximum clocks' capacity at which savings are stated."""


def read_table(path: Path) -> Table:
    """The sound rows of one table."""
    rows = np.genfromtxt(path, delimiter=",", names=True)
    not_applied = (rows["cores"] == 4) & (rows["gpu_hz"] == 318_750_000) & (rows["emc_hz"] == 2_133_000_000)
    return rows[(rows["flagged"] == 0) & ~not_applied & (rows["cores"] >= 4)]


def shares(rows: Table) -> tuple[Any, Any, Any, Any]:
    cpu, gpu = rows["cpu_hz"] / physics.CPU_MAX_HZ, rows["gpu_hz"] / physics.GPU_MAX_HZ
    return cpu, gpu, rows["emc_hz"] / physics.EMC_MAX_HZ, rows["cores"]


def times(theta: Any, rows: Table) -> tuple[Any, Any, Any, Any]:
    """Latency, and the busy shares of host, GPU and memory: `Surface.latency_s` on arrays."""
    fixed, host, loader, gpu, memory, p, q = theta
    x_cpu, x_gpu, x_emc, cores = shares(rows)
    h, g, m = (host + loader * LOADERS / cores) / x_cpu, gpu / x_gpu, memory / x_emc
    latency = fixed + (h**q + ((g**p + m**p) ** (1 / p)) ** q) ** (1 / q)
    return latency, (host + loader) / x_cpu / latency, g / latency, m / latency


def power(theta: Any, rows: Table, busy: tuple[Any, Any, Any], idle_w: Any) -> Any:
    """`Surface.busy` on arrays, all rails together."""
    static, core, cpu, cpu3, gpu, gpu3, memory, memory3 = theta
    x_cpu, x_gpu, x_emc, cores = shares(rows)
    dynamic = (cpu * x_cpu + cpu3 * x_cpu**3) * busy[0] + (gpu * x_gpu + gpu3 * x_gpu**3) * busy[1]
    dynamic = dynamic + (memory * x_emc + memory3 * x_emc**3) * busy[2]
    return idle_w + static + core * x_cpu * cores / physics.CORES_MAX + dynamic


def idle_w(rows: Table) -> Any:
    """Assumed idle power with every clock pinned, as it was while the tables were measured."""
    knobs = zip(rows["gpu_hz"], rows["gpu_hz"], rows["emc_hz"], rows["cpu_hz"], rows["cores"], strict=True)
    return np.array([AGX_ORIN.idle(ClockPoint(*map(int, knob))).total_w for knob in knobs])


def fit(rows: Table) -> tuple[Surface, Any, Any]:
    """One surface, and the absolute relative errors of its latency and power over `rows`."""
    fastest = float(rows["latency_s"].min())
    scale = np.array([fastest] * 5 + [1, 1])
    floor, ceiling = [0, 1e-3, 0, 1e-3, 1e-3, 1, 1], [1, 3, 3, 3, 3, 12, 12]
    log_latency = np.log(rows["latency_s"])
    tries = [
        least_squares(
            lambda z: np.log(times(z * scale, rows)[0]) - log_latency,
            [0.05, 0.3, 0.1, 0.5, 0.5, norm, norm],
            bounds=(floor, ceiling),
            loss="soft_l1",
            f_scale=0.05,
        )
        for norm in (2.0, 5.0)
    ]
    theta = min(tries, key=lambda found: found.cost).x * scale
    latency, *busy = times(theta, rows)
    resting = idle_w(rows)
    found = least_squares(
        lambda z: np.log(power(z, rows, tuple(busy), resting)) - np.log(rows["power_w"]),
        [4, 1, 5, 2, 10, 10, 5, 5],
        bounds=(0, 80),
        loss="soft_l1",
        f_scale=0.03,
    )
    watts = power(found.x, rows, tuple(busy), resting)
    surface = Surface(*(float(f"{round(value, 12):.5g}") for value in (*theta, *found.x)))
    return surface, np.abs(latency / rows["latency_s"] - 1), np.abs(watts / rows["power_w"] - 1)


def fit_batches(rows: Table) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """A surface per batch size measured, and the errors over all of them."""
    surfaces, latency_errors, power_errors = {}, [], []
    for batch in np.unique(rows["batch"]):
        surface, latency_error, power_error = fit(rows[rows["batch"] == batch])
        names = [field.name for field in fields(Surface)]
        surfaces[str(int(batch))] = dict(zip(names, astuple(surface), strict=True))
        latency_errors.append(latency_error)
        power_errors.append(power_error)
    errors = {"rows": len(rows)}
    for name, values in (("latency", np.concatenate(latency_errors)), ("power", np.concatenate(power_errors))):
        errors[f"{name}_error_median"] = round(float(np.median(values)), 4)
        errors[f"{name}_error_p95"] = round(float(np.quantile(values, 0.95)), 4)
    return surfaces, errors


def saving(
    workload: Workload, limit: float, silicon: Silicon = AGX_ORIN, start: ClockPoint = physics.MAXIMUM
) -> tuple[float, ClockPoint]:
    """Largest saving in joules per request at batch 1 over GPU, EMC and CPU clocks with 12 cores, idle power counted.

    Offered is `LOAD` of `start`'s capacity; a point may be slower by `limit`. `silicon` changes idle power alone: busy
    power is what was measured, whatever is assumed about idle.
    """

    def watts(point: ClockPoint) -> float:
        busy = LOAD * workload.slowdown(point, 1)
        return silicon.idle(point).total_w * (1 - busy) + workload.busy_power_w(point, 1) * busy

    lowest = CLOCKS.gpu_min_hz[0]
    clocks = product(CLOCKS.gpu_hz, CLOCKS.emc_hz, CLOCKS.cpu_hz)
    points = [ClockPoint(gpu, lowest, emc, cpu, physics.CORES_MAX) for gpu, emc, cpu in clocks]
    best = min((point for point in points if workload.slowdown(point, 1) <= min(limit, 1 / LOAD)), key=watts)
    return 1 - watts(best) / watts(start), best


def describe_savings() -> None:
    """Print the best saving of each workload at half load and batch 1, and what the assumptions do to it."""
    unpinned = replace(physics.MAXIMUM, gpu_min_hz=CLOCKS.gpu_min_hz[0])
    for name, limit in product(physics.SHIPPED, (1.2, 1.35, 1.5)):
        workload = physics.shipped(name)
        share, best = saving(workload, limit)
        free, _ = saving(workload, limit, start=unpinned)
        mhz = [round((hz or 0) / 1e6) for hz in (best.gpu_hz, best.emc_hz, best.cpu_hz)]
        print(f"{name} <= {limit}: {share:.1%} ({free:.1%} if the GPU's minimum was free) at GPU, EMC, CPU {mhz} MHz")
    for idle_share, floor_w in product((0.05, 0.10, 0.20), (6.0, 9.0, 12.0)):
        silicon = replace(AGX_ORIN, idle_share=idle_share, floor_w=floor_w)
        starts = (physics.MAXIMUM, unpinned)
        pairs = product(map(physics.shipped, physics.SHIPPED), starts)
        both = [saving(workload, 1.35, silicon, start)[0] for workload, start in pairs]
        top_w = silicon.idle(physics.MAXIMUM).total_w
        print(f"idle share {idle_share}, floor {floor_w} W, idle at maximum {top_w:.1f} W:", [f"{x:.1%}" for x in both])


def main() -> int:
    folder = os.environ.get("DATA", "")
    if not folder or not (Path(folder) / "infer_resnet.csv").exists():
        print(f"DATA must name the folder of the measured tables (infer_*.csv, train_*.csv); it is {folder!r}")
        return 2
    for name in physics.SHIPPED:
        inference, inference_fit = fit_batches(read_table(Path(folder) / f"infer_{name}.csv"))
        training, training_fit = fit_batches(read_table(Path(folder) / f"train_{name}.csv"))
        record = {"format": 1, "name": name, "source": SOURCE}
        record |= {"fit": {"inference": inference_fit, "training": training_fit}}
        record |= {"inference": inference, "training": training}
        (OUT / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        print(name, "inference", inference_fit, "\n    training", training_fit)
    describe_savings()
    return 0


if __name__ == "__main__":
    sys.exit(main())
