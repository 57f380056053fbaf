# SPDX-License-Identifier: Apache-2.0
"""System calls made to fail, or to be the last ones, with `strace -e inject`, in a process that runs already."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .record import Unfit

ATTACH_S = 20.0
FILE_CALLS = (
    "openat", "read", "pread64", "write", "pwrite64", "fsync", "fdatasync", "close", "rename", "renameat", "renameat2",
    "unlink", "unlinkat", "ftruncate", "truncate", "newfstatat", "fstat", "lseek", "fchmod",
)  # fmt: skip
"""Every call by which the product touches a file of its own or the kernel's."""
CHANGING_CALLS = ("openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "ftruncate", "truncate")


@dataclass(frozen=True, slots=True)
class Injection:
    """`action` (as strace spells it: `signal=KILL`, `error=EBUSY`, `retval=2`) at the calls that `when` numbers."""

    call: str
    action: str
    when: str

    def __str__(self) -> str:
        return f"{self.call}#{self.when} {self.action}"

    @property
    def option(self) -> str:
        """The argument of `-e`."""
        return f"inject={self.call}:{self.action}:when={self.when}"


@contextlib.contextmanager
def attached(
    pid: int,
    injections: Iterable[Injection] = (),
    paths: Sequence[Path] = (),
    calls: Sequence[str] = (),
    log: Path = Path("/dev/null"),
    *,
    whole: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """strace on a running process while the block lasts; only calls on `paths` count, if any are given.

    `whole`: the log shows every byte that was written, in hexadecimal, and every descriptor's path.
    """
    injections = tuple(injections)
    traced = ",".join(dict.fromkeys((*calls, *(injection.call for injection in injections))))
    command = [
        "strace",
        "-f",
        *(("-y", "-xx", "-s", "65536") if whole else ()),
        "-o",
        str(log),
        "-e",
        f"trace={traced}",
    ]
    for path in paths:
        command += ["-P", str(path)]
    for injection in injections:
        command += ["-e", injection.option]
    tracer = subprocess.Popen([*command, "-p", str(pid)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _until_attached(tracer, pid)
        yield tracer
    finally:
        if tracer.poll() is None:
            tracer.terminate()
        tracer.communicate(timeout=ATTACH_S)


def both_names(paths: Iterable[Path]) -> list[Path]:
    """Paths as given and as the kernel resolves them: a call by name shows the one, a call by descriptor the other."""
    return list(dict.fromkeys(name for path in paths for name in (path, path.resolve())))


def counted(log: Path) -> Counter[str]:
    """How often each call stands in a strace log."""
    lines = (line.split(maxsplit=1) for line in log.read_text(errors="replace").splitlines())
    return Counter(words[1].partition("(")[0] for words in lines if len(words) == 2 and "(" in words[1])


def numbered(log: Path, counts: Callable[[str, str], bool]) -> list[tuple[str, int]]:
    """Calls in a `whole` log that count (by name and line), each with its number among those of its thread, once."""
    seen: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, int], None] = {}
    for line in log.read_text(errors="replace").splitlines():
        thread, _, rest = line.partition(" ")
        if rest.lstrip().startswith("<..."):
            continue  # the end of a call that another thread's stands between
        call = rest.strip().partition("(")[0]
        seen[thread, call] += 1
        if counts(call, line):
            found[call, seen[thread, call]] = None
    return list(found)


def spelt(path: str) -> str:
    """As a `whole` log shows it."""
    return "".join(f"\\x{byte:02x}" for byte in path.encode())


def injected(log: Path) -> int:
    """How many calls in a strace log were tampered with."""
    return sum("(INJECTED" in line for line in log.read_text(errors="replace").splitlines())


def _until_attached(tracer: subprocess.Popen[str], pid: int) -> None:
    deadline_s, said = time.monotonic() + ATTACH_S, ""
    while tracer.stderr is not None and time.monotonic() < deadline_s:
        line = tracer.stderr.readline()
        said += line
        if "attached" in line:
            return
        if not line:
            break
    raise Unfit(f"strace could not attach to {pid}: {said.strip()}")
