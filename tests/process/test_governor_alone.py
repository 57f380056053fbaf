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
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from governor.published import read_standing

TEG = (sys.executable, "-c", "import sys; from governor.cli import main; sys.exit(main())")
ALONE = """
import gc, os, signal, socket, sys, time
from pathlib import Path
from governor.cli.run import govern
from governor.config import Config
from governor.in_turn import InTurn
from telemetry.rundir import RunDir

def say(word):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.sendto(word, os.environ["NOTIFY_SOCKET"])

def collect(*_):
    heap = [[] for _ in range(300_000)]
    say(b"STORM")
    until = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < until:
        gc.collect()
    say(b"CALM")

signal.signal(signal.SIGUSR1, collect)
folder = Path(sys.argv[1])
config = Config(folder, folder / "state", metrics_port=int(sys.argv[2]))
from governor.published import OnlyOne
with OnlyOne(folder):
    code = govern(config, RunDir(folder), InTurn)
sys.exit(7 if "torch" in sys.modules else code)
"""
WATCHDOG_S, STORM_S = 1.2, 1.5
PATIENCE_S = 60.0
"""For the start of a process; bounds a failure and promises nothing."""


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
            process.communicate(timeout=30)
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
        eventually(lambda: read_standing(tmp_path), PATIENCE_S)
        with running(*TEG, "run", "--run-dir", str(tmp_path)) as second:
            output = second.communicate(timeout=PATIENCE_S)[0]
        assert second.returncode == 3
        assert f"another governor (process {first.pid}) holds the clocks" in output
        assert (read_standing(tmp_path) or {})["pid"] == first.pid
        first.kill()
        first.wait(30)
        with running(*alone(tmp_path)) as third:
            eventually(lambda: (read_standing(tmp_path) or {}).get("pid") == third.pid, PATIENCE_S)
            third.terminate()
            assert third.wait(30) == 0
    assert read_standing(tmp_path) is None


class Watchdog:
    """What a service manager hears."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = folder / "notify"
        self.socket.bind(str(self.path))
        # the queue holds ten messages: fed this seldom, none is lost where this host stalls for three seconds
        self.environ = {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}

    def hear(self, within_s: float = PATIENCE_S) -> str:
        """The next message, empty if there is none in time."""
        if not select.select([self.socket], [], [], within_s)[0]:
            return ""
        return self.socket.recv(4096).decode()

    def hear_until(self, last: str) -> list[str]:
        """All messages up to one."""
        messages = [self.hear()]
        while messages[-1] not in (last, ""):
            messages.append(self.hear())
        assert messages[-1] == last
        return messages

    def hear_nothing(self, for_s: float) -> bool:
        """Whether there is silence, but for what had been said before."""
        while self.hear(0.0):
            continue
        return self.hear(for_s) == ""

    def hear_pings(self) -> None:
        """Returns once the governor has said three times that it lives."""
        for _ in range(3):
            self.hear_until("WATCHDOG=1")


@pytest.fixture
def watchdog(tmp_path: Path) -> Iterator[Watchdog]:
    watchdog = Watchdog(tmp_path)
    yield watchdog
    watchdog.socket.close()


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_the_watchdog_hears_of_every_hang(tmp_path: Path, watchdog: Watchdog, eventually: Callable[..., None]) -> None:
    """Ready after the first tick, pings while it ticks; none while it is stopped, none while it collects garbage."""
    with running(*alone(tmp_path / "run"), environ=watchdog.environ) as governor:
        assert watchdog.hear() == "READY=1"
        watchdog.hear_pings()
        governor.send_signal(signal.SIGSTOP)
        eventually(lambda: stopped(governor.pid))
        assert watchdog.hear_nothing(for_s=WATCHDOG_S)
        governor.send_signal(signal.SIGCONT)
        watchdog.hear_pings()
        governor.send_signal(signal.SIGUSR1)
        watchdog.hear_until("STORM")
        assert watchdog.hear_until("CALM") == ["CALM"]
        watchdog.hear_pings()
        governor.terminate()
        watchdog.hear_until("STOPPING=1")
        assert governor.wait(30) == 0


def test_a_metrics_port_that_is_taken_stops_nothing(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """It runs, says so by a counted fault, and ends with 0."""
    with socket.create_server(("127.0.0.1", 0)) as other, running(*alone(tmp_path, other.getsockname()[1])) as governor:
        eventually(lambda: (read_standing(tmp_path) or {}).get("faults") == {"metrics": 1}, PATIENCE_S)
        governor.terminate()
        assert governor.wait(30) == 0


def test_on_a_plain_machine_it_watches(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """Clockd without a board is observe-only; the governor shows that in its metrics and ends with 0."""
    port, run_dir, pages = free_port(), tmp_path / "run", [""]

    def scraped() -> str:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply,
        ):
            pages.append(reply.read().decode())
        return pages[-1]

    (tmp_path / "root").mkdir()
    clockd = (*TEG, "clockd", "--board", "auto", "--root", str(tmp_path / "root"), "--run-dir", str(run_dir))
    with running(*clockd), running(*alone(run_dir, port)) as governor:
        eventually(lambda: 'observe_only="true"' in scraped(), PATIENCE_S)
        assert "teg_governor_up 0.0" in pages[-1]
        assert governor.poll() is None
        governor.terminate()
        assert governor.wait(30) == 0
