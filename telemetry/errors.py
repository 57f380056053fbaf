# SPDX-License-Identifier: Apache-2.0
"""Errors of this package.

TelemetryError
  PageError
    PageUnreadable      the file is missing or may not be opened
    PageLayoutMismatch  the file is not a page of this kind and version
  SpoolError
    StoreFull       there is no room for another sample
    StoreBusy       another process adds samples to this store
    FieldsMismatch  the store holds samples of other fields
    SpoolDamaged    a file of the spool is not what it should be
    JobInvalid      a request for a job cannot be granted as it stands
    QueueFull       as many jobs as may wait are waiting
    UnknownJob      no job has this id
    WorkerBusy      another process works on this spool's jobs
"""

from __future__ import annotations

from pathlib import Path


class TelemetryError(Exception):
    """Base of this package's errors."""


class PageError(TelemetryError):
    """Something about one page; `path` says which."""

    def __init__(self, path: Path, message: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}")


class PageUnreadable(PageError):
    """The page is missing or may not be opened."""


class PageLayoutMismatch(PageError):
    """The file is not a page of the kind and version expected."""

    def __init__(self, path: Path, expected: str, found: str) -> None:
        self.expected = expected
        self.found = found
        super().__init__(path, f"expected {expected}, found {found}")


class SpoolError(TelemetryError):
    """Something about samples or jobs."""


class StoreFull(SpoolError):
    """There is no room for another sample in the store at `folder`."""

    def __init__(self, folder: Path, why: str) -> None:
        self.folder = folder
        super().__init__(f"{folder} has no room for another sample: {why}")


class StoreBusy(SpoolError):
    """Another process adds samples to the store at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(f"another process adds samples to {folder}")


class FieldsMismatch(SpoolError):
    """The store at `folder` holds samples of other fields than those given."""

    def __init__(self, folder: Path, found: str, given: str) -> None:
        self.folder = folder
        super().__init__(f"{folder} holds samples of {found}, not of {given}; `teg finetune forget` erases them")


class SpoolDamaged(SpoolError):
    """The file or folder at `path` is not what it should be."""

    def __init__(self, path: Path, why: str) -> None:
        self.path = path
        super().__init__(f"{path}: {why}")


class JobInvalid(SpoolError):
    """A request for a job cannot be granted as it stands; `field` says which part, `why` what it must be."""

    def __init__(self, field: str, why: str) -> None:
        self.field, self.why = field, why
        super().__init__(f"{field} {why}")


class QueueFull(SpoolError):
    """As many jobs as may wait, `most`, are waiting or running."""

    def __init__(self, most: int) -> None:
        self.most = most
        super().__init__(f"{most} jobs are waiting or running; no more are taken")


class UnknownJob(SpoolError):
    """No job has this id."""

    def __init__(self, job: str) -> None:
        self.job = job
        super().__init__(f"no job has the id {job[:40]!r}")


class WorkerBusy(SpoolError):
    """Another process works on the jobs of the spool at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        super().__init__(f"another worker has the jobs of {root}")
