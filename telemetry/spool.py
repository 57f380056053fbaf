# SPDX-License-Identifier: Apache-2.0
"""The spool: labelled samples and fine-tuning jobs, all that the Triton model `finetune` and the worker share.

    <root>/samples/<model>/         a `SampleStore`
    <root>/jobs/<id>/request.json   what was asked for, written once by whoever submits
                     status.json    how it stands, written by the worker alone
                     cancel         somebody wants it ended
                     work/          snapshot, checkpoint, pages: gone when the job has ended
                     trained.safetensors   what it came to, where that was not to be published
    <root>/plans/                   training plans that jobs have made

Folders are 0700 and files 0600: samples may be private, and so is what was learnt from them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import durable, job_records
from .errors import JobInvalid, QueueFull, SpoolDamaged, UnknownJob, WorkerBusy
from .jobs import Conditions, JobRequest, JobState, JobStatus
from .sample_store import LIMIT_BYTES, Policy, SampleStore
from .samples import Field, Samples, count_samples, erase, make_private, read_fields, read_samples, snapshot
from .uptime import Noted, Uptime, left_s, read_uptime

__all__ = [
    "Conditions",
    "Field",
    "Forgotten",
    "JobRequest",
    "JobState",
    "JobStatus",
    "SampleStore",
    "Samples",
    "Spool",
    "default_spool_dir",
    "erase",
    "read_fields",
    "read_samples",
    "snapshot",
]

KEPT = 32
"""Ended jobs whose status is kept; of more the oldest go."""

_REQUEST, _STATUS, _CANCEL, _WORK = "request.json", "status.json", "cancel", "work"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{21}")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def default_spool_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`$TEG_SPOOL_DIR`, else `/var/lib/teg/finetune` for root, else `teg/finetune` in the user's folder of states."""
    if given := environ.get("TEG_SPOOL_DIR"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/teg/finetune")
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "teg" / "finetune"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What `forget` has erased: samples, and the jobs that were ended; `left` are those that a worker is to end yet."""

    samples: int
    ended: tuple[str, ...]
    left: tuple[str, ...]


class Spool:
    """Samples and jobs below `root`; constructing one touches nothing. Safe for several processes at a time."""

    def __init__(self, root: Path, max_jobs: int = 16, uptime: Callable[[], Uptime] = read_uptime) -> None:
        self.root, self.max_jobs = root, max_jobs
        self._uptime = uptime

    def make(self) -> None:
        """Create the folders; raises `PermissionError` if the spool is another's, or others may look into it."""
        for folder in (self.root, self._jobs, self._samples, self.plans):
            make_private(folder)
        found = self.root.stat()
        if os.geteuid() not in (0, found.st_uid):
            raise PermissionError(f"{self.root} belongs to uid {found.st_uid}")
        if found.st_mode & 0o077:
            raise PermissionError(f"{self.root} is open to others (mode {found.st_mode & 0o777:o}): chmod 700")

    # Samples

    def store(
        self, model: str, fields: Sequence[Field], limit_bytes: int = LIMIT_BYTES, policy: Policy = "drop-oldest"
    ) -> SampleStore:
        """The store of a model's samples, to add to; raises `StoreBusy`, `FieldsMismatch`."""
        return SampleStore(self.samples(model), fields, limit_bytes, policy)

    def samples(self, model: str) -> Path:
        """Where the samples of a model lie; raises `JobInvalid` for what is no model's name."""
        if not _MODEL.fullmatch(model):
            raise JobInvalid("model", f"is no name of a model: {model[:80]!r}")
        return self._samples / model

    # Jobs

    def submit(self, request: JobRequest) -> str:
        """Queue a job, durably; its id, which nobody can guess. Raises `QueueFull`, `OSError` (disk full)."""
        self.make()
        with self._locked():
            if len(self._waiting()) >= self.max_jobs:
                raise QueueFull(self.max_jobs)
            job = _new_id()
            left = None if request.deadline_s is None else Noted(request.deadline_s, self._uptime())
            content = {"number": self._next_number(), "request": request.to_json(), **job_records.deadline_json(left)}
            draft = self._jobs / f".{job}.new"
            try:
                make_private(draft)
                job_records.write(draft / _REQUEST, content)
                draft.rename(self.folder(job))
            except OSError:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            durable.sync_folder(self._jobs)
        return job

    def status(self, job: str) -> JobStatus:
        """How a job stands; raises `UnknownJob`. One whose record is damaged has failed."""
        folder = self.folder(job)
        try:
            asked, told = job_records.read(folder / _REQUEST), job_records.read(folder / _STATUS)
            if asked is None:
                raise UnknownJob(job)
            if told is None:
                status = JobStatus(job, JobRequest.from_json(asked["request"]))
            else:
                status = JobStatus.from_json(told["status"])
            noted = job_records.deadline(told or asked)
        except (JobInvalid, SpoolDamaged, KeyError, TypeError, ValueError) as error:
            return JobStatus(job, JobRequest("damaged"), JobState.FAILED, f"its record is damaged: {error}")
        if noted is not None and not status.state.ended:
            status = replace(status, deadline_left_s=left_s(noted, self._uptime()))
        return status

    def jobs(self) -> list[JobStatus]:
        """Every job, in the order of submission."""
        found = []
        for job in self._ids():
            with contextlib.suppress(UnknownJob):  # pruned since it was listed
                found.append(self.status(job))
        return found

    def cancel(self, job: str) -> bool:
        """Ask for a job's end; False if it has ended already. Without a worker it is ended at once.

        Raises `UnknownJob`.
        """
        if self.status(job).state.ended:
            return False
        durable.replace(self.folder(job) / _CANCEL, b"", mode=0o600)
        with contextlib.suppress(WorkerBusy), self.working():
            self.end(replace(self.status(job), state=JobState.CANCELLED, reason="cancelled before it was taken up"))
        return True

    def cancelled(self, job: str) -> bool:
        """Whether somebody has asked for the job's end."""
        return (self.folder(job) / _CANCEL).exists()

    def forget(self, model: str) -> Forgotten:
        """Erase all samples of a model, what its jobs hold of them, and end those jobs."""
        folder = self.samples(model)
        count = count_samples(folder)
        erase(folder)
        its = [status for status in self.jobs() if status.request.model == model]
        jobs = [status.id for status in its if self.cancel(status.id)]
        for status in its:
            self.weights(status.id).unlink(missing_ok=True)
        ended = tuple(job for job in jobs if self.status(job).state.ended)
        return Forgotten(count, ended, tuple(job for job in jobs if job not in ended))

    # For the worker

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """The right to write the states of jobs, which ends with the process; raises `WorkerBusy`."""
        self.make()
        descriptor = _opened(self.root / "worker.lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise WorkerBusy(self.root) from error
        try:
            yield
        finally:
            os.close(descriptor)

    def update(self, status: JobStatus) -> None:
        """Write how a job stands, durably, and what is left until its deadline; for the worker."""
        folder = self.folder(status.id)
        noted = None
        with contextlib.suppress(SpoolDamaged, KeyError, TypeError, ValueError):
            noted = job_records.deadline(
                job_records.read(folder / _STATUS) or job_records.read(folder / _REQUEST) or {}
            )
        if noted is not None:
            now = self._uptime()
            noted = Noted(left_s(noted, now), now)
        job_records.write(folder / _STATUS, {"status": status.to_json(), **job_records.deadline_json(noted)})

    def end(self, status: JobStatus) -> None:
        """Write how a job has ended, and remove all that it worked with; for the worker."""
        self.update(status)
        shutil.rmtree(self.work(status.id), ignore_errors=True)

    def prune(self, keep: int = KEPT) -> None:
        """Remove the records of jobs that have ended but for the last `keep`, and what killed workers left of others.

        For the worker.
        """
        ended = [status.id for status in self.jobs() if status.state.ended]
        for job in ended:
            shutil.rmtree(self.work(job), ignore_errors=True)
        for job in ended[: max(0, len(ended) - keep)]:
            shutil.rmtree(self.folder(job))

    def folder(self, job: str) -> Path:
        """Where a job lies; raises `UnknownJob` for what cannot be an id."""
        if not _ID.fullmatch(job):
            raise UnknownJob(job)
        return self._jobs / job

    def work(self, job: str) -> Path:
        """Where a job keeps what it works with."""
        return self.folder(job) / _WORK

    def weights(self, job: str) -> Path:
        """Where a job leaves its weights if they are not to be published."""
        return self.folder(job) / "trained.safetensors"

    @property
    def plans(self) -> Path:
        """Where training plans are kept for the next job of their kind."""
        return self.root / "plans"

    @property
    def _jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def _samples(self) -> Path:
        return self.root / "samples"

    def _ids(self) -> list[str]:
        """Ids in the order of submission."""
        if not self._jobs.is_dir():
            return []
        found = [path.name for path in self._jobs.iterdir() if _ID.fullmatch(path.name)]
        return sorted(found, key=lambda job: (self._number(job), job))

    def _number(self, job: str) -> int:
        with contextlib.suppress(SpoolDamaged, TypeError, ValueError):
            return int((job_records.read(self._jobs / job / _REQUEST) or {}).get("number", 0))
        return 0

    def _next_number(self) -> int:
        return 1 + max((self._number(job) for job in self._ids()), default=0)

    def _waiting(self) -> list[str]:
        return [status.id for status in self.jobs() if not status.state.ended and not self.cancelled(status.id)]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One submission at a time; what killed ones have left is removed."""
        descriptor = _opened(self.root / "submit.lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for draft in self._jobs.glob(".*.new"):
                shutil.rmtree(draft, ignore_errors=True)
            yield
        finally:
            os.close(descriptor)


def _new_id() -> str:
    while not _ID.fullmatch(job := secrets.token_urlsafe(16)):
        continue  # one that begins with '-' would be taken for a flag
    return job


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
