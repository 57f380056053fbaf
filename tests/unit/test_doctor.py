# SPDX-License-Identifier: Apache-2.0
"""`teg doctor`: every trouble is named with what mends it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from boards.archive import unpack
from boards.clocks import Applied, ClockPoint, ClockTable
from governor.cli import doctor as cli
from governor.doctor import CHECKS, diagnose
from governor.emc_probe import HOLD_S, probe_emc
from governor.machine import (
    Machine,
    find_emc,
    find_libpython,
    find_models_without_weights,
    find_rivals,
    is_writable,
    look,
    server_version,
)

ARCHIVE = Path(__file__).resolve().parents[1] / "fixtures" / "agx-orin-jp6.tree"
SERVER = Path(__file__)
"""Any file will do as a server that is there."""

HEALTHY = Machine(
    python=(3, 11, 2),
    libpython="libpython3.11.so.1.0",
    libpython_path=Path("/usr/lib/libpython3.11.so.1.0"),
    packages={"numpy": "1.26.4", "nvidia-pytriton": "0.7.0"},
    stubs=("3.11",),
    server=SERVER,
    server_version=(2, 60, 0),
    shm_bytes=1 << 30,
    board="agx-orin-64gb",
    board_message="",
    board_notes=(),
    nvml=None,
    nvml_message="nvml:0: no library",
    root_user=True,
    emc_debugfs=True,
    rivals=(),
    run_dir=Path("/run/teg"),
    run_dir_writable=True,
    repository=Path("/models"),
    models_without_weights=(),
    compiler="/usr/bin/cc",
)


def findings_of(**changes: Any) -> dict[str, tuple[str, str, str]]:
    found = diagnose(dataclasses.replace(HEALTHY, **changes))
    return {finding.check: (finding.level, finding.what, finding.mend) for finding in found}


def test_a_healthy_machine_has_nothing_to_mend() -> None:
    """Each check says ok, and nothing is advised."""
    found = findings_of()
    assert len(found) == len(CHECKS)
    assert {(level, mend) for level, _, mend in found.values()} == {("ok", "")}


@pytest.mark.parametrize(
    ("changes", "check", "level", "words"),
    [
        ({"python": (3, 10, 4)}, "python", "fault", "3.11 to 3.13"),
        ({"python": (3, 14, 0)}, "python", "fault", "3.11 to 3.13"),
        ({"libpython_path": None}, "shared libpython", "fault", "apt install libpython3.11"),
        ({"packages": {"numpy": "2.2.1"}}, "numpy", "fault", "numpy<2"),
        ({"packages": {}}, "numpy", "fault", "not installed"),
        ({"server": None, "server_version": None}, "triton server", "fault", "[server]"),
        ({"server": Path("/nowhere/tritonserver")}, "triton server", "fault", "is not a file"),
        ({"server_version": (2, 51, 0)}, "triton version", "notice", "loopback"),
        ({"server_version": (2, 59, 0)}, "triton version", "notice", "2.59.0 is older"),
        ({"server_version": None}, "triton version", "notice", "cannot be told"),
        ({"shm_bytes": None}, "shared memory", "fault", "--shm-size"),
        ({"shm_bytes": 1 << 20}, "shared memory", "fault", "1 MiB free"),
        ({"shm_bytes": 64 << 20}, "shared memory", "notice", "64 MiB free"),
        ({"board": None, "board_message": "not a Jetson"}, "board", "notice", "observe only: not a Jetson"),
        ({"board": None, "nvml": "NVIDIA A2"}, "board", "notice", "teg clockd --board nvml:0"),
        ({"nvml_message": "Orin (nvgpu) ... whose NVML reports nothing"}, "NVML", "notice", "kernel files"),
        ({"board_notes": ("memory rates are unproven",)}, "board note", "notice", "--probe-emc"),
        ({"board_notes": ("6.6 ms is assumed",)}, "board note", "notice", "data sheet"),
        ({"emc_debugfs": False}, "memory clock", "notice", "mount -t debugfs"),
        ({"emc_debugfs": None, "root_user": False}, "memory clock", "notice", "as root"),
        ({"rivals": ("nvpmodel", "tuned")}, "other tuners", "notice", "systemctl disable --now tuned;"),
        ({"rivals": ("nvpmodel",)}, "other tuners", "notice", "RemainAfterExit=yes"),
        ({"models_without_weights": ("a", "b")}, "models", "notice", "teg models build a b"),
        ({"run_dir_writable": False}, "run directory", "fault", "TEG_RUN_DIR"),
        ({"compiler": None}, "C compiler", "notice", "build-essential"),
    ],
)
def test_each_trouble_is_named_with_what_mends_it(changes: Any, check: str, level: str, words: str) -> None:
    """One trouble changes one finding: its level fits, and what it says or advises contains the way out."""
    found = findings_of(**changes)
    assert found[check][0] == level
    assert words in f"{found[check][1]} {found[check][2]}"
    assert found[check][2], "a trouble comes with advice"
    assert {name for name, (seen, _, _) in found.items() if seen != "ok"} == {check}


def test_the_packaged_server_needs_a_stub_for_this_python(tmp_path: Path) -> None:
    """A wheel without a stub for the interpreter cannot serve, and the ones that it has are named."""
    server = tmp_path / "pytriton" / "tritonserver"
    server.parent.mkdir()
    server.touch()
    level, what, mend = findings_of(server=server, stubs=("3.9", "3.10"))["triton server"]
    assert level == "fault"
    assert "3.11" in what
    assert "3.9, 3.10" in mend
    assert findings_of(server=server)["triton server"][0] == "ok"


def test_every_note_of_the_board_is_told() -> None:
    """What is unknown or assumed about a board is never kept from its owner, one line each."""
    notes = ("GPU power cannot be told", "power above 40 W counts as a sensor fault", "no CPU clock")
    found = diagnose(dataclasses.replace(HEALTHY, board_notes=notes))
    assert [finding.what for finding in found if finding.check == "board note"] == list(notes)


def test_a_boards_notes_reach_the_doctor(tmp_path: Path) -> None:
    """Discovery and doctor say the same: a Jetson of which only the chip is known, without its memory clock."""
    unpack(ARCHIVE.read_text().replace("p3701-0005", "p9999-0001"), tmp_path)
    shutil.rmtree(tmp_path / "sys/kernel/debug")
    machine = look(tmp_path, tmp_path, tmp_path)
    assert machine.board == "Jetson (tegra234)"
    assert any("treated as Jetson AGX Orin" in note for note in machine.board_notes)
    assert any("no memory clock" in note for note in machine.board_notes)


class SlippingClocks:
    """Clockd on a board whose memory holds some rates, grants others for a moment, and ignores the rest."""

    def __init__(self, held: set[int], granted: set[int]) -> None:
        self.held, self.granted = held, granted
        self.points: list[ClockPoint] = []
        self.released = False

    def table(self) -> ClockTable:
        return ClockTable(gpu_hz=(1, 2), emc_hz=(10, 20, 30), cpu_hz=(5, 6))

    def lease(self, point: ClockPoint, ttl_s: float) -> Applied:
        self.points.append(point)
        rate = point.emc_hz if point.emc_hz in self.held | self.granted else 30
        return Applied(point, dataclasses.replace(point, emc_hz=rate), 0.02)

    def status(self) -> dict[str, Any]:
        rate = self.points[-1].emc_hz
        return {"observed": {"emc_hz": rate if rate in self.held else 30}}

    def release(self) -> None:
        self.released = True


def test_memory_rates_are_probed_one_by_one() -> None:
    """Each rate is asked for with all else at the top; one that slips within a second does not hold."""
    clocks, slept = SlippingClocks({10, 30}, {20}), list[float]()
    probed = probe_emc(clocks, slept.append)
    assert [(rate.asked_hz, rate.holds) for rate in probed] == [(10, True), (20, False), (30, True)]
    assert [point.emc_hz for point in clocks.points] == [10, 20, 30]
    assert {(point.gpu_hz, point.cpu_hz) for point in clocks.points} == {(2, 6)}
    assert (clocks.released, sum(slept)) == (True, 3 * HOLD_S)


def test_no_board_needs_no_memory_clock() -> None:
    """On a plain PC the missing EMC clock is no second complaint."""
    assert findings_of(board=None, emc_debugfs=False)["memory clock"][0] == "ok"


def test_rivals_are_seen_running_and_enabled(tmp_path: Path) -> None:
    """A tuner counts when it runs now or when systemd starts it at boot; others do not."""
    for pid, name in (("11", "tuned"), ("12", "bash"), ("13", "power-profiles-")):
        (tmp_path / "proc" / pid).mkdir(parents=True)
        (tmp_path / "proc" / pid / "comm").write_text(name + "\n")
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "nvpmodel.service").touch()
    (wants / "ssh.service").touch()
    assert find_rivals(tmp_path) == ("nvpmodel", "power-profiles-daemon", "tuned")
    assert find_rivals(tmp_path / "empty") == ()


def test_the_memory_clock_is_sought_in_debugfs(tmp_path: Path) -> None:
    """There, or not."""
    assert find_emc(tmp_path) is False
    emc = tmp_path / "sys/kernel/debug/bpmp/debug/clk/emc"
    emc.mkdir(parents=True)
    (emc / "rate").write_text("3199000000")
    assert find_emc(tmp_path) is True


def test_libpython_is_sought_where_debian_keeps_it(tmp_path: Path) -> None:
    """The library is looked for below the given root, and only there."""
    assert find_libpython(tmp_path, "libpython3.11.so.1.0") is None
    folder = tmp_path / "usr/local/lib"
    folder.mkdir(parents=True)
    (folder / "libpython3.11.so.1.0").touch()
    assert find_libpython(tmp_path, "libpython3.11.so.1.0") == folder / "libpython3.11.so.1.0"


def test_missing_weights_are_found_by_the_configuration(tmp_path: Path) -> None:
    """A model that names a file which no version folder holds has no weights; one that names none needs none."""
    for name, file in (("there", "a.onnx"), ("missing", "b.safetensors"), ("aside", "c.onnx"), ("identity", "")):
        (tmp_path / name / "1").mkdir(parents=True)
        parameter = f'parameters [{{ key: "model_file", value: {{ string_value: "{file}" }} }}]' if file else ""
        (tmp_path / name / "config.pbtxt").write_text(f'backend: "governed"\n{parameter}\n')
    (tmp_path / "there" / "1" / "a.onnx").touch()
    (tmp_path / "aside" / "old").mkdir()
    (tmp_path / "aside" / "old" / "c.onnx").touch()
    assert find_models_without_weights(tmp_path) == ("aside", "missing")


def test_server_version_is_read_beside_the_server(tmp_path: Path) -> None:
    """A container states its version in a file; a bundled server's is that of the package; else nobody knows."""
    server = tmp_path / "bin" / "tritonserver"
    assert server_version(server, "0.7.0") is None
    assert server_version(tmp_path / "pytriton" / "bin" / "tritonserver", "0.7.0") == (2, 51, 0)
    assert server_version(tmp_path / "pytriton" / "bin" / "tritonserver", "9.9") is None
    (tmp_path / "TRITON_VERSION").write_text("2.62.0\n")
    assert server_version(server, None) == (2, 62, 0)
    assert server_version(None, "0.7.0") is None


def test_a_run_directory_to_be_made_counts_as_writable(tmp_path: Path) -> None:
    """What counts is the nearest folder that exists; a file in the way does not do."""
    assert is_writable(tmp_path / "run" / "teg")
    (tmp_path / "file").touch()
    assert not is_writable(tmp_path / "file" / "teg")
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        assert not is_writable(tmp_path / "closed" / "teg")


def test_the_command_looks_at_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`teg doctor --json` prints one finding per check and exits 1 exactly if there is a fault."""
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    (tmp_path / "file").touch()
    for run_dir in (tmp_path / "run", tmp_path / "file" / "teg"):
        args = parser.parse_args(["doctor", "--json", "--run-dir", str(run_dir)])
        code = args.handler(args)
        found = json.loads(capsys.readouterr().out)
        assert len(found) == len(CHECKS)
        assert code == any(finding["level"] == "fault" for finding in found)
        faulty = {finding["check"] for finding in found if finding["level"] == "fault"}
        assert ("run directory" in faulty) == (run_dir.parent.name == "file")


def test_the_text_shows_faults_and_advice() -> None:
    """Each finding has its line, each advice its own below."""
    text = cli.render(diagnose(dataclasses.replace(HEALTHY, libpython_path=None)))
    assert "FAULT   shared libpython" in text
    assert "-> Debian: apt install libpython3.11" in text
    assert len(text.splitlines()) == len(CHECKS) + 1
