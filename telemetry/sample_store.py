# SPDX-License-Identifier: Apache-2.0
"""A store of labelled samples as its one writer has it: bounded, private, and never half a sample."""

from __future__ import annotations

import errno
import json
import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from .durable import replace, sync_folder, write_all
from .errors import FieldsMismatch, StoreFull
from .samples import (
    FIELDS,
    FORMAT,
    SEED,
    Field,
    locked,
    make_private,
    read_fields,
    record_bytes,
    say,
    segments,
    snapshot,
    unlink_segments,
)

Policy = Literal["drop-oldest", "refuse"]

SEGMENT_BYTES = 4 << 20
"""A segment is at most so large: the step in which the oldest samples go."""
LIMIT_BYTES = 256 << 20

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SampleStore:
    """The samples of one model, and the only process that adds to them; mode 0700, files 0600.

    Beyond `limit_bytes` the oldest segment goes, or under `refuse` the new sample is. What `add` took is on the disk
    after `flush`. Raises `StoreBusy` if another process writes here, `FieldsMismatch` if other samples lie here.
    """

    def __init__(
        self, folder: Path, fields: Sequence[Field], limit_bytes: int = LIMIT_BYTES, policy: Policy = "drop-oldest"
    ) -> None:
        self.folder, self.fields, self.limit_bytes, self.policy = folder, tuple(fields), limit_bytes, policy
        self._record_bytes = record_bytes(self.fields)
        if limit_bytes < self._record_bytes:
            raise ValueError(f"limit_bytes must hold a sample of {self._record_bytes} bytes, got {limit_bytes}")
        # with a small limit a segment is a quarter of it, so that the oldest samples go in small steps there as well
        in_segment = max(1, min(SEGMENT_BYTES, limit_bytes // 4) // self._record_bytes)
        self._segment_bytes = in_segment * self._record_bytes
        self._mutex = threading.Lock()
        make_private(folder)
        self._writer = locked(folder)
        self._descriptor = -1
        try:
            self._agree()
            self._sizes = segments(folder)
        except BaseException:
            os.close(self._writer)
            raise

    def add(self, inputs: Mapping[str, bytes | memoryview], label: int) -> None:
        """Append one sample: the bytes of every field.

        Raises `StoreFull` (policy `refuse`, or no room on the disk) with nothing added, `ValueError` for other fields.
        """
        record = self._packed(inputs, label)
        with self._mutex:
            self._make_room()
            if self._descriptor < 0 or self._sizes[self._newest] + self._record_bytes > self._segment_bytes:
                self._roll()
            self._append(record)

    def flush(self) -> None:
        """Wait until the disk has every sample added so far; others may be added meanwhile."""
        with self._mutex:
            descriptor = os.dup(self._descriptor) if self._descriptor >= 0 else -1
        if descriptor >= 0:
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            sync_folder(self.folder)

    @property
    def count(self) -> int:
        """Samples in the store."""
        return sum(size // self._record_bytes for size in segments(self.folder).values())

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(segments(self.folder).values())

    def snapshot(self, into: Path) -> None:
        """As the function of that name."""
        snapshot(self.folder, into)

    def erase(self) -> None:
        """Remove every sample."""
        with self._mutex:
            self._let_go()
            unlink_segments(self.folder)
            self._sizes = {}

    def close(self) -> None:
        """Flush, and let another process write; a second call does nothing."""
        if self._writer < 0:
            return
        self.flush()
        with self._mutex:
            self._let_go()
            os.close(self._writer)
            self._writer = -1

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def _newest(self) -> Path:
        return next(reversed(self._sizes))

    def _agree(self) -> None:
        path = self.folder / FIELDS
        if path.exists() and (found := read_fields(self.folder)) != self.fields:
            raise FieldsMismatch(self.folder, say(found), say(self.fields))
        if not path.exists():
            content = {"format": FORMAT, "fields": [asdict(field) for field in self.fields]}
            replace(path, json.dumps(content).encode() + b"\n", mode=0o600)

    def _packed(self, inputs: Mapping[str, bytes | memoryview], label: int) -> bytes:
        for field in self.fields:
            size = len(memoryview(inputs.get(field.name, b"")).cast("B"))
            if size != field.size_bytes:
                raise ValueError(f"{field.name} must have {field.size_bytes} bytes, got {size}")
        if strange := set(inputs) - {field.name for field in self.fields}:
            raise ValueError(f"no field of this store: {', '.join(sorted(strange))}")
        payload = b"".join((label.to_bytes(8, "little", signed=True), *(inputs[field.name] for field in self.fields)))
        return zlib.crc32(payload, SEED).to_bytes(4, "little") + payload

    def _make_room(self) -> None:
        if self._descriptor >= 0 and not os.fstat(self._descriptor).st_nlink:
            self._let_go()  # another process has erased the store
            self._sizes = segments(self.folder)
        while sum(self._sizes.values()) + self._record_bytes > self.limit_bytes:
            if self.policy == "refuse":
                raise StoreFull(self.folder, f"{self.limit_bytes} bytes are its limit")
            oldest = next(iter(self._sizes))
            if len(self._sizes) == 1:
                self._let_go()
            oldest.unlink(missing_ok=True)
            del self._sizes[oldest]

    def _roll(self) -> None:
        """Begin a segment: always after a start, for the last one may end in a torn record."""
        self._let_go()
        number = 1 + max((int(path.stem) for path in self._sizes), default=0)
        path = self.folder / f"{number:012d}.samples"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise self._full(error) from error
        self._sizes[path] = 0

    def _append(self, record: bytes) -> None:
        path = self._newest
        try:
            write_all(self._descriptor, record)
        except OSError as error:
            self._let_go()  # whatever came of it is a torn record at the end of this segment
            os.truncate(path, self._sizes[path])
            raise self._full(error) from error
        self._sizes[path] += len(record)

    def _full(self, error: OSError) -> OSError | StoreFull:
        return StoreFull(self.folder, error.strerror or str(error)) if error.errno in _NO_ROOM else error

    def _let_go(self) -> None:
        if self._descriptor >= 0:
            os.fdatasync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
