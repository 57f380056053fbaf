# SPDX-License-Identifier: Apache-2.0
"""A governor over a simulated device, and the waits on it; time is virtual throughout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from boards.physics import Surface
from governor.config import Config
from governor.history import FILE
from governor.in_turn import InTurn
from governor.loop import Governor
from governor.points import MakeSearch, Table, bayesian_search
from governor.simulation import Inline, SimulatedModel, Simulation
from governor.status import Phase
from telemetry.durable import read_log
from telemetry.instance_page import InstanceInfo

FIGURES = [field.name for field in fields(Surface)]
TICK_S = 0.1
SLO_S = 0.038


def info(model: str = "resnet18", slo_s: float = SLO_S, max_batch: int = 8) -> InstanceInfo:
    return InstanceInfo(model, "1", f"{model}_0_0", "resnet", max_batch, 0, slo_s, 0.95, 1.0)


def simulation(rate_hz: float = 12.0, slo_s: float = SLO_S, seed: int = 0) -> Simulation:
    return Simulation([SimulatedModel(info(slo_s=slo_s), rate_hz, seed)])


def scale(model: SimulatedModel, unit: str, times: float) -> None:
    """From now on every batch of a model takes (`_s`) or draws (`_w`) so many times as much."""

    def scaled(surface: Surface) -> Surface:
        return replace(surface, **{name: times * getattr(surface, name) for name in FIGURES if name.endswith(unit)})

    inference = tuple((batch, scaled(surface)) for batch, surface in model.workload.inference)
    model.workload = replace(model.workload, inference=inference)


def config(folder: Path, **settings: Any) -> Config:
    usual: dict[str, Any] = {
        "knobs": ("gpu_hz", "batch"), "trials": 8, "trial_s": 8.0, "tick_s": TICK_S, "slo_window_s": 10.0,
        "cooldown_s": 20.0, "regret": 0.0,
    }  # fmt: skip
    return Config(run_dir=folder, state_dir=folder / "state", **(usual | settings))


class Device:
    """A simulation and the governor that watches it."""

    def __init__(self, world: Simulation, settings: Config, make_search: MakeSearch = bayesian_search) -> None:
        self.world = world
        self.settings = settings
        self.governor = Governor(settings, world.board, world, world.clock, Inline(), make_search)
        self.status = self.governor.status

    @property
    def model(self) -> SimulatedModel:
        return self.world.models[0]

    def run(self, seconds: float) -> None:
        """Let both live for so long."""
        until_s = self.world.now_s + seconds
        while self.world.now_s < until_s:
            self.world.step(TICK_S)
            self.governor.tick()

    def until(self, condition: Callable[[], object], within_s: float = 600.0) -> float:
        """Let both live until the condition holds; virtual seconds that took."""
        began_s = self.world.now_s
        while not condition():
            assert self.world.now_s - began_s < within_s, f"not within {within_s} s; {self.status}"
            self.run(TICK_S)
        return self.world.now_s - began_s

    def until_phase(self, phase: Phase, within_s: float = 600.0) -> float:
        return self.until(lambda: self.status.phase is phase, within_s)

    @property
    def outcomes(self) -> list[str]:
        """The outcome of each trial in history.log, or the reason why it is none."""
        rows = [row for row in read_log(self.settings.state_dir / FILE) if row["kind"] == "trial"]
        return [row.get("reason", row["outcome"]) for row in rows]

    @property
    def points(self) -> list[dict[str, float]]:
        """The point of each trial in history.log."""
        return [row["point"] for row in read_log(self.settings.state_dir / FILE) if row["kind"] == "trial"]


@contextmanager
def governed(world: Simulation, settings: Config, make_search: MakeSearch = bayesian_search) -> Iterator[Device]:
    device = Device(world, settings, make_search)
    try:
        yield device
    finally:
        device.governor.close()


@contextmanager
def rehearsed(world: Simulation, settings: Config) -> Iterator[tuple[Device, list[InTurn]]]:
    """Governed with a search that tries every point in turn; with the searches made so far, the last one in use."""
    searches: list[InTurn] = []

    def make_search(
        knobs: Mapping[str, Sequence[float]],
        slo_s: float,
        seed: int,
        prior: Sequence[Table] | None = None,
        regret: float | None = None,
    ) -> InTurn:
        searches.append(InTurn(knobs, slo_s, seed, prior, regret))
        return searches[-1]

    with governed(world, settings, make_search) as device:
        yield device, searches
