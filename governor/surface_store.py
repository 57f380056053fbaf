# SPDX-License-Identifier: Apache-2.0
"""Surfaces on disk: what tunings measured, kept over restarts for whatever is tuned next on a board of the same kind.

One JSON file per board, models, objective and level of load, in `<state_dir>/surfaces`. A surface is a sparse table,
one row per point. Files that are damaged, too large or not ours are passed over; none can name a path.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from telemetry.durable import replace

from .errors import SurfaceInvalid
from .surface_file import Surface, parse

FOLDER = "surfaces"
MAX_SURFACES = 256
MAX_BYTES = 1 << 20
"""Of one surface on disk."""
MAX_SHARED_BYTES = 64 << 20
"""Of a file that is imported."""
PRIORS = 8

log = logging.getLogger("teg.governor")


class SurfaceStore:
    """The surfaces of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir / FOLDER

    def save(self, surface: Surface) -> Path:
        """Write a surface where its predecessor lies, whose other points are kept; raises `OSError`."""
        self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        path = self.folder / f"{surface.key}.json"
        earlier = _read(path)
        replace(path, surface.merged(earlier).encode() if earlier else surface.encode())
        for _, oldest in self._files()[MAX_SURFACES:]:
            oldest.unlink(missing_ok=True)
        return path

    def surfaces(self) -> list[Surface]:
        """Every sound one, the newest first."""
        read = (_read(path) for _, path in self._files()[:MAX_SURFACES])
        return [surface for surface in read if surface is not None]

    def priors(self, like: Surface, but: Collection[str] = ()) -> list[Surface]:
        """At most `PRIORS` surfaces of the same kind of board as `like`, the most alike first.

        Those of the same models come first, then those that share one, then the newest. Left out are those whose key
        is in `but`: who measured them knows better.
        """
        found = [
            surface for surface in self.surfaces()
            if (surface.board, surface.virtual) == (like.board, like.virtual) and surface.key not in but
        ]  # fmt: skip
        found.sort(key=lambda surface: (surface.models != like.models, not set(surface.models) & set(like.models)))
        return found[:PRIORS]

    def export(self, path: Path, *, force: bool = False) -> int:
        """Write every surface into one file for others; how many. Raises `OSError`, `FileExistsError` too."""
        if not force and os.path.lexists(path):
            raise FileExistsError(f"{path} exists")
        found = self.surfaces()
        shared = {"format": 1, "surfaces": [json.loads(surface.encode()) for surface in found]}
        replace(path, json.dumps(shared, indent=1).encode())
        return len(found)

    def take_in(self, path: Path) -> tuple[int, int]:
        """Add the surfaces of a shared file beside our own; how many were added, and how many were here already.

        All of them or, if anything in the file is not as it should be, none: raises `SurfaceInvalid` that says what,
        or `OSError`.
        """
        found = shared_surfaces(path)
        self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        here = {hashlib.sha256(surface.encode()).hexdigest() for surface in self.surfaces()}
        named = {hashlib.sha256(surface.encode()).hexdigest(): surface for surface in found}
        new = {digest: surface for digest, surface in named.items() if digest not in here}
        if len(self._files()) + len(new) > MAX_SURFACES:
            raise SurfaceInvalid(f"{self.folder} would hold more than {MAX_SURFACES} surfaces")
        for digest, surface in new.items():
            replace(self.folder / f"{surface.key}-{digest[:12]}.json", surface.encode())
        return len(new), len(found) - len(new)

    def _files(self) -> list[tuple[float, Path]]:
        """The files of the folder, the newest first."""
        try:
            paths = [path for path in self.folder.iterdir() if path.suffix == ".json" and not path.name.startswith(".")]
            return sorted(((path.lstat().st_mtime, path) for path in paths), reverse=True)
        except OSError:
            return []


def shared_surfaces(path: Path) -> list[Surface]:
    """The surfaces of a shared file; raises `SurfaceInvalid` or `OSError`."""
    try:
        shared = json.loads(_content(path, MAX_SHARED_BYTES))
        rows = shared["surfaces"] if shared["format"] == 1 else None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SurfaceInvalid(f"{path} is no file of surfaces: {error}") from error
    if not isinstance(rows, list) or len(rows) > MAX_SURFACES:
        raise SurfaceInvalid(f"{path}: at most {MAX_SURFACES} surfaces of format 1")
    return list(_parsed(path, rows))


def _parsed(path: Path, rows: Sequence[object]) -> Iterator[Surface]:
    for number, row in enumerate(rows):
        try:
            yield parse(row)
        except SurfaceInvalid as error:
            raise SurfaceInvalid(f"{path}: surface {number + 1}: {error}") from error


def _read(path: Path) -> Surface | None:
    """A surface on disk, None if there is none or it is not ours."""
    try:
        return parse(json.loads(_content(path, MAX_BYTES)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, SurfaceInvalid) as error:
        log.warning("%s is passed over: %s", path, error)
        return None


def _content(path: Path, most_bytes: int) -> bytes:
    """What a regular file holds; raises `SurfaceInvalid` for anything else, or more than `most_bytes` of it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise SurfaceInvalid("not a file")
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise SurfaceInvalid(f"more than {most_bytes} bytes")
    return content
