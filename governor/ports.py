# SPDX-License-Identifier: Apache-2.0
"""Where a server listens, and whether it may."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from dataclasses import asdict, dataclass

from .errors import ServerBusy, ServerFailed

PATIENCE_S = 8.0
"""How long a port may stay taken by a server on its way out."""
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the server listens; 0 asks for a free port."""

    http: int = 0
    grpc: int = 0
    metrics: int = 0


ANY = Ports()


def claim(ports: Ports, address: str) -> Ports:
    """The ports with every 0 replaced by one that is free now; raises `ServerBusy` where one stays taken.

    A server whose parent was killed takes some seconds to go; until then it would answer in the new one's place.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return _free_now(ports, address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ServerFailed(str(error.strerror), None) from error
            if time.monotonic() > deadline_s:
                raise ServerBusy(str(error.strerror)) from error
        time.sleep(POLL_S)


def _free_now(ports: Ports, address: str) -> Ports:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as held:
        numbers = []
        for name, port in asdict(ports).items():
            probe = held.enter_context(socket.socket(family))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise OSError(error.errno, f"--{name}-port: {address}:{port}: {error.strerror}") from error
            numbers.append(int(probe.getsockname()[1]))
    return Ports(*numbers)
