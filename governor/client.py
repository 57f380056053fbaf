# SPDX-License-Identifier: Apache-2.0
"""The client of clockd: one connection, one lease."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from boards.clocks import Applied, ClockPoint, ClockTable

from .clockd.protocol import Json, encode, parse_applied, parse_table, point_record
from .errors import ClockdUnavailable, LeaseLost, LeaseRefused


class ClockClient:
    """Talks to clockd; connects at the first call. A lease belongs to the connection: closing it gives the clocks back.

    Every method raises `ClockdUnavailable` if clockd is not there or does not answer in time, `LeaseRefused` with the
    protocol's kind if it says no.
    """

    def __init__(self, socket_path: Path, timeout_s: float = 2.0) -> None:
        self.socket_path = socket_path
        self._timeout_s = timeout_s
        self._connection: socket.socket | None = None
        self._received = b""

    def __enter__(self) -> ClockClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hello(self) -> Json:
        """Who clockd is: `name` of the board, `virtual`, `observe_only` and its `reason`, `version`, `pid`."""
        return self._ask({"verb": "hello"})

    def table(self) -> ClockTable:
        """The values the board offers; refused with `observe_only` where there is no board."""
        return parse_table(self._ask({"verb": "table"})["table"])

    def lease(self, point: ClockPoint, ttl_s: float) -> Applied:
        """Hold `point` for `ttl_s` seconds (at most 5), or move the lease one holds; look at `.honoured`."""
        request = {"verb": "lease", "point": point_record(point), "ttl_ms": round(1000 * ttl_s)}
        return parse_applied(self._ask(request)["applied"])

    def renew(self, ttl_s: float) -> None:
        """Keep the lease for `ttl_s` seconds from now; raises `LeaseLost` if it has ended."""
        self._ask({"verb": "renew", "ttl_ms": round(1000 * ttl_s)})

    def release(self) -> None:
        """Give the clocks back; raises `LeaseLost` if the lease has ended already."""
        self._ask({"verb": "release"})

    def status(self) -> Json:
        """What clockd observes and counts: clocks, lease, joules, faults."""
        return self._ask({"verb": "status"})

    def close(self) -> None:
        """Hang up; a lease ends with the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._received = b""

    def _ask(self, request: Json) -> Json:
        try:
            answer: Json = json.loads(self._exchange(encode(request)))
        except (OSError, ValueError) as error:
            self.close()
            raise ClockdUnavailable(self.socket_path, str(error) or type(error).__name__) from error
        if answer.get("ok"):
            return answer
        kind, message = str(answer.get("error")), str(answer.get("message"))
        if kind == "no_lease":
            raise LeaseLost(message)
        raise LeaseRefused(kind, message, str(answer.get("cause", "")), str(answer.get("knob", "")))

    def _exchange(self, line: bytes) -> bytes:
        connection = self._connect()
        connection.sendall(line)
        while b"\n" not in self._received:
            data = connection.recv(65536)
            if not data:
                raise ConnectionResetError("clockd hung up")
            self._received += data
        answer, _, self._received = self._received.partition(b"\n")
        return answer

    def _connect(self) -> socket.socket:
        if self._connection is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(self._timeout_s)
            try:
                connection.connect(str(self.socket_path))
            except OSError:
                connection.close()
                raise
            self._connection = connection
        return self._connection
