# SPDX-License-Identifier: Apache-2.0
"""The socket: who may connect, and how a stale one is told from a live one."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from .protocol import Refused

MOST_CONNECTIONS = 32
GROUP = "teg"
"""Members may talk to a clockd that runs as root, where the group exists."""
_CREDENTIALS = struct.Struct("3i")


class SocketTaken(Exception):
    """Something that must not be replaced is at the socket's path; `path` says where."""

    def __init__(self, path: Path, message: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as the kernel vouches for it."""

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """Who connected (SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Peer(*_CREDENTIALS.unpack(raw))


def admit(peer: Peer, own_uid: int, group: int, connected: int) -> None:
    """Let root, our own user and members of the socket's group in; raises `Refused("forbidden")` for anybody else."""
    if connected >= MOST_CONNECTIONS:
        raise Refused("forbidden", f"{connected} connections are open already")
    if peer.uid in (0, own_uid) or peer.gid == group or _is_member(peer.uid, group):
        return
    raise Refused("forbidden", f"uid {peer.uid} may not talk to clockd")


def listen(path: Path, group: str = GROUP) -> socket.socket:
    """A listening socket at `path`, mode 0660; raises `SocketTaken` if it is in use, or is no socket.

    Root gives it to `group`, where there is one. A socket file is removed only after a refused connection proves that
    nobody listens.
    """
    if os.path.lexists(path):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise SocketTaken(path, "is there already and is no socket")
        if in_use(path):
            raise SocketTaken(path, "another clockd listens there")
        path.unlink()
    # Under another name until it listens: what a client finds answers, and cannot be taken for a dead clockd's.
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    earlier = os.umask(0o117)
    try:
        listener.bind(str(draft))
    finally:
        os.umask(earlier)
    # Without capabilities even root can give it to its own group only, which then is its group already.
    gid = _gid(group) if os.geteuid() == 0 else None
    if gid is not None and gid != draft.stat().st_gid:
        os.chown(draft, -1, gid, follow_symlinks=False)
    listener.listen(16)
    draft.rename(path)
    return listener


def in_use(path: Path) -> bool:
    """Whether somebody listens at `path`, be it without answering."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True
    return True


def _gid(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def _is_member(uid: int, group: int) -> bool:
    try:
        return pwd.getpwuid(uid).pw_name in grp.getgrgid(group).gr_mem
    except KeyError:
        return False
