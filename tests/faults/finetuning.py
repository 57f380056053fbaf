# SPDX-License-Identifier: Apache-2.0
"""Workers killed at every system call on spool and pages, or refused room for pages; and what becomes of their job."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from telemetry.errors import SpoolError
from telemetry.jobs import JobState, JobStatus
from telemetry.spool import Spool

from .record import Tally, Unfit
from .resumes import MODULES, in_parallel
from .stage import DEADLINE_S, clean
from .strace import Injection, attached, injected, numbered, spelt
from .zygote import Child, Zygote, until_stopped

WORKER = "tests.faults.finetuner"
CALLS = (
    "openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "link", "linkat", "mkdir", "mkdirat",
    "rmdir", "unlink", "unlinkat", "ftruncate", "fallocate", "flock",
)  # fmt: skip
"""Those after which something is different; a death before any other is one of these to whoever comes later."""
RANDOM_KILLS = 100
AT_A_TIME = 2


class Worked:
    """What every case begins with, made once, and what the job comes to undisturbed."""

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self.zygote, self.folder = zygote, folder / "laid-out"
        self.folder.mkdir()
        _finish(zygote.fork([str(self.folder)], folder / "log", main=f"{WORKER}:laid_out"), "laying out")
        with self.case() as undisturbed:
            _finish(self.run(undisturbed), "a job that nobody disturbs")
            self.weights = [path.name.partition(".")[2] for path in _published(undisturbed)]
        if len(self.weights) != 1:
            raise Unfit(f"undisturbed it publishes {self.weights}")

    @contextlib.contextmanager
    def case(self) -> Iterator[Path]:
        """A folder with a job that waits."""
        with tempfile.TemporaryDirectory(prefix="teg-job-") as made:
            shutil.copytree(self.folder, made, dirs_exist_ok=True)
            yield Path(made)

    def run(self, folder: Path, *, stopped: bool = False) -> Child:
        """A worker."""
        log = folder / "log"
        log.unlink(missing_ok=True)
        return self.zygote.fork([str(folder)], log, main=f"{WORKER}:main", stopped=stopped)

    def struck(
        self, folder: Path, injections: Sequence[Injection], log: Path = Path("/dev/null"), *, once: bool = False
    ) -> Child:
        """A worker under strace from its first instruction, to its end; `once`: to the first call tampered with.

        A call's number is counted in each thread, and every attempt at a job has threads of its own.
        """
        child = self.run(folder, stopped=True)
        until_stopped(child.pid)
        with attached(child.pid, injections, (), CALLS, log, whole=not injections):
            if not once:
                child.go_on(DEADLINE_S)
            deadline_s = time.monotonic() + DEADLINE_S
            while once and not injected(log) and child.go_on(0.02) is None and time.monotonic() < deadline_s:
                continue
        child.go_on(DEADLINE_S)
        return child

    def calls(self, *, of_pages: bool) -> list[tuple[str, int]]:
        """Calls of a worker on its pages, or on all else in its folder; each numbered among those of its thread."""
        with self.case() as folder:
            log = folder / "strace"
            _finish(self.struck(folder, (), log), "a worker under strace")
            path, pages = spelt(str(folder)), spelt("/work/pages/")
            return numbered(log, lambda call, line: path in line and (pages in line) is of_pages)

    def goes_on(self, tally: Tally, folder: Path, what: str) -> None:
        """Expect that the next worker ends the job as if nothing had been, and leaves nothing but its record."""
        died_at_work = _status(folder).state in (JobState.ADMITTED, JobState.RUNNING)
        ended = _status(folder).state.ended
        child = self.run(folder)
        tally.same(child.wait(DEADLINE_S), 0, f"{what}: exit code of the next worker")
        clean(tally, child)
        if not ended:
            tally.same(_faults(child), {"resumed": 1} if died_at_work else {}, f"{what}: faults counted")
        self.done(tally, folder, what)

    def done(self, tally: Tally, folder: Path, what: str) -> None:
        """Expect the undisturbed weights, published under one name, and no file that the job worked with."""
        status = _status(folder)
        tally.same((status.state, status.version), (JobState.DONE, 2), f"{what}: {status.reason}")
        tally.same([path.name.partition(".")[2] for path in _published(folder)], self.weights, f"{what}: weights")
        left = sorted(path.name for path in (folder / "spool" / "jobs" / status.id).rglob("*"))
        tally.same(left, ["request.json", "status.json"], f"{what}: files of the job")
        drafts = [str(path) for path in (folder / "spool").rglob(".*")]
        tally.same(drafts, [], f"{what}: files half written")


def killed(tally: Tally) -> None:
    """Row 22: whatever call was the last one, or whenever it came, the next worker comes to the same weights."""
    with worked() as made:
        calls = made.calls(of_pages=False)
        tally.note("calls_on_the_spool", len(calls))
        kills = [Injection(call, "signal=KILL", str(number)) for call, number in calls]
        in_parallel(taken := tally.thin(kills), lambda kill: _killed_at(tally, made, kill))
        tally.expect(tally.kinds["at a call"] > 0.9 * len(taken), f"too few deaths: {dict(tally.kinds)}")
        share = -(-tally.few(RANDOM_KILLS) // AT_A_TIME)
        in_parallel(range(AT_A_TIME), lambda seed: _killed_at_random(tally, made, seed, share))


def no_room(tally: Tally) -> None:
    """Row 19: a page that cannot be written pauses the job; taken up again, it comes to the same weights."""
    with worked() as made:
        writes = [found for found in made.calls(of_pages=True) if found[0] in ("pwrite64", "fallocate")]
        tally.note("writes_of_pages", len(writes))
        errors = itertools.cycle(("ENOSPC", "EIO", "EDQUOT"))
        faults = [Injection(call, f"error={next(errors)}", str(number)) for call, number in writes]
        in_parallel(tally.thin(faults), lambda fault: _refused(tally, made, fault))


def _killed_at(tally: Tally, made: Worked, kill: Injection) -> None:
    with made.case() as folder:
        child = made.struck(folder, [kill])
        if child.code == 0:
            return  # this run had fewer calls
        what = f"killed at {kill}"
        tally.same(child.code, -signal.SIGKILL, f"{what}: exit code ({child.said[-300:]})")
        tally.inject(real=True, kind="at a call")
        _readable(tally, folder, what)
        made.goes_on(tally, folder, what)


def _killed_at_random(tally: Tally, made: Worked, seed: int, kills: int) -> None:
    """A job whose workers are killed again and again until one ends it, so many times in all."""
    chance = random.Random(seed)
    while kills > 0:
        with made.case() as folder:
            for _ in range(3):  # more deaths without a step between them would end the job, as they should
                child = made.run(folder)
                if child.wait(chance.uniform(0.2, 2.5)) is not None:
                    break
                child.end()
                kills -= 1
                tally.inject(real=True, kind="at random")
                _readable(tally, folder, f"seed {seed}, {kills} kills to come")
            made.goes_on(tally, folder, f"seed {seed}")


def _refused(tally: Tally, made: Worked, fault: Injection) -> None:
    """One write of a page fails."""
    with made.case() as folder, tempfile.NamedTemporaryFile() as log:
        child = made.struck(folder, [fault], Path(log.name), once=True)
        if not (times := injected(Path(log.name))):
            return
        what = f"{fault}"
        tally.inject(real=True, kind=fault.action)
        tally.same(child.code, 0, f"{what}: exit code")
        clean(tally, child)
        tally.same(sum(_faults(child).values()), times, f"{what}: faults counted")
        told = any(words in child.said for words in ("has no room", "could not keep room", "could not be written"))
        tally.expect(told, f"{what}: nobody said so: {child.said[-300:]}")
        made.done(tally, folder, what)


def _readable(tally: Tally, folder: Path, what: str) -> None:
    """Expect that others can read how the job stands, whenever its worker died."""
    try:
        tally.expect(_status(folder).state is not JobState.FAILED, f"{what}: it says that it failed")
    except SpoolError as error:
        tally.expect(False, f"{what}: {error}")


@contextlib.contextmanager
def worked() -> Iterator[Worked]:
    """All that cases begin with."""
    with tempfile.TemporaryDirectory(prefix="teg-jobs-") as folder, Zygote((*MODULES, WORKER)) as zygote:
        yield Worked(zygote, Path(folder))


def _status(folder: Path) -> JobStatus:
    (status,) = Spool(folder / "spool").jobs()
    return status


def _published(folder: Path) -> list[Path]:
    return [path for path in (folder / "shelf").iterdir() if path.is_file()]


def _faults(child: Child) -> dict[str, int]:
    """What a worker that has ended says that it counted."""
    lines = [line for line in child.said.splitlines() if line.startswith("{")]
    found: dict[str, int] = json.loads(lines[-1]) if lines else {"none": 0}
    return found


def _finish(child: Child, what: str) -> None:
    if child.wait(DEADLINE_S) != 0:
        raise Unfit(f"{what}: {child.code}: {child.said[-1000:]}")
