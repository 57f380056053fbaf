# SPDX-License-Identifier: Apache-2.0
"""The tree of real files: what discovery and control do there, byte for byte."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from boards.archive import pack, unpack
from boards.clocks import ClockPoint
from boards.discover import open_board
from boards.errors import KnobDenied, KnobRefused, NoBoard, NodeMissing, SensorImplausible, SensorUnavailable
from boards.tree import Patient, SysfsTree, read_int
from boards.virtual import VirtualBoard

if TYPE_CHECKING:
    from .conftest import VirtualTime

GPU = "sys/class/devfreq/17000000.gpu"
EMC = "sys/kernel/debug/bpmp/debug/clk/emc"


def test_a_request_writes_these_bytes(files: Path) -> None:
    """Hz to devfreq and BPMP, kHz to cpufreq, 0 and 1 to hot-plug; the EMC is locked, links are followed."""
    board = open_board("auto", files, sleep=lambda _: None)
    board.request(ClockPoint(612_000_000, 306_000_000, 2_133_000_000, 1_344_000_000, 8))
    names = (f"{GPU}/max_freq", f"{EMC}/rate", f"{EMC}/mrq_rate_locked")
    read = {name: (files / name).read_text().splitlines()[0] for name in names}
    assert read == {f"{GPU}/max_freq": "612000000", f"{EMC}/rate": "2133000000", f"{EMC}/mrq_rate_locked": "1"}
    policies = files / "sys/devices/system/cpu/cpufreq"
    assert (policies / "policy4/scaling_max_freq").read_text() == "1344000\n"
    assert [(files / f"sys/devices/system/cpu/cpu{cpu}/online").read_text().strip() for cpu in (0, 7, 8, 11)] == [
        "1",
        "1",
        "0",
        "0",
    ]


def test_the_gpu_is_found_by_its_device_tree_node(files: Path) -> None:
    """Other devfreq devices (the video engine) are passed over, whatever their names."""
    assert open_board("auto", files).parts.gpu is not None
    (files / "sys/devices/platform/bus@0/17000000.gpu/of_node/name").write_text("something\0")
    board = open_board("auto", files)
    assert board.parts.gpu is None
    assert board.table.gpu_hz == ()
    assert board.observe().gpu_hz is None


def test_without_debugfs_there_is_no_memory_knob(files: Path) -> None:
    """A user who is not root sees no BPMP files: the EMC is absent, and the rest works."""
    (files / EMC).rename(files / "elsewhere")
    board = open_board("auto", files)
    assert board.table.emc_hz == ()
    assert board.observe().emc_hz is None
    assert board.request(ClockPoint(gpu_hz=408_000_000)).honoured


def test_a_cap_takes_rates_off_the_table(files: Path) -> None:
    """nvpmodel's cap hides the EMC rates above it."""
    (files / "sys/kernel/nvpmodel_clk_cap/emc").write_text("2133000000\n")
    assert open_board("auto", files).table.emc_hz == (204_000_000, 665_600_000, 2_133_000_000)


def test_a_clock_outside_its_limits_gives_them_the_lie(files: Path) -> None:
    """The limit may read as asked while the hardware does something else: what is observed is the hardware."""
    board = open_board("auto", files, sleep=lambda _: None)
    (files / f"{GPU}/cur_freq").write_text("1300500000\n")
    assert board.request(ClockPoint(gpu_hz=612_000_000)).observed.gpu_hz == 1_300_500_000
    (files / "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_cur_freq").write_text("364000\n")
    assert board.observe().cpu_hz != 2_201_600_000


def test_a_missing_rail_is_no_total(files: Path) -> None:
    """Without one of its rails the module's power is unknown, not smaller."""
    (files / "sys/class/hwmon/hwmon4/in2_label").write_text("NC\n")
    with pytest.raises(SensorUnavailable, match="VDD_CPU_CV"):
        open_board("auto", files).power_w()


@pytest.mark.parametrize("text", ["-40", "nan", "", "12.5"])
def test_a_current_that_cannot_be_true_is_refused(files: Path, text: str) -> None:
    """Negative, empty or non-numeric readings raise and name the file."""
    (files / "sys/class/hwmon/hwmon4/curr1_input").write_text(text)
    with pytest.raises(SensorImplausible, match="curr1_input"):
        open_board("auto", files).rails()


def test_a_plain_machine_is_no_board(tmp_path: Path) -> None:
    """No device tree, or somebody else's: `NoBoard` says what was found."""
    with pytest.raises(NoBoard, match="not a Jetson"):
        open_board("auto", tmp_path)
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/compatible").write_bytes(b"raspberrypi,4-model-b\0brcm,bcm2711\0")
    with pytest.raises(NoBoard, match="raspberrypi"):
        open_board("auto", tmp_path)


def test_a_board_must_be_one_of_those_known() -> None:
    """A mistyped board is a usage error, not this machine."""
    with pytest.raises(ValueError, match="virtual:agx-orin"):
        open_board("virtual:agx")


def test_writes_follow_no_link_in_the_last_place(files: Path) -> None:
    """A knob replaced by a link to another file is not written through."""
    victim = files / "victim"
    victim.write_text("untouched")
    knob = files / "sys/devices/platform/bus@0/17000000.gpu/devfreq/17000000.gpu/max_freq"
    knob.unlink()
    knob.symlink_to(victim)
    with pytest.raises(KnobDenied) as refusal:
        SysfsTree(files).write("/sys/class/devfreq/17000000.gpu/max_freq", "612000000")
    assert refusal.value.code == errno.ELOOP
    assert victim.read_text() == "untouched"


def test_a_write_is_one_line_over_the_old_one(files: Path) -> None:
    """No write leaves a moment in which the knob is empty; what a longer value left behind is not read."""
    tree = SysfsTree(files)
    tree.write("/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "960000")
    assert read_int(tree, "/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq") == 960_000
    tree.write("/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "2201600")
    assert read_int(tree, "/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq") == 2_201_600


def test_writes_create_nothing(files: Path) -> None:
    """A knob that is not there stays away."""
    with pytest.raises(NodeMissing):
        SysfsTree(files).write("/sys/class/devfreq/17000000.gpu/no_such_file", "1")
    assert not (files / "sys/class/devfreq/17000000.gpu/no_such_file").exists()


def test_an_archive_carries_a_board(virtual: VirtualBoard, tmp_path: Path) -> None:
    """What is packed from one board unpacks to a root on which the same board is found."""
    root = unpack("\n".join(pack(virtual.tree)), tmp_path)
    copy = open_board("auto", root)
    assert copy.table == virtual.table
    assert copy.observe() == virtual.observe()
    assert copy.rails() == virtual.rails()


@pytest.mark.parametrize("path", ["relative/path", "/sys/../../etc/passwd"])
def test_an_archive_stays_below_its_folder(tmp_path: Path, path: str) -> None:
    """A path that leads out of the folder is refused."""
    with pytest.raises(ValueError, match="line 1"):
        unpack(f'{path} "text"', tmp_path)


def test_a_file_read_often_is_noticed_when_it_is_replaced_or_gone(files: Path) -> None:
    """Files read again stay open; one that was changed, replaced or removed reads as what is at its path now."""
    tree, path = SysfsTree(files), "/sys/class/thermal/thermal_zone0/temp"
    file = files / path.lstrip("/")
    assert {read_int(tree, path) for _ in range(4)} == {46_125}
    file.write_text("51000\n")
    assert read_int(tree, path) == 51_000
    (files / "new").write_text("52000\n")
    (files / "new").rename(file)
    assert [read_int(tree, path) for _ in range(3)] == [52_000] * 3
    file.unlink()
    with pytest.raises(NodeMissing):
        tree.read(path)
    file.write_text("53000\n")
    assert [read_int(tree, path) for _ in range(3)] == [53_000] * 3


def test_a_kernel_file_that_goes_away_is_noticed() -> None:
    """The kernel's own files stay open too; one whose owner has gone reads as missing, not as it last did."""
    tree = SysfsTree(Path("/"))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        path = f"/proc/{process.pid}/comm"
        deadline = time.monotonic() + 10
        while tree.read(path) != "cat" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert {tree.read(path) for _ in range(4)} == {"cat"}
    with pytest.raises(NodeMissing):
        tree.read(path)


def test_a_tree_lets_go_of_its_files(files: Path) -> None:
    """Reading a file any number of times holds one descriptor, and none once the tree is gone."""
    tree = SysfsTree(files)
    for _ in range(5):
        tree.read("/sys/class/thermal/thermal_zone0/temp")
    assert len(open_below(files)) == 1
    del tree
    assert open_below(files) == []


def open_below(folder: Path) -> list[str]:
    """The files that this process has open there."""
    links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    return [path for path in links if path.startswith(f"{folder}/")]


class BusyTree(SysfsTree):
    """Answers EBUSY to the first writes, or whatever else it is told."""

    def __init__(self, root: Path, times: int, code: int) -> None:
        super().__init__(root)
        self.times, self.code, self.tries = times, code, 0

    def write(self, path: str, text: str) -> None:
        self.tries += 1
        if self.tries <= self.times:
            raise KnobRefused(path, "busy", self.code)
        super().write(path, text)


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EAGAIN])
@pytest.mark.parametrize(("times", "tries"), [(0, 1), (1, 2), (2, 3), (3, 3), (99, 3)])
def test_a_busy_knob_is_tried_three_times_within_200_ms(
    files: Path, time: VirtualTime, code: int, times: int, tries: int
) -> None:
    """What is busy once or twice goes through; what stays busy is raised as it is, soon."""
    tree, started_s = BusyTree(files, times, code), time.now_s
    patient = Patient(tree, time.clock, time.sleep)
    if times < 3:
        patient.write(f"/{GPU}/max_freq", "612000000")
        assert read_int(patient, f"/{GPU}/max_freq") == 612_000_000
    else:
        with pytest.raises(KnobRefused) as refusal:
            patient.write(f"/{GPU}/max_freq", "612000000")
        assert refusal.value.code == code
    assert tree.tries == tries
    assert time.now_s - started_s <= 0.2


def test_what_is_refused_is_not_asked_again(files: Path, time: VirtualTime) -> None:
    """Only a busy kernel is worth a second try: EINVAL stays EINVAL."""
    tree = BusyTree(files, 1, errno.EINVAL)
    with pytest.raises(KnobRefused):
        Patient(tree, time.clock, time.sleep).write(f"/{GPU}/max_freq", "1")
    assert (tree.tries, time.now_s) == (1, 1000.0)
