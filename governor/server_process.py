# SPDX-License-Identifier: Apache-2.0
"""The server's process: started so that it ends with whoever started it, and ended with everything it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_S = 8.0
"""How long a server may take to end after SIGTERM."""
_SHM = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend keeps its regions
_LAUNCHER = (
    sys.executable,
    "-I",
    "-c",
    # Asks the kernel to end the server with its parent, then becomes the server. The parent may be gone already.
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])",
)
"""A process of its own for this, because code between fork and exec is not safe in a program with threads."""


def start_server(
    binary: Path, arguments: Sequence[str], environ: Mapping[str, str], log_path: Path | None
) -> subprocess.Popen[bytes]:
    """The server's process, in a group of its own; it gets SIGTERM when the thread that called this ends."""
    with contextlib.ExitStack() as files:
        log = files.enter_context(open(log_path, "ab")) if log_path else None
        return subprocess.Popen(
            [*_LAUNCHER, str(os.getpid()), str(binary), *arguments],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )


def end_server(process: subprocess.Popen[bytes], regions: str, stop_s: float = STOP_S) -> None:
    """End a server and its stubs, by force if they do not go, and remove the shared memory named `regions...`."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(stop_s)
    # the group is ours: the server and its stubs, whatever state they are in
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for region in _SHM.glob(f"{regions}*"):
        region.unlink(missing_ok=True)
