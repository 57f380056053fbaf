# SPDX-License-Identifier: Apache-2.0
"""clockd's one loop: wait for requests until the next sample is due. One thread, no locks."""

from __future__ import annotations

import os
import selectors
import signal
import socket
from collections.abc import Callable
from typing import Protocol

from .peers import Peer, admit, peer_of
from .protocol import LONGEST_BYTES, Json, Refused, encode

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Daemon(Protocol):
    """What the loop serves."""

    def answer(self, holder: int, pid: int, line: bytes) -> Json:
        """The answer to one line of one connection."""
        ...

    def gone(self, holder: int) -> None:
        """A connection was closed."""
        ...

    def tick(self) -> None:
        """A sample is due."""
        ...


class Connection:
    """One client: its socket, who it is, and the part of a line that has come so far."""

    def __init__(self, number: int, client: socket.socket, peer: Peer) -> None:
        self.number = number
        self.socket = client
        self.peer = peer
        self.pending = b""

    def lines(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        *complete, self.pending = (self.pending + data).split(b"\n")
        return complete


class Server:
    """The loop over a listening socket, its connections from root, itself or `group`, and the sampling clock."""

    def __init__(
        self, daemon: Daemon, listener: socket.socket, group: int, period_s: float, clock: Callable[[], float]
    ) -> None:
        self._daemon = daemon
        self._listener = listener
        self._period_s = period_s
        self._clock = clock
        self._group = group
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, Connection] = {}
        self._next_number = 1
        self._stopping = False

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP."""
        wake, woken = socket.socketpair()
        for end in (wake, woken):
            end.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(wake, selectors.EVENT_READ)
        earlier = signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, self._stop) for number in STOP_SIGNALS}
        try:
            self._loop()
        finally:
            signal.set_wakeup_fd(earlier)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for connection in list(self._connections.values()):
                self._drop(connection)
            self._selector.close()
            wake.close()
            woken.close()

    def _loop(self) -> None:
        due_s = self._clock()
        while not self._stopping:
            now_s = self._clock()
            if now_s >= due_s:
                self._daemon.tick()
                # A late sample is not made up for: the next one is a period away at most.
                due_s = max(due_s + self._period_s, self._clock())
            for key, _ in self._selector.select(max(0.0, due_s - self._clock())):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, Connection):
                    self._receive(key.data)

    def _stop(self, _signal: int, _frame: object) -> None:
        self._stopping = True

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            # Gone again before we looked.
            return
        client.setblocking(False)
        peer = peer_of(client)
        connection = Connection(self._next_number, client, peer)
        self._next_number += 1
        try:
            admit(peer, os.geteuid(), self._group, len(self._connections))
        except Refused as refusal:
            self._send(connection, {"ok": False, "error": refusal.kind, "message": str(refusal)})
            client.close()
            return
        self._connections[connection.number] = connection
        self._selector.register(client, selectors.EVENT_READ, connection)

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(LONGEST_BYTES)
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        for line in connection.lines(data):
            if connection.number not in self._connections:
                return
            if len(line) >= LONGEST_BYTES:
                self._refuse_length(connection)
            elif not self._send(connection, self._daemon.answer(connection.number, connection.peer.pid, line)):
                self._drop(connection)
        if len(connection.pending) >= LONGEST_BYTES:
            self._refuse_length(connection)

    def _refuse_length(self, connection: Connection) -> None:
        message = f"a line is shorter than {LONGEST_BYTES} bytes"
        self._send(connection, {"ok": False, "error": "malformed", "message": message})
        self._drop(connection)

    def _send(self, connection: Connection, answer: Json) -> bool:
        """Whether the answer went out whole; a client that does not read its answers is not waited for."""
        line = encode(answer)
        try:
            return connection.socket.send(line) == len(line)
        except OSError:
            return False

    def _drop(self, connection: Connection) -> None:
        if self._connections.pop(connection.number, None) is not None:
            self._selector.unregister(connection.socket)
            connection.socket.close()
            self._daemon.gone(connection.number)
