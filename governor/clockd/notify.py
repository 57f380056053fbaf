# SPDX-License-Identifier: Apache-2.0
"""What systemd wants to hear of a service (sd_notify(3)), standard library only. Says nothing where nobody asked.

The watchdog is fed from the tick of whoever is watched, never from a thread: a loop that hangs falls silent.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping

log = logging.getLogger("teg.clockd")


class Notifier:
    """Talks to `$NOTIFY_SOCKET`; `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float], environ: Mapping[str, str] = os.environ) -> None:
        self._clock = clock
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._feed_s = _watchdog_s(environ) / 4
        self._fed_s = float("-inf")
        self._status = ""

    def ready(self) -> None:
        """The service serves."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The service ends."""
        self._send("STOPPING=1")

    def tick(self, status: str = "") -> None:
        """The loop lives; `status` is one line for people, sent when it changes."""
        if not self._address:
            return
        if self._feed_s and self._clock() - self._fed_s >= self._feed_s:
            self._fed_s = self._clock()
            self._send("WATCHDOG=1")
        if status != self._status and self._send(f"STATUS={status}"):
            self._status = status

    def _send(self, message: str) -> bool:
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
                out.sendto(message.encode(), self._address)
        except OSError as error:
            # The clocks matter more than who watches us; without its food the watchdog will say so itself.
            log.debug("not told to systemd: %s", error)
            return False
        return True


def _address(name: str) -> str:
    """The socket's address; `@` begins an abstract one."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """Seconds after which systemd takes a silent service for hung; 0 if it does not watch this process."""
    text = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not text.isdigit():
        return 0.0
    return int(text) / 1e6
