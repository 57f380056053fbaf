# SPDX-License-Identifier: Apache-2.0
"""Governors in real processes, and what is left when they are killed at any system call or at random."""

from __future__ import annotations

import queue
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from boards.clocks import KNOBS
from telemetry.durable import decode

from .record import Tally
from .stage import DEADLINE_S, Stage, clean, due, stage, until
from .strace import FILE_CALLS, Injection, attached, both_names, counted
from .traffic import Traffic
from .zygote import LIGHT, Child, Zygote, until_stopped

MODULES = (*LIGHT, "governor.cli.run", "governor.loop", "governor.exporter", "governor.reader", "rich.progress")
STUB = "tests.faults.stub_search:install"
SOCKET_CALLS = ("connect", "sendto", "recvfrom")
TTL_S = 1.0
SAFE_WITHIN_S = TTL_S + 1.0
TOGETHER = 6
REACH_S = 24.0
"""A kill point that is not reached by then does not exist in this run."""
RANDOM_KILLS = 200
FILE_KILLS, SOCKET_KILLS = 70, 170


@dataclass(slots=True)
class Governed:
    """A stage with a clockd, traffic, and one governor after the other on the same state directory."""

    made: Stage
    clockd: Child
    allowed: dict[str, set[str]]

    @property
    def state(self) -> Path:
        """Where the history is."""
        return self.made.folder / "state"

    @property
    def history(self) -> Path:
        """The log of trials."""
        return self.state / "history.log"

    def govern(self, *more: str, stopped: bool = False, ttl_s: float = TTL_S, **environ: str) -> Child:
        """`teg run` with a stub search and short trials."""
        config = self.made.folder / "teg.toml"
        config.write_text(f"lease_ttl_s = {ttl_s}\ntick_s = 0.02\nslo_window_s = 1.0\ncooldown_s = 0.5\n")
        arguments = ["run", "--config", str(config), "--run-dir", str(self.made.run_dir.root)]
        arguments += ["--state-dir", str(self.state), "--metrics-port", "0", "--knobs", "gpu_hz,emc_hz,cpu_hz"]
        arguments += ["--trials", "1000000", "--trial-s", "0.1", *more]
        log = self.made.folder / f"run.{len(self.made.children)}.log"
        child = self.made.zygote.fork(arguments, log, stopped=stopped, before=STUB, environ=environ)
        self.made.children.append(child)
        return child

    def ended(self, tally: Tally, child: Child) -> None:
        """The governor is done with: it let no traceback out."""
        child.end()
        clean(tally, child)
        self.made.children.remove(child)
        child.log.unlink()

    def records(self) -> list[bytes]:
        """Every whole line of the history."""
        return self.history.read_bytes().splitlines() if self.history.exists() else []

    def moved(self, child: Child) -> bool:
        """Whether the governor holds clocks that are not the board's own."""
        if not child.running:
            raise RuntimeError(f"the governor ended with {child.code}: {child.said[-800:]}")
        return bool(self.made.changed())


@contextmanager
def governed(zygote: Zygote, traffic: Traffic, tally: Tally, *more: str) -> Iterator[Governed]:
    """A stage whose clockd answers and whose model is served."""
    with stage(zygote, tally) as made, traffic.on(made.run_dir, next(made.root.glob("sys/class/hwmon/*/curr1_input"))):
        clockd = made.clockd("--rate-hz", "50", *more)
        with made.client() as client:
            table = client.table()
        khz = {str(value // 1000) for value in table.cpu_hz}
        hertz = {str(value) for knob in KNOBS for value in getattr(table, knob)}
        yield Governed(made, clockd, {"khz": khz, "hz": hertz})


def killed(tally: Tally) -> None:
    """Row 14: SIGKILL at every call on state files or to clockd, and at random times."""
    draw = random.Random(14)
    with Zygote(MODULES) as zygote, Traffic() as traffic:
        kills = _points(zygote, traffic, tally)
        moments = [draw.uniform(0.0, 2.0) for _ in range(RANDOM_KILLS)]
        tally.note("kill_points", len(kills))
        work: queue.SimpleQueue[Injection | float] = queue.SimpleQueue()
        for case in [*tally.thin(kills), *tally.thin(moments)]:
            work.put(case)

        def take() -> None:
            with governed(zygote, traffic, tally) as scene:
                while not work.empty():
                    try:
                        case = work.get_nowait()
                    except queue.Empty:
                        return
                    _killed_once(tally, scene, case)

        together(take, TOGETHER)
    enough = min(tally.kinds["system call"], tally.kinds["random time"]) >= RANDOM_KILLS // tally.every
    tally.expect(enough, f"too few deaths: {dict(tally.kinds)}")


def together(take: Callable[[], None], workers: int) -> None:
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(take) for _ in range(workers)]:
            done.result()


def _points(zygote: Zygote, traffic: Traffic, tally: Tally) -> list[Injection]:
    """Every call of the first seconds of a governor: on its state, and to clockd."""
    found = []
    with governed(zygote, traffic, tally) as scene:
        first = scene.govern()
        until(lambda: len(scene.records()) > 1, "a history, as every later governor finds one")
        scene.ended(tally, first)
        kinds = (FILE_CALLS, _state_paths(scene), FILE_KILLS), (SOCKET_CALLS, [], SOCKET_KILLS)
        for calls, paths, enough in kinds:
            child = scene.govern(stopped=True)
            until_stopped(child.pid)
            log = scene.made.folder / "calls"
            with attached(child.pid, (), paths, calls, log):
                child.go_on(1.0)
                until(lambda log=log, enough=enough: counted(log).total() >= enough, "calls to count", 60)
            child.send(signal.SIGTERM)
            tally.same(child.wait(DEADLINE_S), 0, f"exit code of a governor told to end ({child.said[-300:]})")
            scene.ended(tally, child)
            for call, count in sorted(counted(log).items()):
                found += [Injection(call, "signal=KILL", str(number)) for number in range(1, count + 1)]
    return found


def _state_paths(scene: Governed) -> list[Path]:
    return both_names([scene.state, scene.history, scene.state / ".history.log.new"])


def _killed_once(tally: Tally, scene: Governed, case: Injection | float) -> None:
    """One governor, killed; the clocks are back in time, and every record that was on the disk is there."""
    what = f"governor killed at {case if isinstance(case, Injection) else f'{case:.2f} s'}"
    before, said = scene.records(), len(scene.clockd.said)
    synced = _die(scene, case)
    if synced is None:
        return
    died_s = time.monotonic()
    tally.inject(real=True, kind="system call" if isinstance(case, Injection) else "random time")
    _only_known_values(tally, scene, what)
    try:
        until(lambda: not scene.made.changed(), "the clocks go back", due(SAFE_WITHIN_S))
    except TimeoutError:
        tally.expect(False, f"{what}: left changed {scene.made.changed()}")
    tally.worst("slowest_safe_s", time.monotonic() - died_s)
    tally.kinds["died with a lease"] += "its holder has gone" in scene.clockd.said[said:]
    after = scene.records()
    tally.same(after[: len(before)], before, f"{what}: earlier records")
    sound = sum(decode(line) is not None for line in after[len(before) :])
    tally.expect(sound >= synced, f"{what}: {sound} records where {synced} were on the disk")
    torn = [line for line in after if decode(line) is None]
    tally.expect(len(torn) <= tally.injected, f"{what}: {len(torn)} torn records")


def _die(scene: Governed, case: Injection | float) -> int | None:
    """Run a governor to its death; how many records it had synced, None if it never came to the point."""
    child = scene.govern(stopped=isinstance(case, Injection))
    try:
        if not isinstance(case, Injection):
            child.wait(case)
            child.send(signal.SIGKILL)
            child.wait(DEADLINE_S)
            return 0
        until_stopped(child.pid)
        log = scene.made.folder / "calls"
        paths = [] if case.call in SOCKET_CALLS else _state_paths(scene)
        with attached(child.pid, [case], paths, ("fdatasync",), log):
            code = child.go_on(REACH_S)
        synced = sum(line.rstrip().endswith("= 0") for line in log.read_text().splitlines() if "fdatasync(" in line)
        return synced if code == -signal.SIGKILL else None
    finally:
        child.end()
        scene.made.children.remove(child)
        if "Traceback" in child.said:
            raise RuntimeError(child.said[-2000:])
        child.log.unlink()


def _only_known_values(tally: Tally, scene: Governed, what: str) -> None:
    for name, value in scene.made.changed().items():
        offered = scene.allowed["khz" if "scaling" in name else "hz"]
        known = value in offered or Path(name).name in ("online", "state", "mrq_rate_locked")
        tally.expect(known, f"{what}: {name} reads {value}, which is not in the table")
