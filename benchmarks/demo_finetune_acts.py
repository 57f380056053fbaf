# SPDX-License-Identifier: Apache-2.0
"""The acts of `make demo-finetune`, in order: an objective, a tuning, a shift, samples, a job, a new version."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from governor.client import ClockClient
from governor.load import LoadPlan, draw_arrivals
from governor.published import read_standing

from .arms import Bench, Setting, summarise
from .demo_finetune_record import Watcher
from .demo_finetune_report import Story
from .demo_finetune_world import Clients, Labelled, load, under_load
from .stack import TEG, Stack, child
from .tuned import KNOBS, QUANTILE, say

MODEL, TRAINER, MAX_BATCH = "digits_cnn", "finetune", 8
RATE_HZ = 60.0
BASELINE_S = 12.0
LONGEST_S = 300.0
"""No act outlasts this."""
TRIALS, TRIAL_S = 12, 2.5
QUIET_S = 30.0
"""Served without training, before the job and after it: the floor."""
TAUGHT, TAUGHT_ROWS, TAUGHT_GAP_S = 1200, 16, 0.15
WATCH_S = 10.0
"""How long a new version is watched before it stays."""
JOB: dict[str, Any] = {"epochs": 20, "batch": 32, "learning_rate": 2e-3, "optimizer": "adamw", "budget": "50%"}
JOB |= {"validation_share": 0.2, "patience": 6, "seed": 0, "deadline_s": 240.0}
LONGEST_MS = 1.0
"""Longer operations of the step run in pieces: at a third of the GPU's clock they take three times as long."""
OVER = ("done", "failed", "cancelled")
LOOK_S = 0.25


class Spoiled(Exception):
    """The story took another turn: the message says which."""


@dataclass(slots=True)
class Demo:
    """One run of the story; what happened is noted in `story`."""

    stack: Stack
    folder: Path
    watcher: Watcher
    clients: Clients
    story: Story

    def run(self, slack: float) -> None:
        """All acts."""
        taught, unseen = load()
        plan = LoadPlan(self.stack.grpc_url, MODEL, draw_arrivals(RATE_HZ, 1, seconds=3 * LONGEST_S))
        upright = replace(plan, input_file=unseen.write(self.folder / "upright.npz"))
        turned = replace(plan, input_file=unseen.turned().write(self.folder / "turned.npz"))
        self.choose_objective(upright, slack)
        with ExitStack() as processes:
            processes.enter_context(self.governor())
            with under_load(upright) as loads:
                self.tune()
                self.story.accuracy_upright = self.clients.accuracy(unseen)
            processes.enter_context(self.worker())
            self.story.shifted_s = self.watcher.mark("camera falls on its side")
            with under_load(turned) as more:
                self.story.accuracy_before = self.clients.accuracy(unseen.turned())
                say(f"accuracy: {self.story.accuracy_upright:.1%}, on turned digits {self.story.accuracy_before:.1%}")
                self.quiet()
                self.teach(taught.turned())
                self.train()
                self.story.accuracy_after = self.clients.accuracy(unseen.turned())
                self.give_back()
                self.quiet()
        self.story.loads += [*loads, *more]

    def choose_objective(self, plan: LoadPlan, slack: float) -> None:
        """The SLO: `slack` times the p95 that maximum clocks show under this load."""
        with ClockClient(self.stack.run_dir.socket) as client:
            table = client.table()
        bench = Bench(self.stack.run_dir)
        try:
            trace = replace(plan, arrivals_s=draw_arrivals(RATE_HZ, 0, seconds=BASELINE_S))
            window = bench.measure(Setting(table.maximum(), MAX_BATCH), trace)
        finally:
            bench.close()
        story = self.story
        story.model, story.rate_hz, story.quantile = MODEL, RATE_HZ, QUANTILE
        story.slo_s = slack * summarise([window]).p95_s
        story.baseline_j = window.j_per_request
        story.loads.append(window.client)
        say(f"SLO: p{QUANTILE * 100:g} <= {story.slo_s * 1e3:.1f} ms ({slack:g}x that of maximum clocks)")

    def governor(self) -> Any:
        """`teg run`, as long as the block lasts."""
        options = ["--trials", str(TRIALS), "--trial-s", str(TRIAL_S), "--breach-share", "1", "--metrics-port", "0"]
        options += ["--slo-s", f"{self.story.slo_s:.6f}", "--slo-quantile", str(QUANTILE), "--knobs", ",".join(KNOBS)]
        return child(
            subprocess.Popen([*TEG, "run", *self._places(), "--state-dir", str(self.folder / "state"), *options])
        )

    def worker(self) -> Any:
        """`teg finetune worker`, as long as the block lasts; its log is in the folder."""
        command = [
            *TEG,
            "finetune",
            "worker",
            *self._places(),
            "--watch-s",
            str(WATCH_S),
            "--longest-ms",
            str(LONGEST_MS),
        ]
        with (self.folder / "worker.log").open("w") as log:
            return child(subprocess.Popen(command, stdout=log, stderr=log))

    def tune(self) -> None:
        """Until the governor holds the best point."""
        self._await("a tuned point", lambda: self._standing().get("phase") == "holding" and self._standing()["best"])
        self.story.tuned_s = self.watcher.mark("tuned")
        self.story.tuned_point = self._standing()["point"]

    def quiet(self) -> None:
        """Serving alone: what the objective costs without any training."""
        begin_s = time.monotonic()
        time.sleep(QUIET_S)
        self.story.quiet.append((begin_s, time.monotonic()))

    def teach(self, seen: Labelled) -> None:
        """Labelled images arrive as ordinary inference requests."""
        self.watcher.mark("labelled samples")
        first = Labelled(seen.images[:TAUGHT], seen.labels[:TAUGHT])
        requests = self.clients.teach(first, TAUGHT_ROWS, TAUGHT_GAP_S)
        say(f"{len(first.labels)} labelled images in {requests} requests to the model {TRAINER}")

    def train(self) -> None:
        """A client asks for a job and follows it to its end."""
        self.story.asked_s = self.watcher.mark("job asked for")
        job = self.clients.command(start={"model": MODEL, "publish": True, **JOB})["job"]
        said = ""

        def over() -> bool:
            self.story.job = state = self.clients.command(job=job)
            nonlocal said
            if (line := progress(state)) != said:
                said = line
                say(line)
            return state["state"] in OVER

        self._await("the job's end", over)
        self.story.done_s = self.watcher.mark(f"job {self.story.job['state']}")
        if self.story.job["state"] != "done":
            raise Spoiled(f"the job ended as {said}")

    def give_back(self) -> None:
        """Until the governor holds a point for serving alone again, which is the tuned one unless that was broken."""

        def at_home() -> bool:
            standing = self._standing()
            training = standing.get("training") or {"phase": "idle"}
            return standing.get("phase") == "holding" and training["phase"] == "idle" and not standing["detail"]

        self._await("the end of the room for training", at_home)
        same = self._standing()["point"] == self.story.tuned_point
        self.story.returned_s = self.watcher.mark("tuned point again" if same else "serving alone again")

    def _places(self) -> list[str]:
        return ["--run-dir", str(self.stack.run_dir.root)]

    def _standing(self) -> dict[str, Any]:
        return read_standing(self.stack.run_dir.root) or {}

    def _await(self, what: str, reached: Callable[[], Any]) -> None:
        deadline_s = time.monotonic() + LONGEST_S
        while not reached():
            if time.monotonic() > deadline_s:
                raise Spoiled(f"{what} did not come within {LONGEST_S:.0f} s")
            time.sleep(LOOK_S)


def progress(state: dict[str, Any]) -> str:
    """Where a job stands, in words."""
    steps = f", step {state['step']} of {state['steps']}" if state.get("steps") else ""
    why = f" ({state['reason']})" if state.get("reason") else ""
    return f"job {state['state']}{why}{steps}"
