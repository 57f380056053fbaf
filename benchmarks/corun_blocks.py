# SPDX-License-Identifier: Apache-2.0
"""Blocks, one trace beside every arm in an order that rotates from block to block; and those that are finished."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .corun_setup import Setup
from .corun_stage import LEAD_S, SETTLE_S
from .corun_trainers import ADAPTIVE, IDLE, NAIVE, NICE, NONE, OURS, Arm
from .kept import keep_row, read_row

ROOT = Path(__file__).resolve().parents[1]
CORE = (NONE, NAIVE, OURS)
"""The arms whose targets need many requests; the others have a quarter."""
OTHERS = (NICE, IDLE, ADAPTIVE)
REPEATS = 2
"""Every trace is sent twice: two runs of one cell are as far apart as a prediction may be from one of them."""
OVERHEAD_S = 2 * LEAD_S + SETTLE_S
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Model:
    """A served model: traces of so many requests, from so many seeds, each sent twice; `minutes` of the default run.

    `others`: the seeds that arms with a quarter of the requests see. `stay`: traces of one kind in a row.
    """

    name: str
    requests: int
    seeds: int
    minutes: float
    others: range
    stay: int


MODELS = (
    Model("digits_cnn", 1200, 2, 12.0, range(1), 4),
    Model("bert_mini", 250, 8, 15.5, range(3, 5), 4),
    Model("efficientnet_b0", 100, 20, 11.0, range(15, 20), 2),
)


@dataclass(frozen=True, slots=True)
class Block:
    """One trace, and who trains beside it."""

    kind: str
    seed: int
    repeat: int
    requests: int
    arms: tuple[Arm, ...]

    @property
    def key(self) -> str:
        """Its name."""
        return f"{self.kind}-{self.seed}-{self.repeat}"

    def seconds(self, rate_hz: float) -> float:
        """How long it takes, about."""
        return len(self.arms) * (self.requests / rate_hz + OVERHEAD_S)


def blocks(model: Model, kinds: Sequence[str], arms: Sequence[str]) -> Iterator[Block]:
    """All blocks of a model, those first that say most: every kind of arrivals with some seeds before others."""
    turns = [(repeat, seed) for repeat in range(REPEATS) for seed in range(model.seeds)]
    for first in range(0, len(turns), model.stay):
        for kind in kinds:
            for turn, (repeat, seed) in enumerate(turns[first : first + model.stay], first):
                own = (*CORE, *OTHERS) if seed in model.others else CORE
                wanted = tuple(arm for arm in own if arm.name in arms)
                if wanted:
                    at = turn % len(wanted)
                    yield Block(kind, seed, repeat, model.requests, wanted[at:] + wanted[:at])


class Kept:
    """What is finished, on disk, by a digest of the code that it depends on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / code()

    def work(self, model: str) -> Path:
        """Where a model's server and pages lie while it is measured."""
        return self._folder / model / "work"

    def setup(self, model: str) -> Setup | None:
        """A model's setting, if it was measured."""
        row = read_row(self._folder / model / "setup.json")
        return Setup.of(row) if row else None

    def keep_setup(self, model: str, setup: Setup) -> None:
        """Keep a model's setting."""
        keep_row(self._folder / model / "setup.json", setup.json())

    def rows(self, model: str, block: Block) -> list[Row] | None:
        """The rows of a block, one per arm; None unless all its arms are there."""
        found = read_row(self._folder / model / f"{block.key}.json") or {"rows": []}
        rows: dict[str, Row] = {row["arm"]: row for row in found["rows"]}
        return [rows[arm.name] for arm in block.arms] if all(arm.name in rows for arm in block.arms) else None

    def keep_rows(self, model: str, block: Block, rows: list[Row]) -> None:
        """Keep a block."""
        keep_row(self._folder / model / f"{block.key}.json", {"rows": rows})


def code() -> str:
    """A digest of what measures, of what serves, and of what trains; jobs are not what trains here."""
    found = hashlib.sha256(torch.__version__.encode())
    measures = [
        f"benchmarks/corun_{name}.py" for name in ("blocks", "runs", "stage", "setup", "desk", "traces", "trainers")
    ]
    looks = ("training", "beside", "draw", "foresight", "guard", "operations", "quiet", "reader")
    governs = [f"governor/{name}.py" for name in looks]
    product = ("triton_backend/*.py", "finetune/*.py", "finetune/executing/*.py", "predictor/*.py")
    for path in (path for pattern in (*measures, *governs, *product) for path in sorted(ROOT.glob(pattern))):
        if path.name != "job.py":
            found.update(path.read_bytes())
    return found.hexdigest()[:8]
