# SPDX-License-Identifier: Apache-2.0
"""The metrics port is taken when the governor starts: it governs all the same, and serves once the port is free."""

from __future__ import annotations

import signal
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from .governors import MODULES, Governed, governed
from .record import Tally
from .stage import DEADLINE_S, due, until
from .traffic import Traffic
from .zygote import Zygote

RETRIED_WITHIN_S = 33.0
TOGETHER = 6


def taken(tally: Tally) -> None:
    """Row 29: it never exits, it takes its lease, and it binds within half a minute of the port being free."""
    with Zygote(MODULES) as zygote, Traffic() as traffic, ThreadPoolExecutor(TOGETHER) as pool:

        def take(number: int) -> None:
            with governed(zygote, traffic, tally) as scene:
                _once(tally, scene, number)

        for done in [pool.submit(take, number) for number in range(tally.few(12))]:
            done.result()


def _once(tally: Tally, scene: Governed, number: int) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        governor = scene.govern("--metrics-port", str(port))
        tally.inject(real=True, kind="port taken")
        until(lambda: scene.moved(governor), "a lease in spite of it")
        trials = len(scene.records())
        until(lambda: len(scene.records()) > trials + 3, "it goes on tuning")
        tally.expect(str(port) in governor.said, f"no log line names the port: {governor.said[-200:]}")
    freed_s = time.monotonic()
    try:
        until(lambda: "teg_governor_up" in _page(port), "metrics once the port is free", due(RETRIED_WITHIN_S))
        tally.worst("slowest_retry_s", time.monotonic() - freed_s)
        tally.expect(
            'teg_governor_faults_total{kind="metrics"}' in _page(port), f"case {number}: not counted as a fault"
        )
    except TimeoutError as error:
        tally.expect(False, str(error))
    governor.send(signal.SIGTERM)
    tally.same(governor.wait(DEADLINE_S), 0, "exit code")


def _page(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            return str(reply.read().decode())
    except OSError:
        return ""
