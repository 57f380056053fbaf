# SPDX-License-Identifier: Apache-2.0
"""The verbs as processes: exit codes, streams, and what they do without anything to talk to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TEG = (sys.executable, "-c", "import sys; from governor.cli import main; sys.exit(main())")


def teg(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TEG, *arguments], capture_output=True, text=True, timeout=240, check=False)


def test_status_of_an_empty_run_directory(tmp_path: Path) -> None:
    """One JSON object on standard output, nothing on standard error, and the answer is no."""
    done = teg("status", "--json", "--run-dir", str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout) == {"board": None, "instances": [], "governor": None}


def test_help_names_every_verb_and_exit_code() -> None:
    """`teg --help` is where a new user starts."""
    done = teg("--help")
    assert done.returncode == 0
    for verb in ("serve", "run", "clockd", "restore", "status", "doctor", "load", "models", "board"):
        assert f"    {verb}" in done.stdout
    assert "2 usage" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [(), ("fly",), ("run", "--trials", "0"), ("clockd", "--board"), ("serve", "--no-such-flag"), ("models", "melt")],
    ids=" ".join,
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    """Exit code 2, words on standard error, nothing on standard output."""
    done = teg(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


def test_run_without_clockd_waits_and_ends_when_told(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """It waits for things to come instead of failing, and SIGINT ends it with exit code 0."""
    command = [*TEG, "run", "--run-dir", str(tmp_path), "--metrics-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as governor:
        # its own handlers are in place once the shell's default no longer shows in the signal mask of caught ones
        caught = 1 << (signal.SIGTERM - 1)
        status = Path(f"/proc/{governor.pid}/status")

        def handles() -> bool:
            mask = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
            return bool(int(mask.split()[1], 16) & caught)

        eventually(handles, 240)
        assert governor.poll() is None
        governor.send_signal(signal.SIGINT)
        assert governor.wait(60) == 0
