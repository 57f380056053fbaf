# SPDX-License-Identifier: Apache-2.0
"""Who may talk to clockd, and what its socket may replace."""

from __future__ import annotations

import errno
import grp
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from governor.clockd.peers import MOST_CONNECTIONS, Peer, SocketTaken, admit, in_use, listen, peer_of
from governor.clockd.protocol import Refused

NOBODY_UID, NOBODYS_GID = 4_000_000, 4_000_001


@pytest.mark.parametrize(
    "peer", [Peer(1, 0, 0), Peer(1, 1000, NOBODYS_GID), Peer(1, NOBODY_UID, 27)], ids=["root", "own user", "group"]
)
def test_root_oneself_and_the_group_come_in(peer: Peer) -> None:
    """Three ways in: uid 0, clockd's own uid, the socket's group."""
    admit(peer, own_uid=1000, group=27, connected=0)


def test_anybody_else_stays_out() -> None:
    """Another user is refused before a byte of theirs is read."""
    with pytest.raises(Refused, match=str(NOBODY_UID)) as refused:
        admit(Peer(1, NOBODY_UID, NOBODYS_GID), own_uid=1000, group=27, connected=0)
    assert refused.value.kind == "forbidden"


def test_there_is_a_limit_for_everybody() -> None:
    """Not even root opens more connections than the limit."""
    with pytest.raises(Refused):
        admit(Peer(1, 0, 0), own_uid=0, group=0, connected=MOST_CONNECTIONS)


def test_the_kernel_names_the_peer() -> None:
    """Process and user come from SO_PEERCRED, not from what a client says."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with left, right:
        assert peer_of(left) == Peer(os.getpid(), os.getuid(), os.getgid())


def test_a_live_socket_is_never_taken_over(tmp_path: Path) -> None:
    """Somebody listens: `SocketTaken`, and they go on listening."""
    path = tmp_path / "clockd.sock"
    with listen(path):
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(SocketTaken, match="another clockd"):
            listen(path)
        assert in_use(path)
    assert not in_use(path)
    listen(path).close()


def test_a_clockd_that_hangs_is_in_use(tmp_path: Path) -> None:
    """Nobody takes connections and no more fit in the queue: found out at once, without waiting in it."""
    path = tmp_path / "clockd.sock"
    with ExitStack() as stack:
        stack.enter_context(listen(path))
        refused = 0
        while refused != errno.EAGAIN:
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.setblocking(False)
            refused = client.connect_ex(str(path))
        assert in_use(path)


def test_root_gives_the_socket_to_the_group(tmp_path: Path) -> None:
    """Members of the group connect; a group that does not exist changes nothing."""
    group = grp.getgrall()[-1] if os.geteuid() == 0 else grp.getgrgid(os.getegid())
    with listen(tmp_path / "given", group.gr_name), listen(tmp_path / "kept", "no-such-group"):
        assert (tmp_path / "given").stat().st_gid == group.gr_gid
        assert (tmp_path / "given").stat().st_mode & 0o777 == 0o660
        assert (tmp_path / "kept").stat().st_gid == os.getegid()


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_is_no_socket_is_never_removed(tmp_path: Path, kind: str) -> None:
    """A file, a folder, or a link (even one to a dead socket) at the path stays where it is."""
    path, elsewhere = tmp_path / "clockd.sock", tmp_path / "elsewhere"
    listen(elsewhere).close()
    if kind == "file":
        path.write_text("notes")
    elif kind == "link":
        path.symlink_to(elsewhere)
    else:
        path.mkdir()
    with pytest.raises(SocketTaken, match="no socket"):
        listen(path)
    assert os.path.lexists(path)
    assert elsewhere.exists()
