# SPDX-License-Identifier: Apache-2.0
"""Power loss from a log of system calls: what a disk may hold if the machine stops after the n-th of them.

A disk owes nothing that was not synced. Bytes are there for certain after fsync of their file, a name (made, renamed
or removed) after fsync of its folder; without, they may be there or not, and a write may be there in part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat",
    "ftruncate",
)  # fmt: skip
_LINE = re.compile(r"^\d+\s+(\w+)\((.*)\)\s+= (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(r"^(\d+)<((?:\\x[0-9a-f]{2})*)>")


@dataclass(frozen=True, slots=True)
class Call:
    """One successful call: its name, the file it went to, its bytes, the second name of a rename."""

    name: str
    path: Path
    content: bytes = b""
    target: Path | None = None
    flags: str = ""


@dataclass(slots=True)
class File:
    """An inode: its bytes now, and those that are safe."""

    content: bytes = b""
    safe: bytes = b""


@dataclass(slots=True)
class Disk:
    """The files of one folder, now and on the disk; calls on others are passed over."""

    folder: Path
    names: dict[Path, File] = field(default_factory=dict)
    safe_names: dict[Path, File] = field(default_factory=dict)

    def owns(self, path: Path) -> bool:
        """Whether a path lies directly in this folder."""
        return path.parent == self.folder

    def do(self, call: Call) -> None:
        """Let one call happen."""
        if call.path == self.folder and call.name in ("fsync", "fdatasync"):
            self.safe_names = dict(self.names)
        if not self.owns(call.path):
            return
        if call.name == "openat":
            if "O_CREAT" in call.flags:
                self.names.setdefault(call.path, File())
            if "O_TRUNC" in call.flags and call.path in self.names:
                self.names[call.path].content = b""
        elif call.name in ("write", "pwrite64"):
            self.names[call.path].content += call.content
        elif call.name in ("fsync", "fdatasync"):
            self.names[call.path].safe = self.names[call.path].content
        elif call.name.startswith("rename") and call.target is not None:
            self.names[call.target] = self.names.pop(call.path)
        elif call.name.startswith("unlink"):
            self.names.pop(call.path, None)
        elif call.name == "ftruncate":
            self.names[call.path].content = b""

    def crashes(self) -> Iterator[dict[str, bytes]]:
        """What may be found after a crash now, file by file: nothing unsynced, names without bytes, all of it."""
        yield {path.name: file.safe for path, file in self.safe_names.items()}
        yield {path.name: file.safe for path, file in self.names.items()}
        yield {path.name: file.content for path, file in self.safe_names.items()}
        yield {path.name: file.content for path, file in self.names.items()}

    def torn(self, before: bytes, path: Path) -> Iterator[dict[str, bytes]]:
        """What may be found if the write that has just grown `path` from `before` was torn: every prefix of it."""
        for length in range(len(before), len(self.names[path].content)):
            found = {name.name: file.content for name, file in self.names.items()}
            yield found | {path.name: self.names[path].content[:length]}


def calls_in(log: Path) -> list[Call]:
    """The successful calls of a strace log that shows whole buffers and paths in hexadecimal (`-y -xx`)."""
    parsed = (_parsed(line) for line in log.read_text(errors="replace").splitlines())
    return [call for call in parsed if call is not None]


def _parsed(line: str) -> Call | None:
    match = _LINE.match(line)
    if match is None or int(match[3]) < 0:
        return None
    name, arguments, result = match[1], match[2], int(match[3])
    texts = [_bytes(text) for text in _TEXT.findall(arguments)]
    if name == "openat":
        return Call(name, Path(texts[0].decode()), flags=arguments)
    if name.startswith("rename"):
        return Call(name, Path(texts[0].decode()), target=Path(texts[1].decode()))
    if name.startswith("unlink"):
        return Call(name, Path(texts[0].decode()))
    descriptor = _FD.match(arguments)
    if descriptor is None:
        return None
    path = Path(_bytes(descriptor[2]).decode())
    return Call(name, path, texts[0][:result] if texts else b"")


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def out_of_order(calls: Sequence[Call], knobs: frozenset[Path], ledger: Path) -> list[str]:
    """Knob writes that came while the ledger's record, or its name, was not safe yet."""
    disk, found = Disk(ledger.parent), []
    for call in calls:
        if call.name in ("write", "pwrite64") and call.path in knobs:
            safe = disk.safe_names.get(ledger)
            if safe is None or not safe.safe:
                found.append(f"{call.path.name} was written before the ledger was safe")
        disk.do(call)
    return found
