# SPDX-License-Identifier: Apache-2.0
"""The governor as a real process by itself: its lock, its watchdog, its metrics port, and a board it may only watch.

Where no point is ever tried, the search is one that needs no torch, so that a process is there at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from governor.published import read_standing

TEG = (sys.executable, "-c", "import sys; from governor.cli import main; sys.exit(main())")
ALONE = """
import gc, signal, sys, time
from pathlib import Path
from governor.cli.run import govern
from governor.config import Config
from governor.in_turn import InTurn
from telemetry.rundir import RunDir

def collect(*_):
    heap = [[] for _ in range(300_000)]
    until = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < until:
        gc.collect()

signal.signal(signal.SIGUSR1, collect)
folder = Path(sys.argv[1])
config = Config(folder, folder / "state", metrics_port=int(sys.argv[2]))
from governor.published import OnlyOne
with OnlyOne(folder):
    code = govern(config, RunDir(folder), InTurn)
sys.exit(7 if "torch" in sys.modules else code)
"""
STORM_S = 2.5


@contextlib.contextmanager
def running(*command: str, environ: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A child that does not outlive the block."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(environ or {})}
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def alone(folder: Path, port: int = 0) -> tuple[str, ...]:
    return (sys.executable, "-c", ALONE, str(folder), str(port), str(STORM_S))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_second_governor_is_refused(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """Exit code 3, naming the first one, before anything else happens; after a kill -9 of that the way is free."""
    with running(*alone(tmp_path)) as first:
        eventually(lambda: read_standing(tmp_path), 30)
        with running(*TEG, "run", "--run-dir", str(tmp_path)) as second:
            output = second.communicate(timeout=30)[0]
        assert second.returncode == 3
        assert f"another governor (process {first.pid}) holds the clocks" in output
        assert (read_standing(tmp_path) or {})["pid"] == first.pid
        first.kill()
        first.wait(10)
        with running(*alone(tmp_path)) as third:
            eventually(lambda: (read_standing(tmp_path) or {}).get("pid") == third.pid, 30)
            third.terminate()
            assert third.wait(15) == 0
    assert read_standing(tmp_path) is None


class Watchdog:
    """What a service manager hears."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = folder / "notify"
        self.socket.bind(str(self.path))
        self.environ = {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": "400000"}

    def hear(self, within_s: float) -> str:
        """The next message, empty if there is none in time."""
        if not select.select([self.socket], [], [], within_s)[0]:
            return ""
        return self.socket.recv(4096).decode()

    def hear_all(self) -> list[str]:
        """What has arrived by now."""
        messages = []
        while message := self.hear(0.0):
            messages.append(message)
        return messages

    def pings(self, for_s: float) -> int:
        """How often the governor says that it lives within the next seconds."""
        until_s, count = time.monotonic() + for_s, 0
        while (left_s := until_s - time.monotonic()) > 0:
            count += self.hear(left_s) == "WATCHDOG=1"
        return count


@pytest.fixture
def watchdog(tmp_path: Path) -> Iterator[Watchdog]:
    watchdog = Watchdog(tmp_path)
    yield watchdog
    watchdog.socket.close()


def test_the_watchdog_hears_of_every_hang(tmp_path: Path, watchdog: Watchdog) -> None:
    """Ready after the first tick, pings while it ticks; none while it is stopped, none while it collects garbage."""
    with running(*alone(tmp_path / "run"), environ=watchdog.environ) as governor:
        assert watchdog.hear(30) == "READY=1"
        assert watchdog.pings(1.0) >= 4
        governor.send_signal(signal.SIGSTOP)
        watchdog.hear_all()
        assert watchdog.pings(1.0) == 0
        governor.send_signal(signal.SIGCONT)
        assert watchdog.pings(1.0) >= 4
        governor.send_signal(signal.SIGUSR1)
        assert watchdog.pings(0.3) <= 2
        assert watchdog.pings(STORM_S - 1.0) == 0
        assert watchdog.pings(3.0) >= 4
        governor.terminate()
        assert governor.wait(15) == 0
        assert "STOPPING=1" in watchdog.hear_all()


def test_a_metrics_port_that_is_taken_stops_nothing(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """It runs, says so by a counted fault, and ends with 0."""
    with socket.create_server(("127.0.0.1", 0)) as other, running(*alone(tmp_path, other.getsockname()[1])) as governor:
        eventually(lambda: (read_standing(tmp_path) or {}).get("faults") == {"metrics": 1}, 30)
        governor.terminate()
        assert governor.wait(15) == 0


def test_on_a_plain_machine_it_watches(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """Clockd without a board is observe-only; the governor shows that in its metrics and ends with 0."""
    port, run_dir, pages = free_port(), tmp_path / "run", [""]

    def scraped() -> str:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply,
        ):
            pages.append(reply.read().decode())
        return pages[-1]

    (tmp_path / "root").mkdir()
    clockd = (*TEG, "clockd", "--board", "auto", "--root", str(tmp_path / "root"), "--run-dir", str(run_dir))
    with running(*clockd), running(*alone(run_dir, port)) as governor:
        eventually(lambda: 'observe_only="true"' in scraped(), 30)
        assert "teg_governor_up 0.0" in pages[-1]
        assert governor.poll() is None
        governor.terminate()
        assert governor.wait(15) == 0
