# SPDX-License-Identifier: Apache-2.0
"""The manners of every kernel, on every profile: what control code meets from JetPack 4 to 7."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from boards.errors import KnobDenied, KnobRefused, NodeError, NodeMissing
from boards.profile import JETPACKS, read_profile
from boards.virtual_cpu import FOLDER as CPU
from boards.virtual_emc import FOLDER as EMC
from boards.virtual_kernel import VirtualKernel

if TYPE_CHECKING:
    from .conftest import VirtualTime

Build = Callable[[str, str], VirtualKernel]
BOARDS = [(key, jetpack) for key, jetpacks in JETPACKS.items() for jetpack in jetpacks]
OLD = [board for board in BOARDS if board[1] == "4"]
LATER = [board for board in BOARDS if board[1] != "4"]
ORINS = [board for board in BOARDS if "orin" in board[0]]


def over(boards: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("key", "jetpack"), boards, ids=["@".join(board) for board in boards])


@pytest.fixture
def build(time: VirtualTime) -> Build:
    return lambda key, jetpack: VirtualKernel(read_profile(key), jetpack, time.clock)


def limits(kernel: VirtualKernel) -> tuple[int, int]:
    """The GPU's lower and upper limit as they read."""
    return int(kernel.tree.read(f"{kernel.gpu.folder}/min_freq")), int(
        kernel.tree.read(f"{kernel.gpu.folder}/max_freq")
    )


def code_of(call: Callable[[], object]) -> int:
    """The errno that a call fails with."""
    with pytest.raises(NodeError) as failure:
        call()
    return failure.value.code


@over(BOARDS)
def test_a_board_starts_with_everything_open(build: Build, key: str, jetpack: str) -> None:
    """At rest: every core online, full ranges but for the kernel's own lower limits, memory unlocked and uncapped."""
    kernel = build(key, jetpack)
    profile = kernel.profile
    assert limits(kernel) == (profile.gpu.min_hz, profile.gpu.hz[-1])
    assert kernel.tree.read(f"{EMC}/mrq_rate_locked") == "0"
    assert int(kernel.tree.read(f"{EMC}/rate")) == profile.emc.lockable_hz[-1]
    for policy in profile.cpu.policies:
        folder = f"{CPU}/cpufreq/policy{policy[0]}"
        assert int(kernel.tree.read(f"{folder}/scaling_min_freq")) == profile.cpu.min_hz // 1000
        assert int(kernel.tree.read(f"{folder}/scaling_max_freq")) == profile.cpu.hz[-1] // 1000
        assert kernel.tree.read(f"{folder}/related_cpus").split() == [str(cpu) for cpu in policy]
    assert kernel.tree.read(f"{CPU}/online") == f"0-{sum(map(len, profile.cpu.policies)) - 1}"


@over(BOARDS)
def test_a_kernel_is_of_a_jetpack_that_the_board_is_known_under(build: Build, key: str, jetpack: str) -> None:
    """No board is made up for a release that nobody has seen it under."""
    assert build(key, jetpack).jetpack == jetpack
    with pytest.raises(ValueError, match="is known under"):
        build(key, "3")


@over(OLD)
def test_old_devfreq_refuses_a_crossed_range(build: Build, key: str, jetpack: str) -> None:
    """Linux 4.9: a minimum above the maximum, or the reverse, is EINVAL and changes nothing."""
    kernel = build(key, jetpack)
    low, middle, high = kernel.profile.gpu.hz[0], kernel.profile.gpu.hz[4], kernel.profile.gpu.hz[-1]
    kernel.tree.write(f"{kernel.gpu.folder}/max_freq", str(middle))
    assert code_of(lambda: kernel.tree.write(f"{kernel.gpu.folder}/min_freq", str(high))) == errno.EINVAL
    kernel.tree.write(f"{kernel.gpu.folder}/min_freq", str(middle))
    assert code_of(lambda: kernel.tree.write(f"{kernel.gpu.folder}/max_freq", str(low))) == errno.EINVAL
    assert limits(kernel) == (middle, middle)


@over(LATER)
def test_later_devfreq_takes_a_crossed_range(build: Build, key: str, jetpack: str) -> None:
    """Linux 5.x: nothing is refused and the upper limit wins; the lower one is back when that goes up again."""
    kernel = build(key, jetpack)
    low, middle, high = kernel.profile.gpu.hz[1], kernel.profile.gpu.hz[-2], kernel.profile.gpu.hz[-1]
    kernel.tree.write(f"{kernel.gpu.folder}/min_freq", str(middle))
    kernel.tree.write(f"{kernel.gpu.folder}/max_freq", str(low))
    assert limits(kernel) == (low, low)
    kernel.tree.write(f"{kernel.gpu.folder}/max_freq", "0")
    assert limits(kernel) == (middle, high)


@over(BOARDS)
def test_a_limit_between_steps_reads_as_the_step_above(build: Build, key: str, jetpack: str) -> None:
    """nvpmodel's caps of 520, 670, 900 and 1120 MHz read back as 522.75, 675.75, 905.25 and 1134.75."""
    kernel = build(key, jetpack)
    lower, upper = kernel.profile.gpu.hz[1:3]
    kernel.tree.write(f"{kernel.gpu.folder}/max_freq", str(lower + 1_000_000))
    assert limits(kernel)[1] == upper


@over(BOARDS)
def test_nvpmodels_no_limit_is_the_top(build: Build, key: str, jetpack: str) -> None:
    """It writes 9223372036854775807, which no table has."""
    kernel = build(key, jetpack)
    kernel.tree.write(f"{kernel.gpu.folder}/max_freq", str(2**63 - 1))
    assert limits(kernel)[1] == kernel.profile.gpu.hz[-1]


@over(BOARDS)
def test_the_gpu_has_its_node_under_its_own_name(build: Build, key: str, jetpack: str) -> None:
    """Class link, device and of_node are those of the release; Thor's GPU is a PCI device without a node."""
    kernel = build(key, jetpack)
    names = {
        kernel.tree.read(path)
        for path in kernel.tree.glob("/sys/class/devfreq/*/device/of_node/name")
        if kernel.tree.exists(path)
    }
    expected = {"tx2": {"gp10b"}, "xavier_nx": {"gv11b"}, "agx_xavier": {"gv11b"}, "agx_thor": set()}
    assert names == expected.get(key, {"ga10b"} if jetpack == "5" else {"gpu"})
    assert kernel.tree.exists(f"{kernel.gpu.folder.rsplit('/devfreq', 1)[0]}/enable_3d_scaling") == (jetpack in "456")


def test_an_idle_thor_gpu_has_no_power(build: Build) -> None:
    """Gated, it reads 0 Hz and its zone answers EAGAIN; its limits stay."""
    kernel = build("agx_thor", "7")
    zone = next(
        path for path in kernel.tree.glob("/sys/class/thermal/*/type") if kernel.tree.read(path) == "gpu-thermal"
    )
    temperature = zone.replace("type", "temp")
    assert kernel.tree.read("/sys/class/devfreq/gpu-gpc-0/cur_freq") == "0"
    assert code_of(lambda: kernel.tree.read(temperature)) == errno.EAGAIN
    assert limits(kernel) == (315_000_000, 1_575_000_000)
    kernel.feed(kernel.physics.idle(kernel.point()), 0.1, busy=True)
    assert kernel.tree.read("/sys/class/devfreq/gpu-gpc-0/cur_freq") == "1575000000"
    assert int(kernel.tree.read(temperature)) > 25_000


@over(ORINS)
def test_orin_locks_memory_at_four_rates(build: Build, time: VirtualTime, key: str, jetpack: str) -> None:
    """Probed: 204, 665.6, 2133 and 3199 MHz; anything else becomes the next one up."""
    kernel = build(key, jetpack)
    kernel.tree.write(f"{EMC}/mrq_rate_locked", "1")
    for asked, granted in ((1_701_500_000, 2_133_000_000), (3_000_000_000, 3_199_000_000), (1, 204_000_000)):
        kernel.tree.write(f"{EMC}/rate", str(asked))
        time.sleep(0.01)
        assert int(kernel.tree.read(f"{EMC}/rate")) == granted


@over(BOARDS)
def test_memory_refuses_in_silence(build: Build, time: VirtualTime, key: str, jetpack: str) -> None:
    """Without the lock, or out of range, a write succeeds and does nothing."""
    kernel = build(key, jetpack)
    top = kernel.profile.emc.lockable_hz[-1]
    kernel.tree.write(f"{EMC}/rate", str(kernel.profile.emc.lockable_hz[0]))
    kernel.tree.write(f"{EMC}/mrq_rate_locked", "1")
    kernel.tree.write(f"{EMC}/rate", str(2 * top))
    time.sleep(0.01)
    assert int(kernel.tree.read(f"{EMC}/rate")) == top


def test_thor_holds_no_rate_unless_its_bandwidth_manager_is_halted(build: Build, time: VirtualTime) -> None:
    """With bwmgr_halt 1 the lock holds; when that goes, the firmware has the rate again."""
    kernel = build("agx_thor", "7")
    halt = kernel.profile.emc.bwmgr_halt or ""
    kernel.tree.write(f"{EMC}/mrq_rate_locked", "1")
    rates = []
    for halted in ("0", "1", "0"):
        kernel.tree.write(halt, halted)
        kernel.tree.write(f"{EMC}/rate", "665600000")
        time.sleep(0.01)
        rates.append(int(kernel.tree.read("/sys/class/devfreq/bwmgr/cur_freq")))
    assert rates == [4_266_000_000, 665_600_000, 4_266_000_000]


@over(BOARDS)
def test_the_cap_reads_as_its_driver_shows_it(build: Build, time: VirtualTime, key: str, jetpack: str) -> None:
    """JetPack 4 and 5 read back what was written, 0 for none; 6 and 7 the rate in effect. Both bound the lock."""
    kernel = build(key, jetpack)
    cap, rates = kernel.profile.emc.caps[jetpack], kernel.profile.emc.lockable_hz
    raw = jetpack in "45"
    assert int(kernel.tree.read(cap)) == (0 if raw else rates[-1])
    kernel.tree.write(cap, str(rates[-2] - 1_000_000))
    assert int(kernel.tree.read(cap)) == rates[-2] - (1_000_000 if raw else 0)
    kernel.tree.write(f"{EMC}/mrq_rate_locked", "1")
    kernel.tree.write(f"{EMC}/rate", str(rates[-1]))
    time.sleep(0.01)
    assert int(kernel.tree.read(f"{EMC}/rate")) == rates[-2]
    kernel.tree.write(cap, "0" if raw else str(2**63 - 1))
    assert int(kernel.tree.read(cap)) == (0 if raw else rates[-1])


def test_the_table_file_is_that_of_the_board(build: Build) -> None:
    """Orin has dvfs_table with voltage points that cannot be locked, Thor has dvfs, TX2 and Xavier have none."""
    listed = {int(line.split()[1]) for line in build("agx_orin_64gb", "6").tree.read(f"{EMC}/dvfs_table").splitlines()}
    assert listed > set(read_profile("agx_orin_64gb").emc.lockable_hz)
    assert build("agx_thor", "7").tree.exists(f"{EMC}/dvfs")
    assert not build("tx2", "4").tree.glob(f"{EMC}/dvfs*")


@over(BOARDS)
def test_crossed_cpu_limits(build: Build, key: str, jetpack: str) -> None:
    """Linux 4.9 answers EINVAL and keeps both; later ones let the upper limit win and remember the lower one."""
    kernel = build(key, jetpack)
    folder, steps = f"{CPU}/cpufreq/policy0", [hz // 1000 for hz in kernel.profile.cpu.hz]
    kernel.tree.write(f"{folder}/scaling_min_freq", str(steps[5]))
    if jetpack == "4":
        assert code_of(lambda: kernel.tree.write(f"{folder}/scaling_max_freq", str(steps[2]))) == errno.EINVAL
        kernel.tree.write(f"{folder}/scaling_max_freq", str(steps[5]))
        assert code_of(lambda: kernel.tree.write(f"{folder}/scaling_min_freq", str(steps[6]))) == errno.EINVAL
    else:
        kernel.tree.write(f"{folder}/scaling_max_freq", str(steps[2]))
        assert int(kernel.tree.read(f"{folder}/scaling_min_freq")) == steps[2]
    kernel.tree.write(f"{folder}/scaling_max_freq", str(steps[-1]))
    assert int(kernel.tree.read(f"{folder}/scaling_min_freq")) == steps[5]


@over(BOARDS)
def test_a_cpu_limit_between_steps_stays_and_runs_below(
    build: Build, time: VirtualTime, key: str, jetpack: str
) -> None:
    """cpufreq keeps a limit as written, within the hardware's range; the clock is the highest step it allows."""
    kernel = build(key, jetpack)
    folder, steps = f"{CPU}/cpufreq/policy0", [hz // 1000 for hz in kernel.profile.cpu.hz]
    kernel.tree.write(f"{folder}/scaling_min_freq", "0")
    kernel.tree.write(f"{folder}/scaling_max_freq", str(steps[3] + 1))
    time.sleep(0.01)
    assert [kernel.tree.read(f"{folder}/{name}_freq") for name in ("scaling_min", "scaling_max", "cpuinfo_cur")] == [
        str(steps[0]),
        str(steps[3] + 1),
        str(steps[3]),
    ]


@over(BOARDS)
def test_the_steps_are_listed_but_on_thor(build: Build, key: str, jetpack: str) -> None:
    """Thor's kernel lists no CPU steps, only the ends of the range."""
    kernel = build(key, jetpack)
    folder = f"{CPU}/cpufreq/policy0"
    assert kernel.tree.exists(f"{folder}/scaling_available_frequencies") == (key != "agx_thor")
    assert int(kernel.tree.read(f"{folder}/cpuinfo_max_freq")) == kernel.profile.cpu.hz[-1] // 1000


def test_the_clusters_of_tx2_interleave(build: Build) -> None:
    """policy0 has A57 cores 0, 3, 4, 5, policy1 the Denver cores 1 and 2; offline ones leave holes in the list."""
    kernel = build("tx2", "4")
    assert kernel.tree.read(f"{CPU}/cpufreq/policy0/related_cpus") == "0 3 4 5"
    assert kernel.tree.read(f"{CPU}/cpufreq/policy1/related_cpus") == "1 2"
    for cpu in (1, 2, 4):
        kernel.tree.write(f"{CPU}/cpu{cpu}/online", "0")
    assert kernel.tree.read(f"{CPU}/online") == "0,3,5"
    assert code_of(lambda: kernel.tree.write(f"{CPU}/cpufreq/policy1/scaling_max_freq", "960000")) == errno.EBUSY
    assert code_of(lambda: kernel.tree.read(f"{CPU}/cpufreq/policy1/cpuinfo_cur_freq")) == errno.EBUSY
    assert kernel.point().cores == 3


@over(BOARDS)
def test_the_boot_core_stays(build: Build, key: str, jetpack: str) -> None:
    """cpu0 has the file and refuses; any other goes."""
    kernel = build(key, jetpack)
    with pytest.raises(KnobDenied):
        kernel.tree.write(f"{CPU}/cpu0/online", "0")
    kernel.tree.write(f"{CPU}/cpu1/online", "0")
    assert "1" not in kernel.tree.read(f"{CPU}/online").split(",")[0].split("-")


@over(BOARDS)
def test_power_modes_are_applied(build: Build, time: VirtualTime, key: str, jetpack: str) -> None:
    """Each mode of nvpmodel can be written and leaves its cores, limits and cap; the last one undoes the first."""
    kernel = build(key, jetpack)
    for mode in (*kernel.profile.modes, kernel.profile.modes[0]):
        kernel.apply_mode(mode.number)
        time.sleep(0.01)
        point = kernel.point()
        assert point.cores == len(mode.cores)
        asked = mode.gpu_max_hz if mode.gpu_max_hz > 0 else kernel.profile.gpu.hz[-1]
        assert point.gpu_hz == next(hz for hz in kernel.profile.gpu.hz if hz >= asked)
        top = mode.cpu_max_hz if mode.cpu_max_hz > 0 else kernel.profile.cpu.hz[-1]
        assert point.cpu_hz == max(hz for hz in kernel.profile.cpu.hz if hz <= top)
        rates = kernel.profile.emc.lockable_hz
        assert point.emc_hz == (next(hz for hz in rates if hz >= mode.emc_cap_hz) if mode.emc_cap_hz else rates[-1])


def test_a_mode_that_the_board_lacks(build: Build) -> None:
    """No mode is made up."""
    with pytest.raises(KeyError):
        build("agx_thor", "7").apply_mode(1)


@pytest.mark.parametrize("text", ["", "fast", "1.5", "0x10"])
@over([("tx2", "4"), ("agx_orin_64gb", "6")])
def test_nonsense_is_einval_everywhere(build: Build, key: str, jetpack: str, text: str) -> None:
    """A text that is no number is refused by every knob and changes nothing."""
    kernel = build(key, jetpack)
    knobs = [f"{kernel.gpu.folder}/min_freq", f"{EMC}/rate", f"{EMC}/mrq_rate_locked", f"{CPU}/cpu1/online"]
    before = kernel.point()
    for knob in (*knobs, f"{CPU}/cpufreq/policy0/scaling_max_freq"):
        with pytest.raises(KnobRefused) as refused:
            kernel.tree.write(knob, text)
        assert refused.value.code == errno.EINVAL
    assert kernel.point() == before


def test_links_lead_to_the_same_files(build: Build) -> None:
    """A GPU has many names; a folder is no file, and a file that is not there has none."""
    kernel = build("agx_xavier", "4")
    kernel.tree.write("/sys/devices/gpu.0/devfreq_dev/max_freq", "675750000")
    assert kernel.tree.read("/sys/class/devfreq/17000000.gv11b/max_freq") == "675750000"
    assert code_of(lambda: kernel.tree.read("/sys/devices/gpu.0")) == errno.EISDIR
    with pytest.raises(NodeMissing):
        kernel.tree.read("/sys/devices/gpu.1/load")
