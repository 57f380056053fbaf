# SPDX-License-Identifier: Apache-2.0
"""Processes of `teg`, started fast: one process imports the product once, and every other is forked from it.

A fork runs the same `main` with its own arguments, files, sockets and pid, and is killed like any other process; only
the import of the interpreter's modules (0.3 s, with torch 5 s) is shared. Orders come as JSON lines on standard input.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIGHT = ("governor.cli", "governor.clockd.run", "governor.client", "boards.discover", "logging.config")
HEAVY = (*LIGHT, "governor.cli.run", "governor.loop", "governor.exporter", "governor.search", "governor.tuning")
_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG: no child outlives the suite, however the suite ends."""


class Child:
    """A forked process. Its output is in `log`."""

    def __init__(self, zygote: Zygote, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log
        self.code: int | None = None
        self._zygote = zygote
        self._descriptor = os.pidfd_open(pid)

    @property
    def said(self) -> str:
        """Everything it has printed so far."""
        return self.log.read_text(errors="replace")

    def wait(self, within_s: float) -> int | None:
        """Its exit code (negative: the signal that ended it), None if it still runs then."""
        if self.code is None and select.select([self._descriptor], [], [], within_s)[0]:
            self.code = self._zygote.reap(self.pid)
            os.close(self._descriptor)
        return self.code

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.wait(0) is None

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.running:
            signal.pidfd_send_signal(self._descriptor, number)

    def go_on(self, within_s: float) -> int | None:
        """Wake it from its stop, and wait for its end as `wait` does.

        A tracer that has just attached may lose a SIGCONT: it is sent again each second, which nobody awake notices.
        """
        deadline_s = time.monotonic() + within_s
        while self.code is None and time.monotonic() < deadline_s:
            self.send(signal.SIGCONT)
            self.wait(min(1.0, max(0.0, deadline_s - time.monotonic())))
        return self.wait(0)

    def end(self) -> None:
        """SIGKILL, and wait."""
        self.send(signal.SIGKILL)
        self.wait(10)


class Zygote:
    """The parent of all; a context manager."""

    def __init__(self, modules: Sequence[str] = LIGHT) -> None:
        self._modules = modules
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Zygote:
        environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.faults.zygote", *self._modules]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environ
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process.wait(30)

    def fork(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        stopped: bool = False,
        before: str = "",
        main: str = "governor.cli:main",
        environ: Mapping[str, str] | None = None,
    ) -> Child:
        """`teg ARGUMENTS` as a new process; `stopped`: it waits for SIGCONT; `before`: a `module:function` to call."""
        log.touch()
        order = {"arguments": list(arguments), "log": str(log), "stopped": stopped, "before": before, "main": main}
        return Child(self, self._ask(order | {"environ": dict(environ or {})}), log)

    def reap(self, pid: int) -> int:
        """The exit code of a child that has ended."""
        return self._ask({"reap": pid})

    def _ask(self, order: dict[str, Any]) -> int:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the zygote runs only inside its context")
        with self._lock:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())


def until_stopped(pid: int, within_s: float = 10.0) -> None:
    """Wait until a process sleeps on a stop signal; raises `TimeoutError`."""
    deadline_s = time.monotonic() + within_s
    while (state := Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) not in "Tt":
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"process {pid} is in state {state}")
        time.sleep(0.001)


def serve(modules: Sequence[str]) -> None:
    """Fork and reap as ordered until standard input ends."""
    for module in modules:
        importlib.import_module(module)
    for line in sys.stdin:
        order = json.loads(line)
        if "reap" in order:
            _, status = os.waitpid(order["reap"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                _become(order)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _named(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _become(order: dict[str, Any]) -> None:
    """Be a `teg` process; does not return."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for descriptor, number in ((null, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, number)
        os.environ.update(order["environ"])
        if order["stopped"]:
            os.kill(os.getpid(), signal.SIGSTOP)
        if order["before"]:
            _named(order["before"])()
        code = _named(order["main"])(order["arguments"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1:])
