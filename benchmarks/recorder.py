# SPDX-License-Identifier: Apache-2.0
"""What happened on the board and in the backend over a run, sampled from the pages in a thread of its own."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from governor.reader import PageReader
from telemetry.instance_page import Status
from telemetry.rundir import RunDir

EVERY_S = 0.1


@dataclass(slots=True)
class Record:
    """Times are CLOCK_MONOTONIC seconds; clocks in the order of `boards.clocks.KNOBS`."""

    power: list[tuple[float, float]] = field(default_factory=list)
    clocks: list[tuple[float, tuple[int | None, ...]]] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    batch_limit: list[tuple[float, int]] = field(default_factory=list)


class Recorder:
    """Records while the `with` block runs."""

    def __init__(self, run_dir: RunDir) -> None:
        self.record = Record()
        self._reader = PageReader(run_dir)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            now = self._reader.read()
            at_s = now.now_ns / 1e9
            if now.board is not None:
                self.record.power.append((at_s, now.board.power_w))
                self.record.clocks.append((at_s, now.board.observed))
            for view in now.instances:
                if view.applied:
                    self.record.batch_limit.append((at_s, view.applied.batch_limit))
                self.record.latencies += [
                    (sample.end_ns / 1e9, sample.latency_s) for sample in view.samples if sample.status is Status.OK
                ]
