# SPDX-License-Identifier: Apache-2.0
"""Requests that a governor can see: instance pages kept busy by a thread, in place of a server and its clients."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from telemetry.instance_page import Counter, InstanceInfo, InstancePage, Sample, Status
from telemetry.rundir import RunDir

INFO = InstanceInfo("digits", "1", "digits_0_0", "resnet", 8, 0, 0.5, 0.95, 1.0)
PERIOD_S = 0.01
SERVICE_S = 0.004


class Traffic:
    """About a hundred requests a second on every page that is being served; a context manager."""

    def __init__(self) -> None:
        self._served: list[tuple[InstancePage, int | None]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._draw = random.Random(0)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def on(self, run_dir: RunDir, rail: Path | None = None) -> Iterator[InstancePage]:
        """Serve in this run directory too; the milliamperes of `rail` then move a little, as a sensor's do."""
        run_dir.make()
        page = InstancePage.create(run_dir.instance_page(INFO.instance))
        page.write_info(INFO)
        served = (page, None if rail is None else os.open(rail, os.O_WRONLY))
        with self._lock:
            self._served.append(served)
        try:
            yield page
        finally:
            with self._lock:
                self._served.remove(served)
            page.close()
            if served[1] is not None:
                os.close(served[1])

    def _run(self) -> None:
        while not self._stop.wait(self._draw.uniform(0.5, 1.5) * PERIOD_S):
            with self._lock:
                for page, rail in self._served:
                    self._serve(page)
                    if rail is not None:
                        # in place and of one length, so that nobody finds it empty; little enough for short trials
                        os.pwrite(rail, b"%04d\n" % self._draw.randrange(6160, 6200, 10), 0)

    def _serve(self, page: InstancePage) -> None:
        end_ns = time.monotonic_ns()
        busy_ns = int(1e9 * SERVICE_S * self._draw.uniform(0.9, 1.1))
        page.add_sample(Sample(end_ns - busy_ns - 50_000, end_ns - busy_ns, end_ns, 1, Status.OK))
        page.count(Counter.REQUESTS)
        page.count(Counter.BATCHES)
        page.count(Counter.BUSY_NS, busy_ns)
        page.count(Counter.BUSY_BATCH_NS, busy_ns)
        page.beat()
