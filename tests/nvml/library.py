# SPDX-License-Identifier: Apache-2.0
"""The stub library, compiled, and processes in which the real nvidia-ml-py loads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAME = "libnvidia-ml.so.1"


def build(folder: Path, *without: str) -> Path:
    """Compile the stub into `folder`, without the functions named; returns the folder for LD_LIBRARY_PATH."""
    missing = [f"-DWITHOUT_{name}" for name in without]
    flags = ["-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", *missing]
    subprocess.run(["cc", *flags, "-o", folder / NAME, HERE / "stub.c"], check=True)
    return folder


def command(*arguments: str) -> list[str]:
    """A Python that finds the repository."""
    return [sys.executable, *arguments]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """This process's environment, with the library of `folder` in place of any real one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NVML_")}
    return kept | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(ROOT)} | more


def run(folder: Path, *arguments: str, **more: str) -> str:
    """What a Python process with that library prints; raises if it fails."""
    done = subprocess.run(
        command(*arguments), env=environment(folder, **more), cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout
