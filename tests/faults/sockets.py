# SPDX-License-Identifier: Apache-2.0
"""clockd's socket: hostile clients, other users, and whatever else may lie at its path."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from boards.clocks import KNOBS

from .kills import QUIET
from .record import Tally
from .stage import DEADLINE_S, Stage, points, stage, until
from .zygote import Zygote

LINES = 10_000
UIDS = 20
CONNECTIONS = 1_000
PER_CONNECTION = 50
FORBIDDEN = "forbidden"


def hostile(tally: Tally) -> None:
    """Row 32: no line and no user makes clockd write what is not in its table, or stops it serving others."""
    with Zygote() as zygote, stage(zygote, tally) as made:
        clockd = made.clockd()
        _garbage(tally, made)
        _strangers(tally, made)
        _crowd(tally, made)
        tally.expect(clockd.running, f"clockd ended with {clockd.code}")
        tally.same(made.changed(), {}, "left changed by hostile clients")
        with made.client() as client:
            low, _ = points(client.table())
            tally.expect(client.lease(low, 1.0).honoured, "a lease after all that")
            tally.note("faults", {name: count for name, count in client.status().items() if "fault" in name})
            client.release()


def at_the_path(tally: Tally) -> None:
    """Row 33: only a socket that refuses connections is replaced; anything else there means exit code 3."""
    with Zygote() as zygote, stage(zygote, tally) as made:
        for obstacle in (_stale, _no_socket, _live, _link):
            for _ in range(tally.few(10)):
                made.reset()
                made.run_dir.make()
                tally.inject(real=True, kind=obstacle.__name__.strip("_"))
                obstacle(tally, made)
                made.close(tally)


def _garbage(tally: Tally, made: Stage) -> None:
    """Lines of every kind of wrong; each one is answered or its connection closed, and no knob moves."""
    draw = random.Random(32)
    with made.client() as client:
        offered = {knob: getattr(client.table(), knob) for knob in KNOBS}
    for number in range(tally.few(LINES) // PER_CONNECTION):
        lines = [_bad_line(draw, offered) for _ in range(PER_CONNECTION)]
        answers = _talk(made.run_dir.socket, b"\n".join([*lines, b'{"verb":"hello"}\n']))
        tally.inject(PER_CONNECTION, real=True, kind="line")
        wrong = [answer for answer in answers[:PER_CONNECTION] if answer.get("ok")]
        tally.same(wrong, [], f"garbage {number}: accepted")
        if number % 10 == 0:
            tally.same(made.changed(), {}, f"garbage {number}: knobs changed")


def _strangers(tally: Tally, made: Stage) -> None:
    """Other users: the socket's mode keeps them out, and where it does not, SO_PEERCRED does before any parsing."""
    for mode in (0o660, 0o666):
        made.run_dir.socket.chmod(mode)
        for folder in (made.folder, made.run_dir.root):
            folder.chmod(0o755)
        for uid in range(20_000, 20_000 + tally.few(UIDS)):
            said = _as_user(uid, lambda: _talk(made.run_dir.socket, b'{"verb":"hello"}\n'))
            tally.inject(real=True, kind=f"uid, socket {mode:o}")
            if mode == 0o660:
                tally.same(said, "PermissionError", f"uid {uid} at a socket of mode 660")
            else:
                tally.expect(FORBIDDEN in said and '"version"' not in said, f"uid {uid} at mode 666: {said[:200]}")
    made.run_dir.socket.chmod(0o660)


def _crowd(tally: Tally, made: Stage) -> None:
    """Many connections that say half a sentence: one who is in already is served throughout, and then others again."""
    with made.client() as client, contextlib.ExitStack() as crowd:
        client.hello()
        for _ in range(tally.few(CONNECTIONS)):
            tally.inject(real=True, kind="connection")
            silent = crowd.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            # a blocking connect waits for room in the backlog; `settimeout` would not
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(DEADLINE_S), 0))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                silent.connect(str(made.run_dir.socket))
                silent.sendall(b'{"verb":"le')
        began_s = time.monotonic()
        client.hello()
        tally.worst("slowest_answer_in_a_crowd_s", time.monotonic() - began_s)
    until(lambda: (_talk(made.run_dir.socket, b'{"verb":"hello"}\n') or [{}])[0].get("ok"), "room again")


def _bad_line(draw: random.Random, offered: dict[str, tuple[int, ...]]) -> bytes:
    kind = draw.randrange(8)
    if kind == 0:
        return draw.randbytes(draw.randrange(1, 200)).replace(b"\n", b"?")
    if kind == 1:
        return b"[" * draw.randrange(1, 3000)
    knob = draw.choice(KNOBS)
    value: object = draw.choice(
        (-1, 0, 1, 2**63, 10**40, 1.5, "1", "/sys/x", [], {}, True, "../../etc/passwd", offered[knob][0] + 1)
    )
    point: dict[str, object] = {knob: value}
    ttl: object = 100
    if kind == 2:
        return json.dumps({"verb": draw.choice(("", "exec", "LEASE", None, 7, "restore")), "point": point}).encode()
    if kind == 3:
        ttl = draw.choice((0, -5, 5001, 1e3, "100", None, 2**70, True))
        point = {knob: offered[knob][0]}
    if kind == 4:
        point = {draw.choice(("gpu", "path", "__class__", "GPU_HZ", "")): offered[knob][0]}
    line = json.dumps({"verb": "lease", "point": point, "ttl_ms": ttl}).encode()
    if kind == 5:
        return line[: draw.randrange(1, len(line))]
    if kind == 6:
        return json.dumps({"verb": "lease", "point": {knob: offered[knob][0]}, "ttl_ms": 100, "x": 1}).encode()
    return line


def _talk(path: Path, data: bytes) -> list[dict[str, object]]:
    """Every answer until clockd hangs up or has no more to say."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.settimeout(DEADLINE_S)
        raw.connect(str(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := raw.recv(65536):
                received += part
    return [json.loads(line) for line in received.splitlines()]


def _as_user(uid: int, speak: Callable[[], object]) -> str:
    """What another user's process gets to hear: the answers, or the name of the error."""
    end, mine = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            heard = json.dumps(speak())
        except OSError as error:
            heard = type(error).__name__
        finally:
            mine.sendall(heard.encode())
            os._exit(0)
    mine.close()
    os.waitpid(child, 0)
    with end:
        return end.recv(65536).decode()


def _refused(tally: Tally, made: Stage, what: str) -> None:
    second = made.start("clockd", *QUIET)
    tally.same(second.wait(DEADLINE_S), 3, f"{what}: exit code of clockd")
    tally.expect(str(made.run_dir.root) in second.said, f"{what}: no log line names the place: {second.said[-200:]}")


def _stale(tally: Tally, made: Stage) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(made.run_dir.socket))
    clockd = made.clockd(*QUIET)
    with made.client() as client:
        tally.expect(client.hello()["ok"], "a stale socket is replaced")
    clockd.send(signal.SIGTERM)
    tally.same(clockd.wait(DEADLINE_S), 0, "exit code after a stale socket")


def _no_socket(tally: Tally, made: Stage) -> None:
    made.run_dir.socket.write_text("somebody's notes")
    _refused(tally, made, "a file that is no socket")
    tally.same(made.run_dir.socket.read_text(), "somebody's notes", "a file that is no socket")


def _live(tally: Tally, made: Stage) -> None:
    made.clockd(*QUIET)
    with made.client() as client:
        low, _ = points(client.table())
        client.lease(low, 5.0)
        _refused(tally, made, "a live listener")
        client.renew(5.0)
        tally.expect(made.changed(), "a second clockd has put the first one's clocks back")
        client.release()


def _link(tally: Tally, made: Stage) -> None:
    target = made.folder / "elsewhere.sock"
    target.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(target))
    made.run_dir.socket.symlink_to(target)
    _refused(tally, made, "a symbolic link")
    tally.expect(made.run_dir.socket.is_symlink() and target.is_socket(), "a symbolic link and its target stay")
