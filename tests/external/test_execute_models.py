# SPDX-License-Identifier: Apache-2.0
"""Whole models within a budget: eager's step to the last bit, the peak as planned, and training where eager cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.trainers import meter

pytestmark = [pytest.mark.external, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
PEAK_SHARE, PEAK_BYTES = 0.03, 8e6
NAME, BATCH, BUDGET = "efficientnet_b0", "16", "35%"
LIMIT = 0.7
"""Of what eager holds when its forward pass ends."""
OUT_OF_MEMORY = ("allocate memory", "could not create a primitive")
"""As torch's allocator says it, and as oneDNN does when it cannot map room for a kernel."""
FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
"""Large blocks go back to the kernel when they are freed; what a hard limit counts."""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process with one thread."""
    wanted = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", "tests.external.training", *arguments]
    return subprocess.run(command, env=wanted, cwd=ROOT, capture_output=True, text=True, check=False)


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("name", "budget"),
    [("resnet18", "60%"), ("efficientnet_b0", "30%"), ("bert_base", "30%")],
)
def test_a_budget_changes_memory_alone(name: str, budget: str, tmp_path: Path) -> None:
    """Paged, recomputed and in pieces: all results are eager's bit for bit, and the peak is the one planned."""
    library = meter.build(tmp_path)
    assert library is not None
    reused = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4000000000"}  # or it takes minutes
    done = run("compare", name, budget, str(tmp_path), LD_PRELOAD=str(library), **reused)
    assert done.returncode == 0, done.stderr
    (rows,) = lines(done)
    row = rows[budget]
    assert row["bitwise"], row
    planned = row["predicted_peak_bytes"]
    assert abs(row["peak_bytes"] - planned) <= max(PEAK_BYTES, PEAK_SHARE * planned), row


def test_training_where_eager_runs_out_of_memory(tmp_path: Path) -> None:
    """Under a hard limit eager fails for lack of memory, and ours trains to the losses of eager without one."""
    folder = str(tmp_path)
    roomy = run("train", "eager", NAME, BATCH, "0", folder, **FREED_AT_ONCE)
    assert roomy.returncode == 0, roomy.stderr
    limit = str(int(LIMIT * lines(roomy)[0]["data_bytes"]))
    failed = run("train", "eager", NAME, BATCH, limit, folder, **FREED_AT_ONCE)
    assert failed.returncode != 0
    assert any(sign in failed.stderr for sign in OUT_OF_MEMORY), failed.stderr
    planned = run("plan", NAME, BATCH, BUDGET, folder, **FREED_AT_ONCE)
    assert planned.returncode == 0, planned.stderr
    ours = run("train", "ours", NAME, BATCH, limit, folder, **FREED_AT_ONCE)
    assert ours.returncode == 0, ours.stderr
    assert [row["loss"] for row in lines(ours)] == [row["loss"] for row in lines(roomy)]
