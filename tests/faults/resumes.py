# SPDX-License-Identifier: Apache-2.0
"""Fine-tuners killed, or refused room, at every system call on pages and checkpoints, and the runs that follow."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from finetune.checkpoint import load
from finetune.errors import CheckpointInvalid

from .record import Tally, Unfit
from .stage import DEADLINE_S, clean
from .strace import Injection, attached, injected, numbered, spelt
from .trainer import CHECKPOINT, LOSSES, NAME
from .zygote import Child, Zygote, until_stopped

MODULES = ("tests.faults.warm",)
TRAINER = "tests.faults.trainer"
BEGUN, STRUCK, STEPS = 1, 2, 3
"""Steps of the checkpoint that a case begins with, of the run that is struck, and of the one that goes on."""
LONG = 12
"""Steps of a run that is killed at random."""
RANDOM_KILLS = 100
WORKERS = 2
CALLS = (
    "openat", "read", "write", "pwrite64", "preadv", "preadv2", "pread64", "fallocate", "ftruncate", "lseek", "flock",
    "fdatasync", "fsync", "fadvise64", "rename", "renameat", "unlink", "unlinkat", "newfstatat", "close",
)  # fmt: skip
PAGE_BYTES = 4096
T = TypeVar("T")


class Training:
    """What every case begins with, made once: a plan, a run's first checkpoint, and what runs come to undisturbed."""

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self.zygote, self.folder = zygote, folder
        _finish(zygote.fork([str(folder)], folder / "log", main=f"{TRAINER}:laid_out"), "laying out")
        self.ends: dict[int, bytes] = {}
        """What is saved after so many steps, by a process that did all of them."""
        for steps in (BEGUN, STRUCK, STEPS, LONG):
            _finish(self.run(folder, steps), f"{steps} steps")
            self.ends[steps] = (folder / CHECKPOINT).read_bytes()
            (folder / CHECKPOINT).unlink()
        self.curve = set((folder / LOSSES).read_text().splitlines())
        if len(self.curve) != LONG:
            raise Unfit(f"undisturbed runs differ: {sorted(self.curve)}")

    @contextlib.contextmanager
    def case(self) -> Iterator[Path]:
        """A folder with the first checkpoint."""
        with tempfile.TemporaryDirectory(prefix="teg-training-") as made:
            self.begin(folder := Path(made))
            yield folder

    def begin(self, folder: Path) -> None:
        """Make a folder what it is at a case's beginning."""
        shutil.copy(self.folder / "plan.json", folder)
        for name in ("pages", "saved"):
            (folder / name).mkdir(exist_ok=True)
        (folder / CHECKPOINT).write_bytes(self.ends[BEGUN])
        (folder / LOSSES).unlink(missing_ok=True)

    def run(self, folder: Path, steps: int, *, stopped: bool = False) -> Child:
        """A fine-tuner that saves after every step."""
        log = folder / "log"
        log.unlink(missing_ok=True)
        return self.zygote.fork([str(folder), str(steps), "1"], log, main=f"{TRAINER}:main", stopped=stopped)

    def struck(self, folder: Path, injections: Sequence[Injection], log: Path = Path("/dev/null")) -> Child:
        """A run under strace from its first instruction, to its end."""
        child = self.run(folder, STRUCK, stopped=True)
        until_stopped(child.pid)
        with attached(child.pid, injections, (), CALLS, log, whole=not injections):
            child.go_on(DEADLINE_S)
        return child

    def calls(self, below: str, counts: Callable[[str, str], bool] = lambda call, line: True) -> list[tuple[str, int]]:
        """Calls of such a run on what lies in a folder of its, each with its number among those of its thread."""
        with self.case() as folder:
            log = folder / "strace"
            _finish(self.struck(folder, (), log), "a run under strace")
            path = spelt(str(folder / below))
            return numbered(log, lambda call, line: path in line and counts(call, line))

    def goes_on(self, tally: Tally, folder: Path, what: str, steps: int = STEPS) -> None:
        """Expect that the next process comes to the whole run's losses and its state, and that nothing is left."""
        child = self.run(folder, steps)
        tally.same(child.wait(DEADLINE_S), 0, f"{what}: exit code of the run that goes on")
        self.ended(tally, child, folder, what, steps)

    def ended(self, tally: Tally, child: Child, folder: Path, what: str, steps: int) -> None:
        """Expect what a folder holds after a run."""
        clean(tally, child)
        wrong = set((folder / LOSSES).read_text().splitlines()) - self.curve
        tally.same(wrong, set(), f"{what}: losses that are not the whole run's")
        tally.expect((folder / CHECKPOINT).read_bytes() == self.ends[steps], f"{what}: it ends in another state")
        self.alone(tally, folder, what)

    def alone(self, tally: Tally, folder: Path, what: str) -> None:
        """Expect no page, and no file beside the checkpoint."""
        left = [path.name for name in ("pages", "saved") for path in (folder / name).iterdir()]
        tally.same(left, [CHECKPOINT.name], f"{what}: files")


def killed(tally: Tally) -> None:
    """Row 22: whatever call was the last one, or whenever it came, the run goes on to the same end."""
    with training() as made:
        calls = made.calls("")
        tally.note("calls_on_files", len(calls))
        kills = [Injection(call, "signal=KILL", str(number)) for call, number in calls]
        in_parallel(taken := tally.thin(kills), lambda kill: _killed_at(tally, made, kill))
        tally.expect(tally.kinds["at a call"] > 0.9 * len(taken), f"too few deaths: {dict(tally.kinds)}")
        share = -(-tally.few(RANDOM_KILLS) // WORKERS)
        in_parallel(range(WORKERS), lambda seed: _killed_at_random(tally, made, seed, share))


def disk_full(tally: Tally) -> None:
    """Row 20: the checkpoint before stays whole, nothing lies beside it, the run is told and goes on."""
    with training() as made:
        calls = made.calls("saved", _takes_room)
        tally.note("calls_on_a_checkpoint", len(calls))
        full = [Injection(call, "error=ENOSPC", str(number)) for call, number in calls]
        in_parallel(tally.thin(full), lambda fault: _refused(tally, made, fault))
        pages = -(-len(made.ends[BEGUN]) // PAGE_BYTES)
        in_parallel(tally.thin(range(pages)), lambda room: _no_room(tally, made, pages, room))


def _takes_room(call: str, line: str) -> bool:
    """Whether a full disk may refuse a call."""
    return call in ("write", "fdatasync", "fsync", "rename") or (call == "openat" and "O_CREAT" in line)


def _killed_at(tally: Tally, made: Training, kill: Injection) -> None:
    with made.case() as folder:
        child = made.struck(folder, [kill])
        if child.code == 0:
            return  # this run had fewer calls
        what = f"killed at {kill}"
        tally.same(child.code, -signal.SIGKILL, f"{what}: exit code ({child.said[-300:]})")
        tally.inject(real=True, kind="at a call")
        _sound(tally, made, folder, what)
        made.goes_on(tally, folder, what)


def _killed_at_random(tally: Tally, made: Training, seed: int, kills: int) -> None:
    """Runs that are killed again and again until they are done, so many times in all."""
    chance = random.Random(seed)
    with made.case() as folder:
        while kills:
            child = made.run(folder, LONG)
            if child.wait(chance.uniform(0.0, 1.5)) is not None:
                made.ended(tally, child, folder, f"seed {seed}", LONG)
                made.begin(folder)
                continue
            child.end()
            kills -= 1
            tally.inject(real=True, kind="at random")
            _sound(tally, made, folder, f"seed {seed}, {kills} kills to come")
        made.goes_on(tally, folder, f"seed {seed}", LONG)


def _refused(tally: Tally, made: Training, fault: Injection) -> None:
    """One call of the second checkpoint finds the disk full."""
    with made.case() as folder, tempfile.NamedTemporaryFile() as log:
        child = made.struck(folder, [fault], Path(log.name))
        if not injected(Path(log.name)):
            return
        tally.inject(real=True, kind=fault.call)
        _told(tally, made, child, folder, f"disk full at {fault}")


def _no_room(tally: Tally, made: Training, pages: int, room: int) -> None:
    """A small disk that holds the first checkpoint, and so many pages of the second."""
    with made.case() as folder, small_disk(folder / "saved", (pages + room) * PAGE_BYTES) as grow:
        (folder / CHECKPOINT).write_bytes(made.ends[BEGUN])
        child = made.run(folder, STRUCK)
        child.wait(DEADLINE_S)
        what = f"room for {room} pages of {pages}"
        tally.inject(real=True, kind="a small disk")
        tally.same(
            (folder / CHECKPOINT).read_bytes() == made.ends[BEGUN], True, f"{what}: the checkpoint is the old one"
        )
        _told(tally, made, child, folder, what, grow)


def _told(
    tally: Tally, made: Training, child: Child, folder: Path, what: str, grow: Callable[[], None] = lambda: None
) -> None:
    """Expect that the run did its steps and said what it could not save, and that the next one saves it."""
    tally.same(child.code, 0, f"{what}: exit code")
    clean(tally, child)
    tally.expect("No space left" in child.said, f"{what}: nothing was said: {child.said[-300:]}")
    made.alone(tally, folder, what)
    _sound(tally, made, folder, what)
    grow()
    made.goes_on(tally, folder, what)


def _sound(tally: Tally, made: Training, folder: Path, what: str) -> None:
    """Expect a checkpoint that is whole, no page, and at most the one file that a writer was killed with."""
    try:
        step = load(folder / CHECKPOINT, NAME).step
    except (OSError, CheckpointInvalid) as error:
        tally.expect(False, f"{what}: {error}")
        return
    if step in made.ends:
        tally.expect((folder / CHECKPOINT).read_bytes() == made.ends[step], f"{what}: another state of step {step}")
    tally.same([path.name for path in (folder / "pages").iterdir()], [], f"{what}: pages left")
    tally.expect(len(list((folder / "saved").iterdir())) <= 2, f"{what}: more than one temporary file")


@contextlib.contextmanager
def training() -> Iterator[Training]:
    """All that cases begin with."""
    with tempfile.TemporaryDirectory(prefix="teg-training-") as folder, Zygote(MODULES) as zygote:
        yield Training(zygote, Path(folder))


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Callable[[], None]]:
    """A disk of so many bytes in place of a folder; call what is yielded to make it large."""

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)

    mount(f"size={size_bytes}")
    try:
        yield lambda: mount("remount,size=16m")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def in_parallel(points: Sequence[T], case: Callable[[T], None]) -> None:
    """A few cases at a time."""
    with ThreadPoolExecutor(WORKERS) as pool:
        for done in [pool.submit(case, point) for point in points]:
            done.result()


def _finish(child: Child, what: str) -> None:
    if child.wait(DEADLINE_S) != 0:
        raise Unfit(f"{what}: {child.code}: {child.said[-1000:]}")
