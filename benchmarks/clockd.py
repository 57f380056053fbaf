# SPDX-License-Identifier: Apache-2.0
"""What clockd costs, and what it leaves behind when it, its client or its restorer dies at any instant.

Real processes throughout. Costs and latencies are of the virtual AGX Orin (clocks that take their time to settle) and
of the same board exported as plain files; reading those costs what reading sysfs costs Python, not what the kernel's
own sensors take on a Jetson (an I2C transfer a rail, asleep). Deaths are on the plain files: strace kills at every
system call on a knob, the ledger, or its folder, one run each, and `teg restore` follows.

The yardstick is the usual design (tuned's, by its source): originals in memory, put back at the end or at SIGTERM, on
the same board code. `FULL=1` kills at every call; otherwise at every `STEP`-th.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from boards.archive import export
from boards.clocks import ClockPoint
from boards.discover import open_board
from boards.virtual import VirtualBoard
from governor.client import ClockClient
from governor.errors import ClockdUnavailable, GovernorError
from telemetry.rundir import RunDir

from .killing import Killer
from .stack import TEG, child

OUT = Path("out/bench/clockd.json")
STEP = 9
FULL = os.environ.get("FULL") == "1"
VIRTUAL = "virtual:agx-orin"
LOW = ClockPoint(408_000_000, 306_000_000, 665_600_000, 960_000_000, 4)
MIDDLE = ClockPoint(816_000_000, 408_000_000, 2_133_000_000, 1_574_400_000, 8)
CLOCKS_ONLY = ClockPoint(816_000_000, 408_000_000, 2_133_000_000, 1_574_400_000)
DEADLINE_S = 20.0
SAMPLED_S = 30.0 if FULL else 10.0
TARGETS = {
    "CPU share of sampling at 20 Hz": 0.01,
    "memory": 20e6,
    "points left changed": 0,
    "restore after a kill": 3.0,
    "restore after governor death or hang": 6.0,
}
HOLDER = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from boards.clocks import ClockPoint
    from governor.client import ClockClient
    client = ClockClient(Path(sys.argv[1]))
    client.lease(ClockPoint(cores=4, gpu_hz=408_000_000), 5.0)
    print("held", flush=True)
    while True:
        client.renew(5.0)
        time.sleep(0.25)
""")
NAIVE = textwrap.dedent("""
    import signal, sys
    from pathlib import Path
    from benchmarks.clockd import LOW, MIDDLE
    from boards.discover import open_board
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    board = open_board("auto", Path(sys.argv[1]))
    originals = board.read_knobs()
    try:
        board.request(LOW)
        board.request(MIDDLE)
    finally:
        board.restore(originals)
""")


def main() -> int:
    """Measure, print, write; 1 if a target is missed."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="teg-bench-") as name:
        folder = Path(name)
        results = {
            "latency": _show("request to answer with observed clocks", _latency(folder / "latency")),
            "renewal": _show("renewing a lease", _renewal(folder / "renewal")),
            "sampling": _show("sampling at 20 Hz", _sampling(folder)),
            "deaths": _show("governor killed, or stopped", _deaths(folder / "deaths")),
            "kills": _show("killed at a system call", _kills(folder / "kills")),
        }
    missed = _missed(results)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(results | {"missed": missed}, indent=1) + "\n")
    every = "every" if FULL else f"every {STEP}th"
    print(f"{time.monotonic() - began_s:.0f} s, killed at {every} system call -> {OUT}")
    for line in missed:
        print(f"target missed: {line}")
    return 1 if missed else 0


class Desk:
    """A run directory, and a board: the virtual one, or the same as plain files."""

    def __init__(self, folder: Path, *, files: bool) -> None:
        self.run_dir = RunDir(folder / "run")
        self.root = folder / "board"
        folder.mkdir(parents=True)
        self.board = ["--board", VIRTUAL]
        if files:
            self.board = ["--root", str(self.root)]
            board = open_board(VIRTUAL)
            assert isinstance(board, VirtualBoard)
            export(board.tree, self.root)
            # On plain files a measured clock never follows: each request would be waited for until it is given up.
            for path in (*self.root.rglob("cur_freq"), *self.root.rglob("cpuinfo_cur_freq")):
                path.unlink()
            self.originals = self.knobs()

    def command(self, verb: str, *more: str) -> list[str]:
        return [*TEG, verb, "--run-dir", str(self.run_dir.root), *self.board, *more]

    def knobs(self) -> dict[str, int]:
        return open_board("auto", self.root).read_knobs()

    def reset(self) -> None:
        """The board and the run directory as they were."""
        open_board("auto", self.root).restore(self.originals)
        shutil.rmtree(self.run_dir.root, ignore_errors=True)

    def restore(self) -> float:
        """Seconds that `teg restore` takes from its start to its end."""
        began_s = time.monotonic()
        subprocess.run(self.command("restore"), check=True, stderr=subprocess.DEVNULL, timeout=DEADLINE_S)
        return time.monotonic() - began_s

    def watched(self) -> list[Path]:
        """Ledger, its folder, its successor, and every knob file, by both of its names."""
        ledger = self.run_dir.root / "clocks.ledger"
        knobs = [path for name in ("m??_freq", "scaling_m??_freq", "online") for path in self.root.rglob(name)]
        emc = [path for path in (self.root / "sys/kernel/debug").rglob("*") if path.name in ("rate", "mrq_rate_locked")]
        links = [link / name for link in self.root.glob("sys/class/devfreq/*") for name in ("min_freq", "max_freq")]
        return [ledger, ledger.parent, ledger.with_name(f".{ledger.name}.new"), *knobs, *emc, *links]


@contextlib.contextmanager
def clockd(desk: Desk, *more: str) -> Iterator[tuple[subprocess.Popen[bytes], ClockClient]]:
    """A clockd that answers, and a client of it."""
    process = subprocess.Popen(desk.command("clockd", *more), stderr=subprocess.DEVNULL)
    with child(process), ClockClient(desk.run_dir.socket, DEADLINE_S) as client:
        _until(lambda: _answers(client), "clockd answers")
        yield process, client


def _answers(client: ClockClient) -> bool:
    try:
        client.hello()
    except ClockdUnavailable:
        return False
    return True


def _latency(folder: Path) -> dict[str, Any]:
    """From the request to the answer that says what the clocks read; on files nothing has to settle."""
    rows = {}
    for kind in ("virtual", "files"):
        with clockd(Desk(folder / kind, files=kind == "files")) as (_, client):
            latencies_s = []
            for number in range(400 if FULL else 120):
                began_s = time.perf_counter()
                applied = client.lease(MIDDLE if number % 2 else LOW, 5.0)
                latencies_s.append(time.perf_counter() - began_s)
                assert applied.honoured
        rows[kind] = _quantiles_ms(latencies_s)
    return rows


def _renewal(folder: Path) -> dict[str, Any]:
    """A round trip as the client sees it, and what it costs clockd."""
    with clockd(Desk(folder, files=True), "--rate-hz", "1") as (process, client):
        client.lease(CLOCKS_ONLY, 5.0)
        latencies_s, before_s = [], _cpu_s(process.pid)
        for _ in range(5000 if FULL else 2000):
            began_s = time.perf_counter()
            client.renew(5.0)
            latencies_s.append(time.perf_counter() - began_s)
        cpu_us = 1e6 * (_cpu_s(process.pid) - before_s) / len(latencies_s)
    return _quantiles_ms(latencies_s) | {"clockd_cpu_us": cpu_us}


def _sampling(folder: Path) -> dict[str, Any]:
    """Share of a core and memory, at rest and under a lease that is renewed four times a second."""
    rows = {}
    for kind in ("files", "virtual"):
        with clockd(Desk(folder / f"sampling-{kind}", files=kind == "files")) as (process, client):
            for state in ("at_rest", "leased"):
                if state == "leased":
                    client.lease(CLOCKS_ONLY, 5.0)
                time.sleep(1.0)
                began_s, before_s = time.monotonic(), _cpu_s(process.pid)
                while time.monotonic() - began_s < SAMPLED_S:
                    time.sleep(0.25)
                    if state == "leased":
                        client.renew(5.0)
                share = (_cpu_s(process.pid) - before_s) / (time.monotonic() - began_s)
                rows[f"{kind}_{state}"] = {"core_share": share} | _memory(process.pid)
    return rows


def _deaths(folder: Path) -> dict[str, Any]:
    """Seconds until every knob reads as before, after the holder of a 5 s lease was killed, or stopped."""
    rows: dict[str, list[float]] = {"killed": [], "stopped": []}
    desk = Desk(folder, files=True)
    with clockd(desk):
        for kind, how in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP)) * (5 if FULL else 2):
            words = [sys.executable, "-c", HOLDER, str(desk.run_dir.socket)]
            holder = subprocess.Popen(words, stdout=subprocess.PIPE)
            try:
                assert holder.stdout is not None
                assert holder.stdout.readline() == b"held\n"
                assert desk.knobs() != desk.originals
                holder.send_signal(how)
                rows[kind].append(_until(lambda: desk.knobs() == desk.originals, "the clocks go back"))
            finally:
                holder.kill()
                holder.communicate()
    return {f"{kind}_worst_s": max(seconds) for kind, seconds in rows.items()}


def _kills(folder: Path) -> dict[str, Any]:
    """clockd, its restorer, and the design with originals in memory, each killed at its calls on knobs and ledger."""
    return {
        "clockd": _killed(Desk(folder / "clockd", files=True), _serve_and_end, restores=True),
        "restorer": _killed(Desk(folder / "restorer", files=True), _restore_what_is_left, restores=True),
        "in_memory": _killed(Desk(folder / "naive", files=True), _ask_and_put_back, restores=False),
    }


def _killed(desk: Desk, story: Callable[[Desk, list[str]], None], *, restores: bool) -> dict[str, Any]:
    left: list[str] = []
    slowest_s, points = 0.0, 0

    def anew(words: list[str]) -> None:
        desk.reset()
        story(desk, words)

    with Killer(desk.root.parent, desk.watched()) as killer:
        for point in killer.every(anew, step=1 if FULL else STEP):
            points += 1
            if restores:
                slowest_s = max(slowest_s, desk.restore())
            if desk.knobs() != desk.originals:
                left.append(str(point))
    return {"points": points, "left_changed": len(left), "slowest_restore_s": slowest_s, "changed_at": left[:20]}


def _serve_and_end(desk: Desk, words: list[str]) -> None:
    """Lease, move, release, lease again, and end under it."""
    command = [*words, *desk.command("clockd", "--rate-hz", "1")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: desk.run_dir.board_page.exists() or process.poll() is not None, "clockd comes up")
        with contextlib.suppress(GovernorError), ClockClient(desk.run_dir.socket, DEADLINE_S) as client:
            client.lease(LOW, 5.0)
            client.lease(MIDDLE, 5.0)
            client.release()
            client.lease(LOW, 5.0)
            os.kill(int(client.hello()["pid"]), signal.SIGTERM)
        process.wait(DEADLINE_S)
    finally:
        process.kill()
        process.wait()


def _restore_what_is_left(desk: Desk, words: list[str]) -> None:
    """A clockd killed under its lease, and then `teg restore`."""
    with clockd(desk, "--rate-hz", "1") as (process, client):
        client.lease(LOW, 5.0)
        process.kill()
        process.wait()
    subprocess.run([*words, *desk.command("restore")], stderr=subprocess.DEVNULL, timeout=DEADLINE_S, check=False)


def _ask_and_put_back(desk: Desk, words: list[str]) -> None:
    """The usual design, from beginning to end."""
    command = [*words, sys.executable, "-c", NAIVE, str(desk.root)]
    subprocess.run(command, stderr=subprocess.DEVNULL, timeout=DEADLINE_S, check=False)


def _quantiles_ms(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50_ms": 1e3 * cuts[49], "p99_ms": 1e3 * cuts[98]}


def _cpu_s(pid: int) -> float:
    """Seconds on a processor so far (first field of schedstat, Linux scheduler/sched-stats)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _memory(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return {"rss_bytes": 1024 * kilobytes["Rss"], "pss_bytes": 1024 * kilobytes["Pss"]}


def _until(condition: Callable[[], object], what: str) -> float:
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > DEADLINE_S:
            raise TimeoutError(what)
        time.sleep(0.002)
    return time.monotonic() - began_s


def _show(title: str, rows: dict[str, Any]) -> dict[str, Any]:
    print(title)
    nested = rows if all(isinstance(row, dict) for row in rows.values()) else {"": rows}
    for name, row in nested.items():
        figures = (f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, int | float))
        print(f"  {name:17} {'  '.join(figures)}", flush=True)
    return rows


def _missed(results: dict[str, Any]) -> list[str]:
    sampling, kills, deaths = results["sampling"], results["kills"], results["deaths"]
    ours = (kills["clockd"], kills["restorer"])
    found = {
        "CPU share of sampling at 20 Hz": max(
            sampling[f"files_{state}"]["core_share"] for state in ("at_rest", "leased")
        ),
        "memory": max(sampling[f"files_{state}"]["rss_bytes"] for state in ("at_rest", "leased")),
        "points left changed": sum(row["left_changed"] for row in ours),
        "restore after a kill": max(row["slowest_restore_s"] for row in ours),
        "restore after governor death or hang": max(deaths.values()),
    }
    return [f"{name}: {found[name]:.4g}, at most {most:g}" for name, most in TARGETS.items() if found[name] > most]


if __name__ == "__main__":
    sys.exit(main())
