# SPDX-License-Identifier: Apache-2.0
"""No room for a page, or a disk that fails, at every page that three jobs write: a step ends, checkpoints are good."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

from finetune.errors import PageFailed, PagesError, PageStoreFull, StepTorn

from .jobs import JOBS, Job, Page, different, job, refusing
from .record import Tally
from .resumes import BEGUN, STRUCK, Training, in_parallel, small_disk, training
from .stage import DEADLINE_S, clean
from .strace import Injection, injected
from .trainer import CHECKPOINT, STOPPED

ERRORS = {errno.ENOSPC: PageStoreFull, errno.EDQUOT: PageStoreFull, errno.EIO: PageFailed}
FAULTS = ((errno.ENOSPC, True), (errno.ENOSPC, False), (errno.EIO, True), (errno.EDQUOT, False))
"""Which, and whether it lasts."""
SAID = {"ENOSPC": "PageStoreFull", "EIO": "PageFailed"}


def full(tally: Tally) -> None:
    """Row 19: the step ends with the error that says why, and the run goes on from its checkpoint to the last bit."""
    for make in JOBS:
        with tempfile.TemporaryDirectory(prefix="teg-jobs-") as folder, job(make, Path(folder)) as made:
            writes = [page for page in made.pages if page.act == "write"]
            tally.note(f"pages_written_by_{made.name}", len(writes))
            for page, fault in tally.thin([(page, fault) for page in writes for fault in FAULTS]):
                _refused(tally, made, page, *fault)
    with training() as runs:
        calls = runs.calls("pages", lambda call, line: call in ("pwrite64", "fallocate"))
        tally.note("calls_on_pages", len(calls))
        # the first two calls open the file, where a disk that fails is the system's own error
        faults = (("ENOSPC", ""), ("ENOSPC", "+"), ("EIO", ""), ("EIO", "+"))
        struck = [
            Injection(call, f"error={faults[at % 4][0]}", f"{number}{faults[at % 4][1]}")
            for at, (call, number) in enumerate(calls)
        ]
        in_parallel(tally.thin(struck), lambda fault: _stopped(tally, runs, fault))
        _no_room(tally, runs)


def _refused(tally: Tally, made: Job, page: Page, number: int, lasting: bool) -> None:
    """One write of the step is refused, or all from there on."""
    what = f"{made.name}: {errno.errorcode[number]} {'from' if lasting else 'at'} write {page.call} on"
    made.disk.arm("write", page.call, refusing(number), lasting=lasting)
    tally.inject(real=False, kind=f"{made.name} {errno.errorcode[number]}")
    error = made.error_of_step()
    tally.expect(type(error) is ERRORS[number], f"{what}: {error!r}")
    if isinstance(error, PageFailed) and not lasting:
        tally.same((error.number, error.act), (page.storage, "write"), f"{what}: what the error names")
    torn = made.execution.torn
    tally.kinds["torn" if torn else "as before"] += 1
    if lasting:
        again = made.error_of_step()
        tally.expect(type(again) is (StepTorn if torn else ERRORS[number]), f"{what}: called again: {again!r}")
        _taken_up_too_early(tally, made, number, what)
    made.disk.heal()
    if torn and not lasting:
        tally.expect(isinstance(made.error_of_step(), StepTorn), f"{what}: a torn step runs")
    elif not torn:
        _as_before(tally, made, what)
    made.resumes(tally, what)


def _taken_up_too_early(tally: Tally, made: Job, number: int, what: str) -> None:
    """While nothing can be written neither a checkpoint nor training can be taken up, and both say so."""
    try:
        made.load()
    except PagesError as error:
        tally.expect(type(error) is ERRORS[number], f"{what}: loaded too early: {error!r}")
    else:
        tally.expect(False, f"{what}: loaded, with weights to be paged and no page to be written")
    again = made.error_of_step()
    tally.expect(type(again) is ERRORS[number], f"{what}: stepped too early: {again!r}")


def _as_before(tally: Tally, made: Job, what: str) -> None:
    """Expect the state of the checkpoint without loading it."""
    try:
        tally.same(different(made.state(), made.before), [], f"{what}: changed by a step that was given up")
    except PagesError as error:
        tally.expect(False, f"{what}: the weights of a step that was given up: {error!r}")


def _stopped(tally: Tally, runs: Training, fault: Injection) -> None:
    """A process that is refused a page says so and ends; the next goes on from its checkpoint."""
    with runs.case() as folder, tempfile.NamedTemporaryFile() as log:
        child = runs.struck(folder, [fault], Path(log.name))
        if not injected(Path(log.name)):
            return
        what = f"a process, {fault}"
        tally.inject(real=True, kind=f"a process, {fault.call} {fault.action}")
        tally.same(child.code, STOPPED, f"{what}: exit code")
        clean(tally, child)
        tally.expect(SAID[fault.action.removeprefix("error=")] in child.said, f"{what}: it says {child.said[-300:]}")
        _as_saved(tally, runs, folder, what)
        runs.goes_on(tally, folder, what)


def _no_room(tally: Tally, runs: Training) -> None:
    """A disk too small for all pages is told when it is opened; with more room the run goes on."""
    with runs.case() as folder, small_disk(folder / "pages", 1 << 16) as grow:
        child = runs.run(folder, STRUCK)
        what = "a small disk for pages"
        tally.same(child.wait(DEADLINE_S), STOPPED, f"{what}: exit code")
        tally.inject(real=True, kind="a small disk")
        clean(tally, child)
        tally.expect("PageStoreFull" in child.said, f"{what}: it says {child.said[-300:]}")
        _as_saved(tally, runs, folder, what)
        grow()
        runs.goes_on(tally, folder, what)


def _as_saved(tally: Tally, runs: Training, folder: Path, what: str) -> None:
    """Expect the checkpoint of a step that was done."""
    found = (folder / CHECKPOINT).read_bytes()
    tally.expect(found in (runs.ends[BEGUN], runs.ends[STRUCK]), f"{what}: another checkpoint")
