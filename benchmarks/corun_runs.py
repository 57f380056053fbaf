# SPDX-License-Identifier: Apache-2.0
"""Plays blocks: one model served, its clients, and those who train beside it, in turn."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from .corun_adaptive import Adaptive, fitted
from .corun_blocks import Block, Kept, Model, Row
from .corun_desk import Desk
from .corun_processes import ProcessFailed
from .corun_setup import SEEDS_FROM, Setup, measure_setup
from .corun_stage import LOAD, Stage, staged
from .corun_traces import arrivals
from .corun_trainers import ADAPTIVE, NONE, OURS, Arm, Eager, Ours, Trainer

RUN_IN = {NONE: (40, 4.0), OURS: (100, 40.0)}
RUN_IN_OTHERS = 0, 4.0
"""Requests and seconds, at least, before anything counts: service times must be known, and ours is granted its share
of the time a window after the other. A load lasts longer than a trace: ours runs in for each kind of arrivals."""
START_S = 60.0
"""To compile, to measure, to run in."""
Say = Callable[[str], None]


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
        run_in_s = RUN_IN[OURS][1] if OURS in block.arms and self._new(block.kind) else 0.0
        return block.seconds(self._setup.rate_hz) + run_in_s + START_S * len(set(block.arms) - self._ready)

    def _new(self, kind: str) -> bool:
        """Whether ours has not run in for such arrivals since it last saw others."""
        return kind != self._used_to

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
            if arm is OURS and self._new(block.kind):
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
