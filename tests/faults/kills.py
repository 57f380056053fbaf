# SPDX-License-Identifier: Apache-2.0
"""clockd killed at every system call on its ledger or a knob, and its recovery killed at every one of its own."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .record import Tally
from .stage import DEADLINE_S, Stage, due, points, stage, until, walk
from .strace import FILE_CALLS, Injection, attached, both_names, counted
from .zygote import Child, Zygote, until_stopped

RESTORED_WITHIN_S = 3.0
SERVING, RECOVERING = 200, 36
"""Deaths of each kind that a full run needs at the least."""
WORKERS = 2
QUIET = ("--rate-hz", "1")
"""Seldom sampling, so that the calls counted are those of leases and restores."""


def clockd_killed(tally: Tally) -> None:
    """Row 15: whatever call was the last one, the next process puts every knob back."""
    with Zygote() as zygote:
        serving = _calls_of_serving(zygote)
        tally.note("calls_while_serving", sum(serving.values()))
        _in_parallel(tally, zygote, tally.thin(list(_every(serving))), _killed_serving)
        recovering = _calls_of_recovery(zygote)
        tally.note("calls_of_a_recovery", sum(recovering.values()))
        _in_parallel(tally, zygote, tally.thin(list(_every(recovering))), _killed_recovering)
    enough = tally.kinds["serving"] >= SERVING // tally.every and tally.kinds["recovering"] >= RECOVERING // tally.every
    tally.expect(enough, f"too few deaths: {dict(tally.kinds)}")


def watched(made: Stage) -> list[Path]:
    """What belongs to the ledger and to the knobs: the files, their folder, and the ledger's successor."""
    ledger = made.ledger
    successors = (ledger.with_name(f".{ledger.name}.new"), ledger.with_name(f"{ledger.name}.corrupt-0"))
    links = [path / name for path in (made.root / "sys/class/devfreq").iterdir() for name in ("min_freq", "max_freq")]
    return both_names([ledger, ledger.parent, *successors, *links, *made.originals])


def dirty(made: Stage) -> None:
    """Leave the stage as a clockd leaves it that was killed under a lease."""
    clockd = made.clockd(*QUIET)
    with made.client() as client:
        _, middle = points(client.table())
        client.lease(middle, 5.0)
        clockd.end()


def _every(calls: dict[str, int]) -> Iterator[Injection]:
    for call, count in sorted(calls.items()):
        for number in range(1, count + 1):
            yield Injection(call, "signal=KILL", str(number))


def _in_parallel(
    tally: Tally, zygote: Zygote, kills: Sequence[Injection], case: Callable[[Tally, Stage, Injection], None]
) -> None:
    def work(share: Sequence[Injection]) -> None:
        with stage(zygote, tally) as made:
            for kill in share:
                case(tally, made, kill)
                made.close(tally)
                made.reset()

    with ThreadPoolExecutor(WORKERS) as pool:
        for done in [pool.submit(work, kills[worker::WORKERS]) for worker in range(WORKERS)]:
            done.result()


def _calls_of_serving(zygote: Zygote) -> dict[str, int]:
    with stage(zygote) as made:
        clockd = made.clockd(*QUIET)
        with attached(clockd.pid, (), watched(made), FILE_CALLS, log := made.folder / "log"):
            with made.client() as client:
                walk(client)
            clockd.send(signal.SIGTERM)
            clockd.wait(DEADLINE_S)
        return counted(log)


def _calls_of_recovery(zygote: Zygote) -> dict[str, int]:
    with stage(zygote) as made:
        dirty(made)
        _recover(made, (), log := made.folder / "log")
        return counted(log)


def _killed_serving(tally: Tally, made: Stage, kill: Injection) -> None:
    clockd = made.clockd(*QUIET)
    with attached(clockd.pid, [kill], watched(made)):
        with made.client() as client:
            walk(client)
        clockd.send(signal.SIGTERM)
        code = clockd.wait(DEADLINE_S)
    if code != -signal.SIGKILL:
        return  # sampling is on a clock of its own: this run had fewer calls
    tally.inject(real=True, kind="serving")
    left = made.changed()
    tally.kinds["left changed at death"] += bool(left)
    heir = _restarted if int(kill.when) % 2 else _restored
    tally.worst("slowest_restore_s", heir(tally, made, f"killed at {kill}"))


def _killed_recovering(tally: Tally, made: Stage, kill: Injection) -> None:
    dirty(made)
    if _recover(made, [kill]).code != -signal.SIGKILL:
        return
    tally.inject(real=True, kind="recovering")
    tally.worst("slowest_restore_s", _restored(tally, made, f"recovery killed at {kill}"))


def _recover(made: Stage, kills: Sequence[Injection], log: Path = Path("/dev/null")) -> Child:
    """`teg restore` under strace from its first instruction."""
    child = made.start("restore", stopped=True)
    until_stopped(child.pid)
    with attached(child.pid, kills, watched(made), FILE_CALLS, log):
        child.go_on(DEADLINE_S)
    return child


def _restored(tally: Tally, made: Stage, what: str) -> float:
    """What `ExecStopPost=` does; the seconds it took."""
    began_s = time.monotonic()
    helper = made.restore()
    took_s = time.monotonic() - began_s
    tally.same(helper.code, 0, f"{what}: exit code of teg restore ({helper.said[-300:]})")
    tally.same(made.changed(), {}, f"{what}: left changed after teg restore")
    tally.expect(took_s <= due(RESTORED_WITHIN_S), f"{what}: restored after {took_s:.1f} s")
    return took_s


def _restarted(tally: Tally, made: Stage, what: str) -> float:
    """What a restart does; the seconds it took."""
    began_s = time.monotonic()
    heir = made.start("clockd", *QUIET)
    made.answering(heir)
    until(lambda: not made.changed() or time.monotonic() - began_s > due(RESTORED_WITHIN_S), "the clocks go back")
    took_s = time.monotonic() - began_s
    tally.same(made.changed(), {}, f"{what}: left changed after a restart")
    with made.client() as client:
        tally.same(client.status()["restore_pending"], False, f"{what}: restore_pending after a restart")
    heir.end()
    return took_s
