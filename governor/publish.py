# SPDX-License-Identifier: Apache-2.0
"""Publishing a model version: whole or not at all, with the digest of every file inside.

A version folder (`<model>/1`) is written beside its place and exchanged with it in one step, so a crash leaves the old
version or the new one. `digest.json` (`{"files": {"model.safetensors": "<sha256>"}}`) names what the folder must hold;
the backend refuses a file that does not fit it.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from telemetry import durable

DIGEST = "digest.json"
IGNORED = ".gitignore"
"""Kept when a version is replaced, so that weights never show up as new files in a checkout."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP)
"""What file systems answer that cannot exchange two folders (NFS, an image's lower layer, an old kernel)."""


class VersionUnfit(Exception):
    """The version folder cannot be pinned or published; `folder` says which."""

    def __init__(self, folder: Path, reason: str) -> None:
        self.folder = folder
        super().__init__(f"{folder}: {reason}")


def publish(version: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write the files into a fresh folder, then put them at `version` in one step.

    Whatever `fill` raises passes through, and the old version is still in place.
    """
    version.parent.mkdir(parents=True, exist_ok=True)
    _sweep(version)
    draft = Path(tempfile.mkdtemp(prefix=f".{version.name}.{os.getpid()}.", dir=version.parent))
    try:
        if (version / IGNORED).exists():
            shutil.copyfile(version / IGNORED, draft / IGNORED)
        fill(draft)
        pin(draft)
        _flush(draft)
        _replace_folder(draft, version)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    durable.sync_folder(version.parent)


def pin(version: Path) -> dict[str, str]:
    """SHA-256 of every file of a version folder, by relative name, after writing them to its `digest.json`.

    Raises `VersionUnfit` if the folder is missing, empty, or holds anything but folders and regular files.
    """
    digests = _digests(version)
    if not digests:
        raise VersionUnfit(version, "holds no model file to pin")
    content = json.dumps({"files": digests}, indent=2).encode() + b"\n"
    durable.replace(version / DIGEST, content, mode=0o644)
    return digests


def is_intact(version: Path) -> bool:
    """Whether the version was published whole: it has a digest and every file fits it."""
    try:
        stated = json.loads((version / DIGEST).read_bytes())["files"]
        return bool(stated) and stated == _digests(version)
    except (OSError, ValueError, KeyError, TypeError, VersionUnfit):
        return False


def _digests(version: Path) -> dict[str, str]:
    if not version.is_dir():
        raise VersionUnfit(version, "is not a folder")
    digests = {}
    for path in sorted(version.rglob("*")):
        if path.name in (DIGEST, IGNORED) or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink() or not path.is_file():
            raise VersionUnfit(version, f"{path.name} is not a regular file")
        with path.open("rb") as file:
            digests[path.relative_to(version).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _flush(folder: Path) -> None:
    """Bring every file and folder below `folder` to the disk, readable by a server that runs as somebody else."""
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o755 if path.is_dir() else 0o644)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace_folder(draft: Path, version: Path) -> None:
    """Put `draft` where `version` is; on return `draft` holds what is to be thrown away."""
    if not version.exists():
        draft.rename(version)
        return
    try:
        _exchange(draft, version)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        _replace_files(draft, version)


def _exchange(one: Path, other: Path) -> None:
    """Swap two names in one step (renameat2, Linux 3.15); raises `OSError` where that cannot be done."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _replace_files(draft: Path, version: Path) -> None:
    """Replace the files one by one, the digest first: until the last is in place it does not fit, so nothing loads."""
    _replace_file(draft / DIGEST, version)
    for path in sorted(draft.iterdir()):
        if path.name != DIGEST:
            _replace_file(path, version)
    kept = {path.name for path in draft.iterdir()}
    for path in [path for path in version.iterdir() if path.name not in kept]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _replace_file(path: Path, version: Path) -> None:
    durable.replace(version / path.name, path.read_bytes(), mode=0o644)


def _sweep(version: Path) -> None:
    """Remove the drafts of builds that died."""
    for draft in version.parent.glob(f".{version.name}.*.*"):
        pid = draft.name.split(".")[2]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(draft)
