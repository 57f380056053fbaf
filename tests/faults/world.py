# SPDX-License-Identifier: Apache-2.0
"""A whole device in virtual time: the product's governor, clockd and virtual board, with requests that are simulated.

Nothing here replaces product code but the clock, the wire between governor and clockd (lines are handed over), and the
search. An hour of governing takes seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from boards.clocks import KNOBS, ClockPoint
from boards.virtual import NAME, Load, VirtualBoard
from boards.virtual_faults import Faults
from governor.client import ClockClient
from governor.clockd.recovery import ledger_of
from governor.clockd.service import Clockd
from governor.config import Config
from governor.loop import Governor
from governor.simulation import Inline, SimulatedModel, Simulation
from telemetry.board_page import BoardPage, BoardReading
from telemetry.durable import read_log
from telemetry.instance_page import InstanceInfo

from .stub_search import StubSearch

STEP_S = 0.1
RATE_HZ = 10.0
INFO = InstanceInfo("resnet18", "1", "resnet18_0_0", "resnet", 8, 0, 0.5, 0.95, 1.0)


def outcomes_of(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The outcome of each trial in a history, or the reason why it is none; one taken back later is none either."""
    outcomes: list[str] = []
    for row in rows:
        if row["kind"] == "trial":
            outcomes.append(row.get("reason", row["outcome"]))
        elif row["kind"] == "retract" and outcomes:
            outcomes[-1] = row["reason"]
    return outcomes


class Wire(ClockClient):
    """The product's client, whose lines are answered on the spot."""

    def __init__(self, clockd: Clockd) -> None:
        super().__init__(Path("virtual"))
        self._clockd = clockd

    def _exchange(self, line: bytes) -> bytes:
        from governor.clockd.protocol import encode

        return encode(self._clockd.answer(1, 1, line.rstrip(b"\n")))


class Machine:
    """clockd and its board, as `Simulation` looks at them."""

    running = True

    def __init__(self, clock: Callable[[], float], sleep: Callable[[float], None], folder: Path, spec: str) -> None:
        self.board = VirtualBoard(spec, clock, sleep)
        self._page = BoardPage.create(folder / "board.page")
        self.clockd = Clockd(self.board, self._page, ledger_of(spec, Path("/"), folder), clock)

    @property
    def point(self) -> ClockPoint:
        """The clocks that the silicon runs at."""
        return self.board.kernel.point()

    def sample(self) -> None:
        """clockd's tick."""
        self.clockd.tick()

    def reading(self) -> BoardReading:
        """What the board page says."""
        reading = self._page.read()
        if reading is None:
            raise ValueError("clockd has published nothing")
        return reading

    def close(self) -> None:
        """End clockd."""
        self.clockd.close()


class World(Simulation):
    """The device, and the governor that watches it; `told` are the points that the search learnt from."""

    def __init__(self, folder: Path, spec: str = NAME, trial_s: float = 3.0) -> None:
        super().__init__([SimulatedModel(INFO, RATE_HZ)])
        self.machine = Machine(self.clock, self._sleep, folder, spec)
        self.board = self.machine  # type: ignore[assignment]
        self.step(STEP_S)
        self.told: list[tuple[dict[str, float], float, float]] = []
        self.readings: list[BoardReading] = []
        settings = Config(
            run_dir=folder, state_dir=folder / "state", knobs=("gpu_hz", "emc_hz", "cpu_hz"), trials=1_000_000,
            trial_s=trial_s, tick_s=STEP_S, slo_window_s=5.0, cooldown_s=5.0,
        )  # fmt: skip
        self.governor = Governor(settings, Wire(self.machine.clockd), self, self.clock, Inline(), self._make_search)
        self.status = self.governor.status
        self._history = folder / "state" / "history.log"
        self._read = (0, list[str]())

    @property
    def faults(self) -> Faults:
        """What goes wrong on the board."""
        return self.machine.board.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.machine.board.faults = faults

    @property
    def leased(self) -> bool:
        """Whether clockd has granted a lease that is in force."""
        return self.machine.clockd.lease is not None

    def live(self, seconds: float) -> None:
        """Let everything live for so long."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.step(STEP_S)
            self.readings.append(self.machine.reading())
            self.governor.tick()

    def until(self, condition: Callable[[], object], within_s: float = 120.0) -> bool:
        """Let everything live until the condition holds; whether it came to that."""
        until_s = self.now_s + within_s
        while not condition():
            if self.now_s > until_s:
                return False
            self.live(STEP_S)
        return True

    def honest(self) -> bool:
        """Whether the silicon runs at the point that the governor believes in."""
        wanted, actual = self.status.point, self.machine.point
        return all(getattr(actual, knob) == value for knob, value in wanted.items() if knob in KNOBS)

    def outcomes(self) -> list[str]:
        """The outcome of each trial on disk, or the reason why it is none."""
        size = self._history.stat().st_size if self._history.exists() else 0
        if size != self._read[0]:
            self._read = (size, outcomes_of(read_log(self._history)))
        return list(self._read[1])

    def _make_search(self, *arguments: object) -> StubSearch:
        world = self

        class Noting(StubSearch):
            def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
                world.told.append((dict(point), latency_s, energy_j))

            def forget(self) -> None:
                world.told.clear()

        return Noting(*arguments)

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def _pass(self, point: ClockPoint, until_s: float) -> None:
        dt_s, loads = max(0.0, until_s - self.now_s), []
        if self._batch:
            model = self._batch[0]
            model.busy_s += dt_s
            loads = [Load(model.info.virtual_workload, dt_s, float(len(model.serving)))]
        if dt_s > 0:
            self.machine.board.run(loads, dt_s)
        self.now_s = max(until_s, self.now_s)


@contextmanager
def world(spec: str = NAME, trial_s: float = 3.0) -> Iterator[World]:
    """A device in a temporary folder; its governor is told to end."""
    with tempfile.TemporaryDirectory(prefix="teg-faults-") as folder:
        made = World(Path(folder), spec, trial_s)
        try:
            yield made
        finally:
            made.governor.close()
            made.machine.close()
