# SPDX-License-Identifier: Apache-2.0
"""Runs a command under strace, counts its system calls on given files, and kills it at any of them or makes one fail.

strace stops a process when it enters a call, so a kill at a call leaves exactly what the calls before it did: killing
at every one in turn visits every state that a death can leave on those files. A *story* is what a test does with the
process: it starts the words that it is given, talks to it, and comes back when the process has ended; it must bear
that the process dies at any moment. Paths are compared as the process names them and as the kernel resolves them, so a
path through links is given once, as the process uses it. Names that do not exist yet may be given too.

    with Killer(folder, paths) as killer:
        for point in killer.every(story, step=7):       # story(words_before_the_command)
            assert restored(), f"killed at {point}"

Strace counts per process and per kind of call, so a point is `fsync 2`: the second fsync on any of the paths. Start the
interpreter itself (`sys.executable`), never a shell that starts it.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

CALLS = (
    *("open", "openat", "close", "read", "pread64", "write", "pwrite64", "ftruncate", "truncate", "flock", "chmod"),
    *("fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat", "link", "linkat", "fchown"),
)
"""Every call by which a process can change a file, or take note of one."""
_STRUCK = ("(INJECTED)", "= ?", "<unfinished ...>")
"""How strace ends the line of a call that it tampered with, or whose process it killed."""
Story = Callable[[list[str]], None]


@dataclass(frozen=True, slots=True)
class Point:
    """The `number`-th call of one kind, counted from 1."""

    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} {self.number}"


def tracing(log: Path, paths: Iterable[Path], inject: str = "", calls: Sequence[str] = CALLS) -> list[str]:
    """The words to put before a command, so that its `calls` on `paths` are written to `log`.

    `inject` is what strace does to which: `write:error=EBUSY:when=2+`, `write:retval=2:when=1`, `fsync:signal=KILL`.
    """
    known = ",".join(call for call in calls if call not in _absent())
    # not --seccomp-bpf: strace 6.1 then never delivers an injected signal
    words = ["strace", "-f", "-qqq", "-e", "signal=none", "-e", f"trace={known}", "-o", str(log)]
    for path in paths:
        words += ["-P", str(path)]
    if inject:
        words += ["-e", f"inject={inject}"]
    return words


def calls_in(log: Path) -> list[str]:
    """The calls in a log, in order, each as strace writes it: name, arguments, result."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [words[1].strip() for line in lines if len(words := line.split(maxsplit=1)) == 2 and "(" in words[1]]


class Killer:
    """Kills one story's process at each of its calls on `paths` in turn; logs lie in `folder`."""

    def __init__(self, folder: Path, paths: Iterable[Path], calls: Sequence[str] = CALLS) -> None:
        self.log = folder / "strace.log"
        self._paths = tuple(paths)
        self._calls = calls

    def __enter__(self) -> Killer:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.log.unlink(missing_ok=True)

    def points(self, story: Story) -> list[Point]:
        """Every call that the story makes on the paths when nothing goes wrong, in order."""
        self.run(story)
        seen: Counter[str] = Counter()
        points = []
        for line in calls_in(self.log):
            call, _, _ = line.partition("(")
            seen[call] += 1
            points.append(Point(call, seen[call]))
        return points

    def run(self, story: Story, inject: str = "") -> bool:
        """Run the story once; whether the injection struck."""
        self.log.unlink(missing_ok=True)
        story(tracing(self.log, self._paths, inject, self._calls))
        return bool(inject) and any(line.endswith(_STRUCK) for line in calls_in(self.log))

    def kill(self, story: Story, point: Point) -> bool:
        """Run the story once, killed at `point`; False if it never came there."""
        return self.run(story, f"{point.call}:signal=KILL:when={point.number}")

    def every(self, story: Story, *, step: int = 1, first: int = 0) -> Iterator[Point]:
        """Kill the story at every `step`-th of its calls, and give each point at which it died.

        A story that samples on a clock makes a few calls more or less each time; points that a run did not reach are
        passed over, so count what comes.
        """
        for point in self.points(story)[first::step]:
            if self.kill(story, point):
                yield point


@cache
def _absent() -> frozenset[str]:
    """Calls that this machine's processor family lacks (aarch64 has only the `...at` forms); strace refuses them."""
    old = ("open", "rename", "unlink", "link", "chmod")
    shown = subprocess.run(["strace", "-e", "trace=open", "true"], capture_output=True, text=True, check=False)
    return frozenset(old) if "invalid system call" in shown.stderr else frozenset()
