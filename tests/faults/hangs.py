# SPDX-License-Identifier: Apache-2.0
"""Governors that hang: stopped, deadlocked, or collecting garbage for ever."""

from __future__ import annotations

import queue
import signal
import socket
import time
from pathlib import Path

from .governors import MODULES, TTL_S, Governed, governed, together
from .record import Tally
from .stage import DEADLINE_S, due, until
from .traffic import Traffic
from .zygote import Zygote

HANGS = {signal.SIGSTOP: "stopped", signal.SIGUSR1: "deadlock", signal.SIGUSR2: "garbage collection"}
WATCHDOG_S = 2.0
RESTART_WITHIN_S = 10.0


def hung(tally: Tally) -> None:
    """Row 16: stopped, deadlocked, collecting garbage for ever: the lease expires, and the watchdog restarts."""
    cases = [(number, ttl_s) for number in HANGS for ttl_s in (TTL_S,) * 15 + (3.0, 5.0)]
    with Zygote(MODULES) as zygote, Traffic() as traffic:
        work: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
        for case in tally.thin(cases):
            work.put(case)

        def take() -> None:
            with governed(zygote, traffic, tally) as scene:
                while not work.empty():
                    try:
                        number, ttl_s = work.get_nowait()
                    except queue.Empty:
                        return
                    _hung_once(tally, scene, number, ttl_s)

        together(take, 4)


class ServiceManager:
    """What systemd does for a unit with a watchdog: hear its pings, and say when they have stopped for too long."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._heard_s = time.monotonic()

    def silent_s(self) -> float:
        """Seconds since the last ping."""
        self._socket.setblocking(False)
        while True:
            try:
                if b"WATCHDOG=1" in self._socket.recv(4096):
                    self._heard_s = time.monotonic()
            except BlockingIOError:
                return time.monotonic() - self._heard_s

    @property
    def environ(self) -> dict[str, str]:
        """What a unit finds in its environment."""
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(int(1e6 * WATCHDOG_S))}

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


def _hung_once(tally: Tally, scene: Governed, number: int, ttl_s: float) -> None:
    what = f"governor {HANGS[signal.Signals(number)]}, leases of {ttl_s} s"
    manager = ServiceManager(scene.made.folder / "notify")
    child = scene.govern(ttl_s=ttl_s, **manager.environ)
    until(lambda: scene.moved(child), "a lease")
    tally.expect(manager.silent_s() < due(WATCHDOG_S), f"{what}: no pings before it hung")
    hung_s = time.monotonic()
    child.send(number)
    tally.inject(real=True, kind=HANGS[signal.Signals(number)])
    try:
        until(lambda: not scene.made.changed(), "the clocks go back", due(ttl_s + 1.0))
    except TimeoutError:
        tally.expect(False, f"{what}: left changed {scene.made.changed()}")
    tally.worst(f"slowest_safe_s_ttl_{ttl_s:g}", time.monotonic() - hung_s)
    tally.expect("expired" in scene.clockd.said, f"{what}: clockd's log does not say that the lease expired")
    until(lambda: manager.silent_s() > WATCHDOG_S, "the watchdog bites", due(WATCHDOG_S + 1))
    scene.ended(tally, child)
    heir = scene.govern(ttl_s=ttl_s, **manager.environ)
    until(lambda: scene.moved(heir), "the next governor has a lease")
    took_s = time.monotonic() - hung_s
    tally.worst("slowest_restart_s", took_s)
    tally.expect(took_s < due(RESTART_WITHIN_S), f"{what}: governed again after {took_s:.1f} s")
    heir.send(signal.SIGTERM)
    tally.same(heir.wait(DEADLINE_S), 0, f"{what}: exit code of the next governor ({heir.said[-300:]})")
    scene.ended(tally, heir)
    manager.close()
