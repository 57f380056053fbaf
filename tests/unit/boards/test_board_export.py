# SPDX-License-Identifier: Apache-2.0
"""Exported boards: a folder of plain files and links in which this project and other tools find the board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from boards.archive import export, pack, unpack
from boards.profile import JETPACKS, read_profile
from boards.tree import SysfsTree
from boards.virtual_faults import Faults
from boards.virtual_kernel import VirtualKernel
from boards.virtual_tree import VirtualTree
from governor.cli import main

if TYPE_CHECKING:
    from .conftest import VirtualTime

BOARDS = [(key, jetpack) for key, jetpacks in JETPACKS.items() for jetpack in jetpacks]
ONE_OF_EACH_JETPACK = [("tx2", "4"), ("xavier_nx", "5"), ("agx_orin_64gb", "6"), ("agx_thor", "7")]


@pytest.fixture(params=BOARDS, ids=lambda board: "@".join(board))
def kernel(request: pytest.FixtureRequest, time: VirtualTime) -> VirtualKernel:
    key, jetpack = request.param
    return VirtualKernel(read_profile(key), jetpack, time.clock)


def contents(root: Path) -> dict[str, str]:
    """Every file and link below a folder."""
    return {
        str(path.relative_to(root)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_everything_readable_is_written(kernel: VirtualKernel, tmp_path: Path) -> None:
    """Each file is there with its text, each link leads somewhere; what cannot be read now is named and left out."""
    unreadable = export(kernel.tree, tmp_path)
    exported = SysfsTree(tmp_path)
    for path in kernel.paths():
        if path in unreadable:
            assert not exported.exists(path)
        else:
            assert exported.read(path) == kernel.tree.read(path)
    for link in kernel.tree.links:
        assert (tmp_path / link.lstrip("/")).is_symlink()
        assert exported.exists(link)
    gated = {zone for zone in kernel.profile.thermal.zones[kernel.jetpack] if zone in kernel.profile.thermal.gated}
    assert len([path for path in unreadable if path.startswith("/sys/class/thermal")]) == len(gated) + kernel.gpu.gated


def test_the_shape_that_other_tools_look_for(kernel: VirtualKernel, tmp_path: Path) -> None:
    """GPU by class link and device-tree node, policies, debugfs, monitors by bus and driver under iio or hwmon."""
    export(kernel.tree, tmp_path)
    layout = kernel.profile.gpu.layouts[kernel.jetpack]
    link = tmp_path / "sys/class/devfreq" / layout.name
    assert link.is_symlink()
    assert (link / "device").resolve() == tmp_path / layout.device.lstrip("/")
    if layout.of_node:
        assert (link / "device/of_node/name").read_text() == f"{layout.of_node}\0"
        assert (link / "device/load").is_file()
    for policy in kernel.profile.cpu.policies:
        assert (tmp_path / f"sys/devices/system/cpu/cpufreq/policy{policy[0]}/related_cpus").is_file()
    assert (tmp_path / "sys/kernel/debug/bpmp/debug/clk/emc/mrq_rate_locked").read_text() == "0\n"
    driver, chips = ("ina3221x", "iio:device*") if kernel.jetpack == "4" else ("ina3221", "hwmon/hwmon*")
    for chip in kernel.profile.rails.chips:
        by_bus = tmp_path / "sys/bus/i2c/devices" / chip.address
        assert (by_bus / "name").is_file()
        assert len(list(by_bus.glob(chips))) == 1
        if chip.kind == "ina3221":
            assert (tmp_path / "sys/bus/i2c/drivers" / driver / chip.address).resolve() == by_bus.resolve()


@pytest.mark.parametrize("kernel", ONE_OF_EACH_JETPACK, indirect=True, ids="@".join)
def test_text_and_folder_are_the_same_board(kernel: VirtualKernel, tmp_path: Path) -> None:
    """What is packed as a text unpacks to what is exported as a folder, and an export exports itself."""
    export(kernel.tree, tmp_path / "folder")
    unpack("\n".join(pack(kernel.tree)), tmp_path / "text")
    export(SysfsTree(tmp_path / "folder"), tmp_path / "again")
    assert contents(tmp_path / "folder") == contents(tmp_path / "text") == contents(tmp_path / "again")


def test_a_part_that_is_missing_is_left_out(tmp_path: Path, time: VirtualTime) -> None:
    """The files of a driver that has gone are not exported."""
    kernel = VirtualKernel(read_profile("tx2"), "4", time.clock)
    kernel.faults = Faults(missing=frozenset({"emc_hz"}))
    export(kernel.tree, tmp_path)
    assert not (tmp_path / "sys/kernel/debug/bpmp").exists()
    assert (tmp_path / "sys/class/devfreq/17000000.gp10b/cur_freq").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    """Nothing is written into a folder that holds anything."""
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        export(VirtualTree({}), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "lines", [["/sys/link -> /etc"], ["/sys/link -> ../../x"], ["/a/b/c -> ../../d", "/d/e -> ../..", "/a/b/c/x -> .."]]
)
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, lines: list[str]) -> None:
    """An archive from somebody else writes nothing outside, not even through links."""
    with pytest.raises(ValueError, match="leads out"):
        unpack("\n".join(lines), tmp_path / "root")


def test_teg_board_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`teg board export` writes a virtual board, or the files below a root; what was not readable goes to stderr."""
    assert main(["board", "export", str(tmp_path / "a"), "--board", "virtual:orin-nano"]) == 0
    assert "thermal_zone2/temp" in capsys.readouterr().err
    assert main(["board", "export", str(tmp_path / "b"), "--root", str(tmp_path / "a")]) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_teg_board_export_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A board that there is not, or a folder in use, is a usage error in words."""
    assert main(["board", "export", str(tmp_path / "a"), "--board", "virtual:tx3"]) == 2
    assert "virtual:tx2" in capsys.readouterr().err
    (tmp_path / "mine").write_text("mine")
    assert main(["board", "export", str(tmp_path)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
