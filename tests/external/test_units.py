# SPDX-License-Identifier: Apache-2.0
"""The systemd units that we ship, judged by systemd (package systemd), and the daemon under what they take from it."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from boards.archive import unpack
from boards.clocks import ClockPoint
from boards.discover import open_board
from governor.client import ClockClient
from telemetry.rundir import RunDir

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = ("teg-clockd.service", "teg-governor.service", "teg-finetune.service")
MOST_EXPOSED = 2.0
PATIENCE_S = 60.0
"""Bounds a failure and promises nothing."""
TEG = (sys.executable, "-c", "import sys; from governor.cli import main; sys.exit(main())")
pytestmark = [pytest.mark.external, pytest.mark.timeout(300)]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_every_line(unit: str) -> None:
    """`systemd-analyze verify` has nothing to say."""
    assert run("systemd-analyze", "verify", str(DEPLOY / unit)) == ""


@pytest.mark.parametrize("unit", UNITS)
def test_the_units_are_little_exposed(unit: str) -> None:
    """`systemd-analyze security` gives 2.0 or less."""
    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(DEPLOY / unit))
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert float(exposure) <= MOST_EXPOSED, said


def test_the_daemon_is_watched_and_restored_after() -> None:
    """What safety rests on is in the unit: a watchdog, a restorer after every end, a restart, no capability."""
    lines = (DEPLOY / "teg-clockd.service").read_text().splitlines()
    assert {"Type=notify", "Restart=on-failure", "CapabilityBoundingSet=", "NoNewPrivileges=yes"} <= set(lines)
    assert any(re.fullmatch(r"WatchdogSec=([1-9]|10)", line) for line in lines)
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    (after,) = [line for line in lines if line.startswith("ExecStopPost=")]
    options = "--run-dir /run/teg --state-dir /run/teg-clockd"
    assert start.endswith(f"teg clockd {options}")
    assert after.endswith(f"teg restore {options}")


def test_the_user_and_the_run_directory_are_made(tmp_path: Path) -> None:
    """sysusers and tmpfiles give /run/teg to the group teg, sticky, with the group inherited."""
    assert os.geteuid() == 0, "run as root: it makes a user below a folder"
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}", str(DEPLOY / "teg.sysusers.conf"))
    group = next(line for line in (tmp_path / "etc/group").read_text().splitlines() if line.startswith("teg:"))
    run("systemd-tmpfiles", f"--root={tmp_path}", "--create", str(DEPLOY / "teg.tmpfiles.conf"))
    for folder, mode in (("run/teg", 0o3770), ("run/teg/instances", 0o2770)):
        status = (tmp_path / folder).stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (mode, 0, int(group.split(":")[2])), folder


def test_root_without_a_capability_can_do_it_all(tmp_path: Path) -> None:
    """Lease, release, kill -9 and restore, on files that belong to root, under an empty bounding set."""
    root = unpack((ROOT / "tests/fixtures/agx-orin-jp6.tree").read_text(), tmp_path / "board")
    before = open_board("auto", root).read_knobs()
    assert os.geteuid() == 0, "run as root: only root has capabilities to lose"
    powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", *TEG)
    run_dir, state = RunDir(tmp_path / "run"), tmp_path / "state"
    options = ("--root", str(root), "--run-dir", str(run_dir.root), "--state-dir", str(state))
    clockd = subprocess.Popen([*powerless, "clockd", *options], stderr=subprocess.PIPE, text=True)
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not run_dir.board_page.exists():
            assert time.monotonic() < deadline_s
            assert clockd.poll() is None, clockd.communicate()[1]
            time.sleep(0.01)
        effective = re.findall(r"CapEff:\s*(\w+)", Path(f"/proc/{clockd.pid}/status").read_text())
        assert int(effective[0], 16) == 0
        with ClockClient(run_dir.socket, PATIENCE_S) as client:
            low = ClockPoint(gpu_hz=408_000_000, cores=4, emc_hz=665_600_000)
            assert client.lease(low, 5.0).honoured
            client.release()
            assert open_board("auto", root).read_knobs() == before
            assert client.lease(low, 5.0).honoured
            clockd.kill()
            clockd.wait(PATIENCE_S)
    finally:
        clockd.kill()
        clockd.communicate()
    assert open_board("auto", root).observe().cores == 4
    run(*powerless, "restore", *options)
    assert open_board("auto", root).read_knobs() == before


def test_the_governor_s_mathematics_needs_no_executable_memory() -> None:
    """Under `MemoryDenyWriteExecute=` (here as prctl(PR_SET_MDWE)) the search asks, is told, and fits."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(66, 0, 0, 0, 0) >= 0, "this kernel (before 6.3) has no PR_SET_MDWE"
    script = textwrap.dedent("""
        import ctypes
        assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0
        from governor.search import Search
        search = Search({"gpu_hz": [3e8, 6e8, 9e8, 1.3e9], "batch": [1.0, 2.0, 4.0]}, 0.1, 0)
        for number in range(8):
            point = search.ask()
            search.tell(point, 0.02 + 2e7 / point["gpu_hz"], 1.0 + point["gpu_hz"] / 1e9)
        print(search.best().point)
    """)
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    assert "gpu_hz" in done.stdout
