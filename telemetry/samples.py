# SPDX-License-Identifier: Apache-2.0
"""Labelled samples on the disk, as whoever trains on them reads them; `sample_store` adds to them.

A store is a folder of segments. All its records are of one size (a CRC-32, the label, the tensors' bytes in the order
of `fields.json`), so a torn or damaged one costs itself alone. Only the newest segment ever grows: a snapshot links the
others and copies that one, and keeps what it has when the store drops or erases its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from .durable import sync_folder, write_all
from .errors import SpoolDamaged, StoreBusy

Sample = tuple[dict[str, bytearray], int]

_ITEM_BYTES = {"FP32": 4, "INT64": 8}
FORMAT = 1
FIELDS, _LOCK = "fields.json", "lock"
_SEGMENT = re.compile(r"\d{12}\.samples")
_HEAD = struct.Struct("<Iq")  # CRC-32 of the rest, label
SEED = 0x7E6
"""Of the CRC, so that zeros, which a crash may leave in a file, are no record."""


@dataclass(frozen=True, slots=True)
class Field:
    """One input tensor of a sample, without batch axis; `dtype` is `FP32` or `INT64`, little endian."""

    name: str
    dtype: str
    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.name or self.dtype not in _ITEM_BYTES or any(size < 1 for size in self.dims):
            raise ValueError(f"no field of a sample: {self.name!r}, {self.dtype!r}, {self.dims}")

    @property
    def size_bytes(self) -> int:
        """Bytes of one sample's tensor."""
        return prod(self.dims) * _ITEM_BYTES[self.dtype]


class Samples(Sequence[Sample]):
    """The sound samples of a folder, oldest first, read one at a time; a damaged one is passed over and counted.

    Reads every byte once when it is made. Raises `SpoolDamaged` if it is no store at all, and from an index
    a record that has been damaged since.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fields = read_fields(folder)
        self.damaged = 0
        self._record_bytes = record_bytes(self.fields)
        self._places = array("Q")  # segment << 32 | offset
        self._labels = array("q")
        self._descriptors: list[int] = []
        try:
            for path in segments(folder):
                self._index(path)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._places)

    @property
    def labels(self) -> Sequence[int]:
        """The label of every sample."""
        return self._labels

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]
        place = self._places[number]
        record = os.pread(self._descriptors[place >> 32], self._record_bytes, place & 0xFFFFFFFF)
        if not _sound(record, self._record_bytes):
            raise SpoolDamaged(self.folder, f"sample {number} is not what it was")
        view, tensors, start = memoryview(record), {}, _HEAD.size
        for field in self.fields:
            tensors[field.name] = bytearray(view[start : start + field.size_bytes])
            start += field.size_bytes
        return tensors, self._labels[number]

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))

    def close(self) -> None:
        """Close the segments."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __enter__(self) -> Samples:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _index(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # dropped since it was listed
        self._descriptors.append(descriptor)
        segment = (len(self._descriptors) - 1) << 32
        for offset in range(0, os.fstat(descriptor).st_size, self._record_bytes):
            record = os.pread(descriptor, self._record_bytes, offset)
            if _sound(record, self._record_bytes):
                self._places.append(segment | offset)
                self._labels.append(_HEAD.unpack_from(record)[1])
            else:
                self.damaged += 1


def snapshot(folder: Path, into: Path) -> None:
    """Put what the store in `folder` holds now at `into`, which must not exist: on the disk, and for good.

    The store may be written to meanwhile; `into` must lie on its file system. Raises `SpoolDamaged` if it is no store.
    """
    fields = read_fields(folder)
    draft = into.with_name(f".{into.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    make_private(draft)
    _copy(folder / FIELDS, draft)
    listed, each = list(segments(folder)), record_bytes(fields)
    for path in listed:
        try:
            if path is listed[-1]:
                _copy(path, draft, each)
            else:
                os.link(path, draft / path.name, follow_symlinks=False)
        except FileNotFoundError:
            continue  # dropped since it was listed
    for path in draft.iterdir():
        _sync(path)
    sync_folder(draft)
    draft.rename(into)
    sync_folder(into.parent)


def erase(folder: Path) -> None:
    """Remove the samples in `folder`, and the folder too unless a process writes to it; without it do nothing."""
    if not folder.is_dir():
        return
    unlink_segments(folder)
    try:
        writer = locked(folder)
    except StoreBusy:
        return
    try:
        shutil.rmtree(folder)
    finally:
        os.close(writer)


def count_samples(folder: Path) -> int:
    """How many samples a store or a snapshot has, damaged ones included; 0 if it is neither."""
    try:
        size_bytes = record_bytes(read_fields(folder))
    except SpoolDamaged:
        return 0
    return sum(size // size_bytes for size in segments(folder).values())


def read_samples(folder: Path) -> Iterator[Sample]:
    """Every sound sample of a store or a snapshot, oldest first: the fields' bytes, and the label."""
    with Samples(folder) as samples:
        yield from samples


def read_fields(folder: Path) -> tuple[Field, ...]:
    """The fields of a store or a snapshot; raises `SpoolDamaged` if it is neither."""
    try:
        content = json.loads((folder / FIELDS).read_bytes())
        fields = tuple(Field(str(row["name"]), row["dtype"], tuple(map(int, row["dims"]))) for row in content["fields"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SpoolDamaged(folder / FIELDS, str(error)) from error
    if content.get("format") != FORMAT or not fields:
        raise SpoolDamaged(folder / FIELDS, f"format {content.get('format')}, {len(fields)} fields")
    return fields


def make_private(folder: Path) -> None:
    """Create a folder, and those above it that are missing, mode 0700."""
    for missing in [path for path in (folder, *folder.parents) if not path.exists()][::-1]:
        missing.mkdir(mode=0o700, exist_ok=True)


def record_bytes(fields: Sequence[Field]) -> int:
    """Bytes of one sample on the disk."""
    return _HEAD.size + sum(field.size_bytes for field in fields)


def _sound(record: bytes, size: int) -> bool:
    return len(record) == size and zlib.crc32(memoryview(record)[4:], SEED).to_bytes(4, "little") == record[:4]


def segments(folder: Path) -> dict[Path, int]:
    """Segments and their sizes, the oldest first."""
    found = {}
    for path in sorted(path for path in folder.iterdir() if _SEGMENT.fullmatch(path.name)):
        try:
            found[path] = path.lstat().st_size
        except FileNotFoundError:
            continue  # dropped since it was listed
    return found


def unlink_segments(folder: Path) -> None:
    """Remove every segment, for good."""
    for path in segments(folder):
        path.unlink(missing_ok=True)
    sync_folder(folder)


def locked(folder: Path) -> int:
    """The right to write to a store; raises `StoreBusy`."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreBusy(folder) from error
    return descriptor


def _copy(path: Path, into: Path, each: int = 1) -> None:
    """A private copy, of whole records."""
    whole = path.read_bytes()
    descriptor = os.open(into / path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, whole[: len(whole) // each * each])
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def say(fields: Sequence[Field]) -> str:
    """Fields for people."""
    return ", ".join(f"{field.name} {field.dtype} {list(field.dims)}" for field in fields)
