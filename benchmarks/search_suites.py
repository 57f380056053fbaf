# SPDX-License-Identifier: Apache-2.0
"""What the searches are replayed on: which tables, which limits, how many trials, and which methods there.

`orin` is the yardstick: AGX Orin, five knobs, 2205 points a table. The others show where else the search applies:

* `tx2`: VGG19 on a TX2, GPU clock alone (power was measured at the highest memory clock only), limit 1.3 times the
  latency at the top, six trials (six points keep it). Nothing else of that board has energies, so nobody has a prior.
* `zeus-*`: training on server GPUs [You, Chung, Chowdhury, NSDI 2023; Apache-2.0], GPU power limit x batch size. A
  power limit is no clock; it stands in for `gpu_hz` (1 W as 1 MHz), of which a search sees ratios. Latency is that of
  a training step but for a constant: time per epoch x batch size; energy is per sample, but for the same constant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .tables import Grid, columns, grid, inference_tables

EPOCH = 1e5
"""Samples an epoch is taken to have; a constant that scales latencies and joules alike."""
GPUS = ("a40", "p100", "rtx6000", "v100")
QUICK = ("ours", "ours_no_prior", "random", "gp")


@dataclass(frozen=True)
class Suite:
    """Tables replayed in one way."""

    name: str
    grids: Mapping[str, Grid]
    multiples: tuple[float, ...] = (4.0,)
    seeds: int = 20
    trials: int = 30
    methods: tuple[str, ...] | None = None
    """None: all."""

    def digest(self) -> str:
        """Of everything that is in its tables."""
        found = hashlib.sha256()
        for name, table in sorted(self.grids.items()):
            found.update(f"{name} {dict(table.knobs)}".encode() + table.latency_s.tobytes() + table.energy_j.tobytes())
        return found.hexdigest()


def suites(data: Path, *, full: bool) -> tuple[list[Suite], list[str]]:
    """What the folder has tables for, and what of it is missing; `FileNotFoundError` without the Orin tables."""
    found = [Suite("orin", inference_tables(data), (4.0, 2.0, 8.0) if full else (4.0,))]
    missing = []
    seeds = 20 if full else 3
    tx2 = data / "tx2" / "power_vgg19.csv"
    if tx2.is_file():
        found.append(Suite("tx2", {"vgg19": tx2_grid(tx2)}, (1.3,), seeds, 6, QUICK))
    else:
        missing.append(f"TX2: no {tx2}")
    for gpu in GPUS:
        path = data / "zeus-traces" / f"summary_power_{gpu}.csv"
        if path.is_file():
            found.append(Suite(f"zeus-{gpu}", zeus_grids(path), (4.0,), seeds, 15, QUICK))
        else:
            missing.append(f"Zeus: no {path}")
    return found, missing


def tx2_grid(path: Path) -> Grid:
    """Latency and power of one image over the GPU clock."""
    rows = columns(path)
    table = {"gpu_hz": rows["gpu_hz"], "latency_s": rows["latency_s_per_image"]}
    return grid("vgg19", table | {name: rows[name] for name in ("power_w", "flagged")})


def zeus_grids(path: Path) -> dict[str, Grid]:
    """One grid per data set, network and optimiser; batch sizes that lack a power limit are left out."""
    rows = columns(path)
    keys = list(zip(rows["dataset"], rows["network"], rows["optimizer"], strict=True))
    found = {}
    for key in sorted(set(keys)):
        mine = np.array([other == key for other in keys])
        name = "-".join(key)
        found[name] = _zeus_grid(name, {column: rows[column][mine] for column in NUMBERS})
    return found


NUMBERS: Sequence[str] = ("batch_size", "power_limit", "time_per_epoch", "average_power")


def _zeus_grid(name: str, rows: Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]]) -> Grid:
    limits = len(set(rows["power_limit"].tolist()))
    whole = [size for size in set(rows["batch_size"].tolist()) if (rows["batch_size"] == size).sum() == limits]
    kept = np.isin(rows["batch_size"], whole)
    batch, watts, epoch_s, power_w = (rows[column][kept] for column in ("batch_size", "power_limit", *NUMBERS[2:]))
    return grid(
        name,
        {
            "gpu_hz": watts * 1e6,
            "batch": batch,
            "latency_s": epoch_s * batch / EPOCH,
            "power_w": power_w,
            "flagged": np.zeros(len(batch)),
        },
    )
