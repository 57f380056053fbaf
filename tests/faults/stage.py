# SPDX-License-Identifier: Apache-2.0
"""The stage of a case: a board of plain files, a run directory, and the processes between them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from boards.archive import unpack
from boards.clocks import ClockPoint, ClockTable
from governor.client import ClockClient
from governor.errors import GovernorError
from telemetry.board_page import BoardPage, BoardReading
from telemetry.errors import PageError
from telemetry.rundir import RunDir

from .record import Tally, Unfit
from .zygote import ROOT, Child, Zygote

FIXTURE = ROOT / "tests/fixtures/agx-orin-jp6.tree"
DEADLINE_S = 60.0
"""Bounds a failure and promises nothing."""
HOST_S = float(os.environ.get("TEG_FAULT_HOST_S", "0"))
"""What a busy host may lose: seconds in thinned runs, which share theirs with anybody, nothing in full ones."""
GPU = "sys/devices/platform/bus@0/17000000.gpu/devfreq/17000000.gpu"
GPU_LINK = "sys/class/devfreq/17000000.gpu"
EMC = "sys/kernel/debug/bpmp/debug/clk/emc"
CPU = "sys/devices/system/cpu"


def until(condition: Callable[[], object], what: str, within_s: float = DEADLINE_S) -> float:
    """Wait for a condition; the seconds that took. Raises `TimeoutError` naming what never came."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > within_s:
            raise TimeoutError(f"not within {within_s} s: {what}")
        time.sleep(0.002)
    return time.monotonic() - began_s


def due(within_s: float) -> float:
    """When a promise of so many seconds is broken on this host."""
    return within_s + HOST_S


def put(path: Path, value: str) -> None:
    """Write a knob file as somebody else would: in one call, so that nobody ever finds it empty."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        # a shorter value than the one before ends in a newline, and nothing behind that counts
        os.write(descriptor, f"{value}\n".encode())
    finally:
        os.close(descriptor)


def small_board() -> str:
    """The AGX Orin's archive with two clusters of two cores: the same files and code paths, fewer of each.

    Without the files of measured clocks, which nobody moves here: a request would be waited for until it is given up.
    """
    lines = []
    for line in FIXTURE.read_text().splitlines():
        path, _, text = line.partition(" ")
        if any(part in f"{path}/" for part in ("policy8/", *(f"/cpu{n}/" for n in (2, 3, 6, 7, 8, 9, 10, 11)))):
            continue
        if path.endswith(("/cur_freq", "/cpuinfo_cur_freq")):
            continue
        if path.endswith("related_cpus"):
            text = json.dumps("0 1\n" if "policy0" in path else "4 5\n")
        if path == "/sys/devices/system/cpu/online":
            text = json.dumps("0-1,4-5\n")
        lines.append(f"{path} {text}")
    return "\n".join(lines)


class Stage:
    """One board of files under `root` and one run directory; processes are forked from a zygote."""

    def __init__(self, folder: Path, zygote: Zygote, archive: str | None = None) -> None:
        self.folder = folder
        self.root = unpack(small_board() if archive is None else archive, folder / "board")
        self.run_dir = RunDir(folder / "run")
        self.zygote = zygote
        self.originals = self.files()
        self.children: list[Child] = []
        self.ledger = self.run_dir.root / "clocks.ledger"

    def files(self) -> dict[Path, bytes]:
        """Every file of the board that is not a sensor, and what it holds."""
        files = [path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()]
        return {path: path.read_bytes() for path in files if "hwmon" not in path.parts and "thermal" not in path.parts}

    def changed(self) -> dict[str, str]:
        """Files of the board that do not read as they did at first."""
        now = self.files()
        return {
            str(path.relative_to(self.root)): now.get(path, b"(gone)").decode(errors="replace").strip()
            for path, content in self.originals.items()
            if _value(now.get(path)) != _value(content)
        }

    def put_back(self) -> None:
        """The board's files as they were at first."""
        for path, content in self.originals.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)

    def reset(self) -> None:
        """The board as it was at first, and an empty run directory; no process may run."""
        self.put_back()
        shutil.rmtree(self.run_dir.root, ignore_errors=True)

    def board(self, *more: str) -> list[str]:
        """The arguments that put a verb on this stage."""
        return ["--root", str(self.root), "--run-dir", str(self.run_dir.root), *more]

    def start(self, verb: str, *more: str, stopped: bool = False, before: str = "", **environ: str) -> Child:
        """`teg VERB` on this stage."""
        log = self.folder / f"{verb}.{len(self.children)}.log"
        log.unlink(missing_ok=True)
        arguments = [verb, *self.board(*more)]
        child = self.zygote.fork(arguments, log, stopped=stopped, before=before, environ=environ)
        self.children.append(child)
        return child

    def clockd(self, *more: str, before: str = "", **environ: str) -> Child:
        """A clockd that answers; raises `Unfit` if it does not come up."""
        child = self.start("clockd", *more, before=before, **environ)
        self.answering(child)
        return child

    def answering(self, child: Child) -> float:
        """Wait until a clockd answers; the seconds that took. Raises `Unfit` if it ends first."""

        def answers() -> bool:
            if not child.running:
                raise Unfit(f"clockd ended with {child.code}: {child.said[-500:]}")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                return probe.connect_ex(str(self.run_dir.socket)) == 0

        return until(answers, "clockd listens")

    def restore(self, *more: str) -> Child:
        """`teg restore`, to its end."""
        child = self.start("restore", *more)
        if child.wait(DEADLINE_S) is None:
            child.end()
        return child

    def client(self, timeout_s: float = DEADLINE_S) -> ClockClient:
        """A client of this stage's clockd."""
        return ClockClient(self.run_dir.socket, timeout_s)

    def reading(self) -> BoardReading | None:
        """What the board page says now, None if there is none."""
        try:
            page = BoardPage.open(self.run_dir.board_page)
        except PageError:
            return None
        try:
            return page.read()
        finally:
            page.close()

    def close(self, tally: Tally | None = None) -> None:
        """End every process; with a tally, expect that none of them let a traceback out."""
        for child in self.children:
            child.end()
            if tally is not None:
                clean(tally, child)
        self.children.clear()


def clean(tally: Tally, child: Child) -> None:
    """Expect that a process said nothing of a traceback."""
    said = child.said
    if "Traceback" in said:
        tally.expect(False, f"traceback: {said[said.index('Traceback') :][:1500]}")


@contextlib.contextmanager
def stage(zygote: Zygote, tally: Tally | None = None, archive: str | None = None) -> Iterator[Stage]:
    """A stage in a temporary folder, which goes with it."""
    with tempfile.TemporaryDirectory(prefix="teg-faults-") as folder:
        made = Stage(Path(folder), zygote, archive)
        try:
            yield made
        finally:
            made.close(tally)


def points(table: ClockTable) -> tuple[ClockPoint, ClockPoint]:
    """A low point with the fewest cores and a middle one with all of them; both set every knob the table has."""

    def pick(values: tuple[int, ...], share: float) -> int | None:
        return values[int(share * (len(values) - 1))] if values else None

    def at(share: float, cores: float) -> ClockPoint:
        return ClockPoint(
            pick(table.gpu_hz, share),
            pick(table.gpu_min_hz, share),
            pick(table.emc_hz, share),
            pick(table.cpu_hz, share),
            pick(table.cores, cores),
        )

    return at(0.0, 0.0), at(0.5, 1.0)


def walk(client: ClockClient, ttl_s: float = 5.0) -> None:
    """Lease a low point, move to another, give it back; ends early, without a word, if clockd does."""
    with contextlib.suppress(GovernorError):
        low, middle = points(client.table())
        client.lease(low, ttl_s)
        client.lease(middle, ttl_s)
        client.release()


def _value(content: bytes | None) -> bytes | None:
    """A knob file's value: a shorter text written over a longer one leaves bytes behind on a plain file."""
    return None if content is None else content.split(b"\n")[0].strip()


def is_root() -> bool:
    """Whether this user may inject, chown and setuid."""
    return os.geteuid() == 0
