# SPDX-License-Identifier: Apache-2.0
"""The kernel's manners on the virtual board: each is one that has misled control code on a real one."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from boards.devfreq import Gpu
from boards.errors import KnobDenied, KnobRefused, NodeMissing, SensorUnavailable
from boards.profile import read_profile
from boards.virtual import VirtualBoard
from boards.virtual_kernel import VirtualKernel

if TYPE_CHECKING:
    from .conftest import VirtualTime

GPU = "/sys/class/devfreq/17000000.gpu"
EMC = "/sys/kernel/debug/bpmp/debug/clk/emc"
CPU = "/sys/devices/system/cpu"


def test_devfreq_rounds_up_to_a_step(virtual: VirtualBoard) -> None:
    """A cap between two steps reads back as the next one up, without a word."""
    virtual.tree.write(f"{GPU}/max_freq", "600000001")
    assert virtual.tree.read(f"{GPU}/max_freq") == "612000000"


def test_devfreq_takes_an_inverted_range_and_the_upper_limit_wins(virtual: VirtualBoard) -> None:
    """Linux 5.15 refuses nothing: the range in force is what the upper limit allows."""
    virtual.tree.write(f"{GPU}/min_freq", "1020000000")
    virtual.tree.write(f"{GPU}/max_freq", "408000000")
    assert virtual.parts.gpu is not None
    assert virtual.parts.gpu.limits() == (408_000_000, 408_000_000)


def test_devfreq_rounds_to_khz_outwards(virtual: VirtualBoard) -> None:
    """Min is cut to kHz, max raised to kHz: 612000500 as a maximum is above the 612 MHz step, as a minimum on it."""
    virtual.tree.write(f"{GPU}/max_freq", "612000500")
    assert virtual.tree.read(f"{GPU}/max_freq") == "714000000"
    virtual.tree.write(f"{GPU}/min_freq", "612000500")
    assert virtual.tree.read(f"{GPU}/min_freq") == "612000000"


def test_devfreq_maximum_zero_is_no_limit(virtual: VirtualBoard) -> None:
    """Writing 0 to max_freq lifts the limit."""
    virtual.tree.write(f"{GPU}/max_freq", "408000000")
    virtual.tree.write(f"{GPU}/max_freq", "0")
    assert virtual.tree.read(f"{GPU}/max_freq") == "1300500000"


@pytest.mark.parametrize(
    ("asked", "granted"), [(1_701_500_000, 2_133_000_000), (665_600_000, 665_600_000), (1, 204_000_000)]
)
def test_emc_locks_at_four_rates_only(virtual: VirtualBoard, time: VirtualTime, asked: int, granted: int) -> None:
    """A locked rate is rounded up to the next that can be held."""
    virtual.tree.write(f"{EMC}/mrq_rate_locked", "1")
    virtual.tree.write(f"{EMC}/rate", str(asked))
    time.sleep(0.01)
    assert virtual.tree.read(f"{EMC}/rate") == str(granted)


def test_emc_refuses_in_silence(virtual: VirtualBoard, time: VirtualTime) -> None:
    """A write without the lock, or beyond the maximum, reports success and does nothing."""
    virtual.tree.write(f"{EMC}/rate", "204000000")
    virtual.tree.write(f"{EMC}/mrq_rate_locked", "1")
    virtual.tree.write(f"{EMC}/rate", "4266000000")
    time.sleep(0.01)
    assert virtual.tree.read(f"{EMC}/rate") == "3199000000"


def test_emc_unlocked_is_the_firmwares(virtual: VirtualBoard, time: VirtualTime) -> None:
    """When the lock goes, the rate goes back up."""
    virtual.tree.write(f"{EMC}/mrq_rate_locked", "1")
    virtual.tree.write(f"{EMC}/rate", "204000000")
    time.sleep(0.01)
    virtual.tree.write(f"{EMC}/mrq_rate_locked", "0")
    time.sleep(0.01)
    assert virtual.tree.read(f"{EMC}/rate") == "3199000000"


def test_the_table_file_lists_rates_that_cannot_be_held(virtual: VirtualBoard) -> None:
    """dvfs_table holds voltage points too; the board's table does not believe it."""
    listed = {int(line.split()[1]) for line in virtual.tree.read(f"{EMC}/dvfs_table").splitlines()}
    assert 1_600_000_000 in listed
    assert 1_600_000_000 not in virtual.table.emc_hz


@pytest.mark.parametrize("zone", ["cv0-thermal", "cv1-thermal", "cv2-thermal"])
def test_gated_zones_answer_eagain(virtual: VirtualBoard, zone: str) -> None:
    """An engine without power has no temperature: None, not 0 °C."""
    number = next(
        path.removesuffix("/type")
        for path in virtual.tree.glob("/sys/class/thermal/thermal_zone*/type")
        if virtual.tree.read(path) == zone
    )
    with pytest.raises(SensorUnavailable) as gated:
        virtual.tree.read(f"{number}/temp")
    assert gated.value.code == errno.EAGAIN
    assert virtual.thermals()[zone] is None


def test_an_offline_cluster_refuses_a_clock(virtual: VirtualBoard) -> None:
    """cpufreq answers EBUSY while no core of the policy is online, so cores come first."""
    for cpu in (8, 9, 10, 11):
        virtual.tree.write(f"{CPU}/cpu{cpu}/online", "0")
    with pytest.raises(KnobRefused) as refused:
        virtual.tree.write(f"{CPU}/cpufreq/policy8/scaling_max_freq", "960000")
    assert refused.value.code == errno.EBUSY


def test_cpu0_stays_online(virtual: VirtualBoard) -> None:
    """The boot core cannot be taken off, though it has the file."""
    with pytest.raises(KnobDenied):
        virtual.tree.write(f"{CPU}/cpu0/online", "0")
    assert virtual.tree.read(f"{CPU}/cpu0/online") == "1"


@pytest.mark.parametrize(
    ("path", "value", "settle_s", "read"),
    [
        (f"{EMC}/rate", "204000000", 0.008, f"{EMC}/rate"),
        (f"{GPU}/min_freq", "1020000000", 0.005, f"{GPU}/cur_freq"),
        (f"{CPU}/cpufreq/policy0/scaling_max_freq", "960000", 0.001, f"{CPU}/cpufreq/policy0/cpuinfo_cur_freq"),
    ],
)
def test_clocks_take_their_time(
    virtual: VirtualBoard, time: VirtualTime, path: str, value: str, settle_s: float, read: str
) -> None:
    """Before it has settled a clock still reads as before."""
    virtual.tree.write(f"{EMC}/mrq_rate_locked", "1")
    before = virtual.tree.read(read)
    virtual.tree.write(path, value)
    time.sleep(0.9 * settle_s)
    assert virtual.tree.read(read) == before
    time.sleep(0.2 * settle_s)
    assert virtual.tree.read(read) == value


def test_nonsense_is_einval(virtual: VirtualBoard) -> None:
    """A text that is no number is refused and changes nothing."""
    with pytest.raises(KnobRefused) as refused:
        virtual.tree.write(f"{GPU}/max_freq", "fast")
    assert refused.value.code == errno.EINVAL
    assert virtual.tree.read(f"{GPU}/max_freq") == "1300500000"


def test_files_that_are_not_there_or_read_only(virtual: VirtualBoard) -> None:
    """Missing files and forbidden writes are told apart."""
    with pytest.raises(NodeMissing):
        virtual.tree.read("/sys/class/devfreq/57000000.gpu/cur_freq")
    with pytest.raises(KnobDenied):
        virtual.tree.write(f"{GPU}/cur_freq", "306000000")


@pytest.mark.parametrize("before", [(1, 2), (1, 9), (5, 5), (8, 9)])
@pytest.mark.parametrize("after", [(1, 1), (1, 9), (4, 6), (9, 9), (2, 3)])
def test_a_range_is_moved_without_ever_being_inverted(
    time: VirtualTime, before: tuple[int, int], after: tuple[int, int]
) -> None:
    """Kernels before 5 refuse an inverted range, so the order of the two writes depends on the direction."""
    kernel = VirtualKernel(read_profile("tx2"), "4", time.clock)
    gpu = Gpu(kernel.tree, kernel.gpu.folder)
    for low, high in (before, after):
        asked = kernel.profile.gpu.hz[low], kernel.profile.gpu.hz[high]
        gpu.request(*asked)
        assert gpu.limits() == asked
