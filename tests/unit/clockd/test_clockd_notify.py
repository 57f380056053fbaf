# SPDX-License-Identifier: Apache-2.0
"""What systemd hears, over a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from governor.clockd.notify import Notifier


class Systemd:
    """The other end of `$NOTIFY_SOCKET`."""

    def __init__(self, address: str, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        self.environ = {"NOTIFY_SOCKET": name}

    def heard(self) -> list[str]:
        """Every message since the last look."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    path = str(tmp_path / "notify")
    listening = Systemd(path, path) if request.param == "file" else Systemd("\0" + path, "@" + path)
    yield listening
    listening.close()


def test_a_service_says_when_it_is_ready_and_when_it_ends(systemd: Systemd) -> None:
    """One message each."""
    notifier = Notifier(lambda: 0.0, systemd.environ)
    notifier.ready()
    notifier.stopping()
    assert systemd.heard() == ["READY=1", "STOPPING=1"]


def test_the_watchdog_is_fed_from_the_tick(systemd: Systemd) -> None:
    """Four times per period while ticks come, whatever their rate; a loop that hangs falls silent."""
    now_s = 0.0
    notifier = Notifier(lambda: now_s, systemd.environ | {"WATCHDOG_USEC": "10000000"})
    for number in range(200):
        now_s = 0.05 * number
        notifier.tick()
    assert systemd.heard() == ["WATCHDOG=1"] * 4


def test_a_watchdog_of_somebody_else_is_not_ours(systemd: Systemd) -> None:
    """`$WATCHDOG_PID` names another process: its food is not our business."""
    environ = systemd.environ | {"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid() + 1)}
    Notifier(lambda: 0.0, environ).tick()
    assert systemd.heard() == []


def test_the_status_is_told_when_it_changes(systemd: Systemd) -> None:
    """One line for `systemctl status`, not twenty a second."""
    notifier = Notifier(lambda: 0.0, systemd.environ)
    for status in ("free", "free", "leased", "leased", "free"):
        notifier.tick(status)
    assert systemd.heard() == ["STATUS=free", "STATUS=leased", "STATUS=free"]


@pytest.mark.parametrize("name", ["", "/nonexistent/notify", "vsock:2:1"])
def test_nobody_who_listens_hurts_nobody(name: str) -> None:
    """Without systemd, or with one that cannot be reached, a service runs all the same."""
    notifier = Notifier(lambda: 0.0, {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "nonsense"})
    notifier.ready()
    notifier.tick("fine")
    notifier.stopping()
