# SPDX-License-Identifier: Apache-2.0
"""Bits of pages turned over, on the way out, at rest and on the way back: no step ever computes with one."""

from __future__ import annotations

import functools
import os
import random
import tempfile
from pathlib import Path

import torch

from finetune.errors import PageCorrupted, StepTorn
from finetune.paging.nameless import BLOCK_BYTES

from .jobs import JOBS, Job, Page, flipping, job
from .record import Tally, Unfit
from .resumes import LONG, Training, in_parallel, training
from .stage import clean, until
from .trainer import CHECKPOINT, LOSSES, STOPPED
from .zygote import Child

FLIPS, PROCESSES = 1_000, 20
CONTINUED = 10
"""After one flip in so many training goes on; after the others the checkpoint is loaded, and the next one comes."""
TRIES = 50


def flipped(tally: Tally) -> None:
    """Row 21: every flip ends the step before anything is computed with the page, and the error names the piece."""
    share = tally.few(FLIPS) // len(JOBS) + 1
    for seed, make in enumerate(JOBS):
        chance = random.Random(seed)
        with tempfile.TemporaryDirectory(prefix="teg-jobs-") as folder, job(make, Path(folder)) as made:
            read = {page.storage for page in made.pages if page.act == "read"}
            pages = [page for page in made.pages if page.storage in read]
            for number in range(share):
                page = chance.choice(pages)
                bits = _bits(page, chance)
                what = f"{made.name}, flip {number}: {page}, bits {bits[:3]}"
                _struck(tally, made, page, bits, what)
                if number % CONTINUED == 0:
                    made.resumes(tally, what)
                else:
                    made.load()
    with training() as runs:
        in_parallel(range(tally.few(PROCESSES)), lambda seed: _at_rest(tally, runs, seed))


def _bits(page: Page, chance: random.Random) -> list[int]:
    """One bit, or a few, or all of some bytes."""
    first, count = chance.randrange(8 * page.size_bytes), chance.choice((1, 1, 1, 2, 8, 64))
    if count < 8:
        return list({first, *(chance.randrange(8 * page.size_bytes) for _ in range(count - 1))})
    return list(range(first, min(first + count, 8 * page.size_bytes)))


def _struck(tally: Tally, made: Job, page: Page, bits: list[int], what: str) -> None:
    """The step, and a second one where the flip was on the way out and the page is read in that one."""
    made.sink.taken.clear()
    made.disk.arm(page.act, page.call, flipping(bits))
    tally.inject(real=False, kind=f"{made.name}, {'on the way out' if page.act == 'write' else 'on the way back'}")
    error = made.error_of_step() or made.error_of_step()
    made.disk.heal()
    if tally.expect(isinstance(error, PageCorrupted), f"{what}: {error!r}"):
        named = (error.number, error.offset) if isinstance(error, PageCorrupted) else None
        tally.same(named, (page.storage, page.start), f"{what}: what the error names")
    tally.expect(isinstance(made.error_of_step(), StepTorn), f"{what}: a torn step runs")
    taken = [gradient for _, gradient in made.sink.taken]
    sound = len(taken) <= len(made.gradients) and all(map(torch.equal, taken, made.gradients))
    tally.expect(sound, f"{what}: gradients were computed with it")


def _at_rest(tally: Tally, runs: Training, seed: int) -> None:
    """A process's page file is damaged from outside, one byte in each of its blocks, at a random moment.

    All weights lie there at some moment of each step, so the process ends with the error; the next goes on.
    """
    chance, what = random.Random(seed), f"a page file damaged at rest, {seed}"
    with runs.case() as folder:
        child = _caught(runs, folder, chance)
        tally.inject(real=True, kind="at rest, from outside")
        tally.same(child.wait(60.0), STOPPED, f"{what}: exit code")
        clean(tally, child)
        tally.expect("PageCorrupted" in child.said, f"{what}: it says {child.said[-300:]}")
        tally.expect((folder / CHECKPOINT).exists(), f"{what}: no checkpoint")
        runs.goes_on(tally, folder, what, LONG)


def _caught(runs: Training, folder: Path, chance: random.Random) -> Child:
    """A process that trains on a file that was damaged."""
    for _ in range(TRIES):
        runs.begin(folder)
        child = runs.run(folder, LONG)
        until(functools.partial(_begun, child, folder / LOSSES), "a first step")
        child.wait(chance.uniform(0.0, 0.2))
        if _damaged(child, folder / "pages", chance):
            return child
        child.end()
    raise Unfit("no process was caught while it trained")


def _begun(child: Child, losses: Path) -> bool:
    """Whether a step was done, or the process has ended."""
    return not child.running or (losses.exists() and losses.stat().st_size > 0)


def _damaged(child: Child, pages: Path, chance: random.Random) -> bool:
    """Turn over a byte in every block of the nameless file, through its owner's descriptor; False when it has ended."""
    try:
        descriptors = list(Path(f"/proc/{child.pid}/fd").iterdir())
        (found,) = [path for path in descriptors if str(path.readlink()).startswith(str(pages))]
        descriptor = os.open(found, os.O_RDWR)
    except (OSError, ValueError):
        return False
    try:
        for offset in range(0, os.fstat(descriptor).st_size, BLOCK_BYTES):
            before = os.pread(descriptor, 1, offset)[0]
            os.pwrite(descriptor, bytes([before ^ 1 << chance.randrange(8)]), offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return child.running
