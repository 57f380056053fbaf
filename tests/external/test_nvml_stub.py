# SPDX-License-Identifier: Apache-2.0
"""The real nvidia-ml-py over a C library in place of NVIDIA's: what a fake module would hide, ctypes and symbols."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from boards.clocks import ClockPoint
from governor.client import ClockClient
from telemetry.rundir import RunDir
from tests.nvml.checks import CHECKS
from tests.nvml.library import build, command, environment, run

pytestmark = pytest.mark.external
PATIENCE_S = 60.0
"""Bounds a failure and promises nothing."""

LOCK_AND_WAIT = """
from boards.clocks import ClockPoint
from boards.nvml import open_nvml
board = open_nvml(0)
board.request(ClockPoint(gpu_hz=600_000_000, gpu_min_hz=300_000_000, emc_hz=5_001_000_000))
board.request_power_limit(150)
print("locked", flush=True)
input()
"""
LOCKS = """
import ctypes
from boards.nvml import open_nvml
knobs = open_nvml(0).read_knobs()
locks = (ctypes.c_uint * 4)()
ctypes.CDLL("libnvidia-ml.so.1").stub_locks(locks)
print(*locks, knobs["nvml.power_limit_mw"])
"""
RESTORE = """
from boards.nvml import open_nvml
open_nvml(0).restore({"nvml.power_limit_mw": 300_000})
"""
TEG = "import sys; from governor.cli import main; sys.exit(main(sys.argv[1:]))"
DESCRIBE = """
import json
from boards.nvml import open_nvml
board = open_nvml(0)
print(json.dumps({"gpu": len(board.table.gpu_hz), "emc": len(board.table.emc_hz), "notes": board.notes,
                  "energy": board.energy_j(), "alerts": board.throttle().alerts}))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole stub library."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="module")
def results(library: Path) -> dict[str, str]:
    """The traceback of every check, empty where it passed."""
    found: dict[str, str] = json.loads(run(library, "-m", "tests.nvml.run_checks"))
    return found


@pytest.mark.parametrize("name", [check.__name__ for check in CHECKS])
def test_contract(results: dict[str, str], name: str) -> None:
    """A GPU behind the real binding keeps what every NVML GPU keeps (each check's docstring is the rule)."""
    assert results[name] == ""


def test_missing_symbols_are_missing_capabilities(tmp_path: Path) -> None:
    """A library without a function loses that capability alone; event reasons are found under their old name."""
    gone = "nvmlDeviceSetMemoryLockedClocks", "nvmlDeviceGetTotalEnergyConsumption"
    folder = build(tmp_path, *gone, "nvmlDeviceGetCurrentClocksEventReasons")
    board = json.loads(run(folder, "-c", DESCRIBE, NVML_REASONS="0x80", NVML_BUSY="1"))
    assert (board["gpu"], board["emc"], board["energy"]) == (103, 0, None)
    assert board["alerts"] == ["power-brake"]
    assert sum("missing" in note for note in board["notes"]) == 2, board["notes"]


def test_a_killed_process_leaves_its_locks_and_another_takes_them_away(library: Path, tmp_path: Path) -> None:
    """Locks and power limit outlive a process that dies by SIGKILL; a restore from another process undoes them."""
    state = {"NVML_STATE": str(tmp_path / "state"), "NVML_BUSY": "1"}
    with subprocess.Popen(
        command("-c", LOCK_AND_WAIT),
        env=environment(library, **state),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        child.send_signal(signal.SIGKILL)
    assert run(library, "-c", LOCKS, **state).split() == ["300", "600", "5001", "5001", "150000"]
    run(library, "-c", RESTORE, **state)
    assert run(library, "-c", LOCKS, **state).split() == ["0", "0", "0", "0", "300000"]


def test_clockd_governs_it_and_leaves_nothing_behind(library: Path, tmp_path: Path) -> None:
    """A lease locks clocks and sets the power limit; after SIGKILL of clockd, `teg restore` undoes both."""
    state = {"NVML_STATE": str(tmp_path / "state"), "NVML_BUSY": "1"}
    run_dir = RunDir(tmp_path / "run")
    board = ["--board", "nvml:0", "--run-dir", str(run_dir.root)]
    with subprocess.Popen(
        command("-c", TEG, "clockd", *board, "--power-limit-w", "150"), env=environment(library, **state)
    ) as clockd:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not run_dir.socket.exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            with ClockClient(run_dir.socket, PATIENCE_S) as client:
                applied = client.lease(ClockPoint(gpu_hz=600_000_000, emc_hz=5_001_000_000), 5.0)
                assert applied.honoured, applied
                clockd.kill()
                clockd.wait()
        finally:
            clockd.kill()
    assert run(library, "-c", LOCKS, **state).split() == ["210", "600", "5001", "5001", "150000"]
    run(library, "-c", TEG, "restore", *board, **state)
    assert run(library, "-c", LOCKS, **state).split() == ["0", "0", "0", "0", "300000"]
