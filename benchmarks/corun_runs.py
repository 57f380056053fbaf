# SPDX-License-Identifier: Apache-2.0
"""Blocks: one trace beside every arm, in an order that rotates from block to block; kept whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .corun_adaptive import Adaptive, fitted
from .corun_desk import Desk
from .corun_processes import ProcessFailed
from .corun_setup import SEEDS_FROM, Setup, measure_setup
from .corun_stage import LEAD_S, LOAD, SETTLE_S, Stage, staged
from .corun_traces import arrivals
from .corun_trainers import ADAPTIVE, IDLE, NAIVE, NICE, NONE, OURS, Arm, Eager, Ours, Trainer
from .kept import keep_row, read_row

ROOT = Path(__file__).resolve().parents[1]
CORE = (NONE, NAIVE, OURS)
"""The arms whose targets need many requests; the others have a quarter."""
OTHERS = (NICE, IDLE, ADAPTIVE)
REPEATS = 2
"""Every trace is sent twice: two runs of one cell are as far apart as a prediction may be from one of them."""
RUN_IN = {NONE: (40, 4.0), OURS: (100, 40.0)}
RUN_IN_OTHERS = 0, 4.0
"""Requests and seconds, at least, before anything counts: service times must be known, and ours is granted its share
of the time a window after the other. A load lasts longer than a trace: ours runs in for each kind of arrivals."""
START_S = 60.0
"""To compile, to measure, to run in."""
OVERHEAD_S = 2 * LEAD_S + SETTLE_S
Row = dict[str, Any]
Say = Callable[[str], None]


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
    measures = [f"benchmarks/corun_{name}.py" for name in ("runs", "stage", "setup", "desk", "traces", "trainers")]
    governs = [f"governor/{name}.py" for name in ("training", "beside", "quiet")]
    product = ("triton_backend/*.py", "finetune/*.py", "finetune/executing/*.py", "predictor/*.py")
    for path in (path for pattern in (*measures, *governs, *product) for path in sorted(ROOT.glob(pattern))):
        if path.name != "job.py":
            found.update(path.read_bytes())
    return found.hexdigest()[:8]


def run_model(model: Model, todo: Sequence[Block], kept: Kept, until_s: float, say: Say) -> None:
    """Play what is not kept of a model's blocks; none is begun that would not end before `until_s`."""
    left = [block for block in todo if kept.rows(model.name, block) is None]
    setup = kept.setup(model.name)
    if not left or time.monotonic() + (left[0].seconds(setup.rate_hz) if setup else 0.0) > until_s:
        return
    say(f"{model.name}: {len(left)} of {len(todo)} blocks to play")
    with staged(model.name, kept.work(model.name)) as stage:
        if setup is None:
            setup = measure_setup(stage)
            kept.keep_setup(model.name, setup)
        limits = f"limit {1e3 * setup.slo_s:.2f} ms ({1e3 * setup.server_slo_s:.2f} ms within the server)"
        say(f"{model.name}: {setup.rate_hz:.1f} requests/s, {limits}")
        with contextlib.closing(Company(stage, setup, say)) as company:
            for block in left:
                if time.monotonic() + company.seconds(block) > until_s:
                    break
                rows = [company.beside(block, arm) for arm in block.arms]
                kept.keep_rows(model.name, block, rows)
                say(f"  {model.name} {block.key}: " + ", ".join(_glance(row) for row in rows))


class Company:
    """Those who train beside a stage's model."""

    def __init__(self, stage: Stage, setup: Setup, say: Say) -> None:
        self._stage, self._setup, self._say = stage, setup, say
        self._ready: set[Arm] = set()
        self._failed: dict[str, str] = {}
        self._used_to = ""
        """The kind of arrivals that ours has run in for."""
        self._desk = Desk(stage.run_dir, setup)
        self._start(NONE, "poisson")

    def seconds(self, block: Block) -> float:
        """How long a block takes, about, with those who are not ready yet."""
        _, run_in_s = RUN_IN[OURS] if OURS in block.arms and block.kind != self._used_to else (0, 0.0)
        return block.seconds(self._setup.rate_hz) + run_in_s + START_S * len(set(block.arms) - self._ready)

    def _start(self, arm: Arm, kind: str) -> None:
        """Start a trainer, and let it run in; one that cannot is left out with a reason."""
        began_s = time.monotonic()
        self._ready.add(arm)
        try:
            if arm is not NONE:
                self._stage.start(arm, self._maker(arm))
            self._run_in(arm, kind)
        except ProcessFailed as failed:
            self._fail(arm, failed)
        self._say(f"  {arm.name} is ready after {time.monotonic() - began_s:.0f} s {self._failed.get(arm.name, '')}")

    def _run_in(self, arm: Arm, kind: str) -> None:
        fewest, seconds = RUN_IN.get(arm, RUN_IN_OTHERS)
        requests = max(fewest, math.ceil(seconds * self._setup.rate_hz))
        self._play(arm, arrivals(kind, self._setup.rate_hz, requests, SEEDS_FROM), listen=arm is NONE)
        if arm is OURS:
            self._used_to = kind

    def _maker(self, arm: Arm) -> Callable[[], Trainer]:
        model, run_dir = self._stage.model, self._stage.run_dir
        if arm is OURS:
            return partial(Ours, model, run_dir)
        if arm is ADAPTIVE:
            return partial(Adaptive, model, run_dir, fitted(self._stage, self._setup.server_slo_s))
        return partial(Eager, model)

    def beside(self, block: Block, arm: Arm) -> Row:
        """A trace beside one arm, as a row; `why` in place of figures if that failed."""
        who = {"model": self._stage.model, "kind": block.kind, "seed": block.seed, "repeat": block.repeat}
        row: Row = who | {"arm": arm.name}
        if arm not in self._ready:
            self._start(arm, block.kind)
        if arm.name in self._failed:
            return row | {"why": self._failed[arm.name]}
        try:
            if arm is OURS and block.kind != self._used_to:
                self._run_in(arm, block.kind)
            return row | self._play(arm, arrivals(block.kind, self._setup.rate_hz, block.requests, block.seed))
        except ProcessFailed as failed:
            return row | {"why": self._fail(arm, failed)}

    def close(self) -> None:
        """Let go of the pages; the stage ends the trainers."""
        self._desk.close()

    def _play(self, arm: Arm, arrivals_s: Sequence[float], *, listen: bool = False) -> Row:
        """One trace; the desk looks at ours, and once at the model alone."""
        desk = self._desk if listen or arm is OURS else None
        if desk:
            desk.resume()
        played = self._stage.play(arrivals_s, arm, desk.tick if desk else _nothing, desk.over if desk else _nothing)
        found = {
            "slo_s": self._setup.slo_s,
            "at_s": played.begin_ns / 1e9,
            "span_s": played.span_s,
            "latencies_s": [_rounded(latency_s) for latency_s in played.latencies_s],
            "lag_p99_s": float(np.quantile(played.lags_s, 0.99)),
            "idle_share": played.idle_share,
            "steps": played.steps,
            "served": [
                [
                    round((moment_ns - played.begin_ns) / 1e9, 6)
                    for moment_ns in (one.arrival_ns, one.start_ns, one.end_ns)
                ]
                + [one.batch]
                for one in played.samples
            ],
            "trainer": {name: value for name, value in played.trained.items() if name != "steps"},
        }
        return found | {"desk": self._desk.figures()} if arm is OURS else found

    def _fail(self, arm: Arm, failed: ProcessFailed) -> str:
        """Go on without an arm; not without clients."""
        if failed.name == LOAD:
            raise failed
        self._failed[arm.name] = str(failed)
        self._stage.stop(arm)
        return str(failed)


def _nothing() -> None:
    """Nobody governs."""


def _rounded(latency_s: float | None) -> float | None:
    return None if latency_s is None else round(latency_s, 6)


def _glance(row: Row) -> str:
    """One arm's p99 and steps, on a line."""
    if "why" in row:
        return f"{row['arm']} failed"
    seen_s = [latency_s for latency_s in row["latencies_s"] if latency_s is not None]
    return f"{row['arm']} {1e3 * np.quantile(seen_s, 0.99):.1f} ms {row['steps'] / row['span_s']:.1f}/s"
