# SPDX-License-Identifier: Apache-2.0
"""The sensors of every virtual board: where each release shows them, what they say, and how they lie on request."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

import pytest

from boards.errors import NodeError, SensorImplausible
from boards.physics import Watts, idle_power_w
from boards.profile import JETPACKS, read_profile
from boards.virtual import NAMES, Load, VirtualBoard
from boards.virtual_faults import Faults, Sensor
from boards.virtual_kernel import VirtualKernel

if TYPE_CHECKING:
    from .conftest import VirtualTime

BOARDS = [(key, jetpack) for key, jetpacks in JETPACKS.items() for jetpack in jetpacks]
SHORT = sorted(name for name in NAMES if "@" not in name)
POWER = Watts(4.0, 8.0, 3.0, 5.0)


@pytest.fixture(params=BOARDS, ids=lambda board: "@".join(board))
def kernel(request: pytest.FixtureRequest, time: VirtualTime) -> VirtualKernel:
    key, jetpack = request.param
    return VirtualKernel(read_profile(key), jetpack, time.clock)


@pytest.fixture(params=SHORT)
def board(request: pytest.FixtureRequest, time: VirtualTime) -> VirtualBoard:
    return VirtualBoard(request.param, time.clock, time.sleep)


def readings(kernel: VirtualKernel) -> dict[str, float]:
    """Watts by label, read as the release shows them: iio with milliwatts, hwmon without, INA238 in microwatts."""
    tree, watts = kernel.tree, {}
    for label in tree.glob("/sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*"):
        folder, number = label.rsplit("/rail_name_", 1)
        watts[tree.read(label)] = int(tree.read(f"{folder}/in_power{number}_input")) / 1e3
    for label in tree.glob("/sys/class/hwmon/hwmon*/in[123]_label"):
        if tree.read(label) != "NC":
            volts = label.replace("_label", "_input")
            watts[tree.read(label)] = int(tree.read(volts)) * int(tree.read(volts.replace("/in", "/curr"))) / 1e6
    for path in tree.glob("/sys/class/hwmon/hwmon*/power1_input"):
        watts["VIN"] = int(tree.read(path)) / 1e6
    return watts


def means(kernel: VirtualKernel, windows: int) -> tuple[float, set[float]]:
    """Mean of the module's power over an even number of windows of the dither, and the values seen."""
    total, seen = 0.0, []
    for _ in range(windows):
        kernel.feed(POWER, 0.43, busy=True)
        seen.append(sum(readings(kernel)[label] for label in kernel.profile.rails.total))
        total += seen[-1]
    return total / windows, set(seen)


def test_every_label_is_there(kernel: VirtualKernel) -> None:
    """The rails are those of the board under every release; unwired channels are called NC."""
    labels = {channel.label for chip in kernel.profile.rails.chips for channel in chip.channels if channel.label}
    assert set(readings(kernel)) == labels


def test_iio_or_hwmon(kernel: VirtualKernel) -> None:
    """JetPack 4 has iio devices and no hwmon monitor, later ones the reverse, with the samples that NVIDIA sets."""
    iio = bool(kernel.tree.glob("/sys/bus/iio/devices/*/rail_name_0"))
    hwmon = {kernel.tree.read(path) for path in kernel.tree.glob("/sys/class/hwmon/hwmon*/name")}
    assert iio == (kernel.jetpack == "4")
    assert ("ina3221" in hwmon) == (kernel.jetpack != "4")
    assert ("ina238" in hwmon) == (kernel.profile.key == "agx_thor")
    for path in kernel.tree.glob("/sys/class/hwmon/hwmon*/update_interval"):
        assert kernel.tree.read(path) == ("430" if kernel.profile.key != "agx_thor" else "7")


def test_rails_are_right_on_average_and_never_still(kernel: VirtualKernel) -> None:
    """Constant power reads as that on average, to half a step per rail, and no two windows in a row read the same."""
    step_w = kernel.profile.rails.current_step_ma / 1000
    channels = [channel for chip in kernel.profile.rails.chips for channel in chip.channels]
    volts = sum(channel.millivolts / 1000 for channel in channels if channel.label in kernel.profile.rails.total)
    mean, seen = means(kernel, 6)
    assert mean == pytest.approx(POWER.total_w, abs=0.5 * step_w * volts + 0.002)
    assert len(seen) > 1


def test_a_sound_sensor_moves_within_two_seconds_and_a_frozen_one_does_not(
    board: VirtualBoard, time: VirtualTime
) -> None:
    """Under a steady load each monitor shows at least two values in 2 s; a frozen one shows one for ever."""
    for faults, moves in ((Faults(), True), (Faults(sensor="frozen"), False)):
        board.faults = faults
        time.sleep(1.0)
        board.run([Load("resnet", 0.05, 4)], 0.05)
        seen: dict[str, set[float]] = {label: set() for label in board.rails()}
        for _ in range(39):
            time.sleep(0.05)
            board.run([Load("resnet", 0.05, 4)], 0.05)
            for label, watts in board.rails().items():
                seen[label].add(watts)
        assert all((len(values) > 1) == moves for label, values in seen.items() if max(values) > 1)


@pytest.mark.parametrize("sensor", [kind for kind in get_args(Sensor) if kind not in ("sound", "frozen", "spike")])
def test_a_lie_is_no_power(board: VirtualBoard, sensor: Sensor) -> None:
    """Negative, zero, NaN and empty readings are refused on every board."""
    board.faults = Faults(sensor=sensor)
    with pytest.raises(SensorImplausible):
        board.power_w()


def test_a_spike_is_ten_times_the_truth(kernel: VirtualKernel) -> None:
    """The reading is whole and positive, and ten times too high."""
    kernel.feed(POWER, 1.0, busy=True)
    sound = readings(kernel)
    kernel.faults = Faults(sensor="spike")
    assert readings(kernel) == pytest.approx({label: 10 * watts for label, watts in sound.items()})


def test_zones_are_those_of_the_release(kernel: VirtualKernel) -> None:
    """Types by JetPack, engines without power answer EAGAIN, PMIC-Die 100 °C, the rest something warm."""
    for number, zone in enumerate(kernel.profile.thermal.zones[kernel.jetpack]):
        folder = f"/sys/class/thermal/thermal_zone{number}"
        assert kernel.tree.read(f"{folder}/type") == zone
        if zone in kernel.profile.thermal.gated or (zone == "gpu-thermal" and kernel.gpu.gated):
            with pytest.raises(NodeError) as gated:
                kernel.tree.read(f"{folder}/temp")
            assert gated.value.code == errno.EAGAIN
        else:
            celsius = int(kernel.tree.read(f"{folder}/temp")) / 1000
            assert celsius == 100 if zone == "PMIC-Die" else 25 < celsius < 100


def test_unreadable_temperatures(kernel: VirtualKernel) -> None:
    """With that fault every zone answers EIO, even the constant one."""
    kernel.faults = Faults(thermal="unreadable")
    for path in kernel.tree.glob("/sys/class/thermal/thermal_zone*/temp"):
        with pytest.raises(NodeError) as failure:
            kernel.tree.read(path)
        assert failure.value.code == errno.EIO


def test_over_current_counters_move_in_batches(kernel: VirtualKernel) -> None:
    """On Orin 15 events a second show as 30 every 2 s, and stay when the fault ends; other boards have no counters."""
    kernel.faults = Faults(over_current={"oc3": 15.0})
    counters = kernel.tree.glob("/sys/class/hwmon/hwmon*/oc3_event_cnt")
    assert bool(counters) == ("orin" in kernel.profile.key)
    seen = []
    for _ in range(72):
        kernel.feed(POWER, 0.0625, busy=False)
        seen += [int(kernel.tree.read(path)) for path in counters]
    kernel.faults = Faults()
    kernel.feed(POWER, 10.0, busy=False)
    assert sorted(set(seen)) == ([0, 30, 60] if counters else [])
    assert [int(kernel.tree.read(path)) for path in counters] in ([], [68])
    assert all(kernel.tree.read(path.replace("oc3", "oc1")) == "0" for path in counters)


def test_a_throttled_gpu_shows(board: VirtualBoard) -> None:
    """It runs at its lowest step, slows batches down, and the board's alert is up where one is known."""
    board.request(board.table.maximum())
    board.run([Load("bert", 0.05, 8)], 0.05)
    board.faults = Faults(throttled=True)
    assert board.kernel.point().gpu_hz == board.kernel.profile.gpu.hz[0]
    assert board.slowdowns("bert", (8,))[0] > 1.3
    known = "gpu-throttle-alert" in board.kernel.profile.thermal.alerts
    assert board.throttle().alerts == (("gpu-throttle-alert",) if known else ())
    assert board.observe().gpu_hz != board.table.gpu_hz[-1] or board.observe().gpu_min_hz != board.table.gpu_hz[-1]


def test_only_the_measured_board_is_called_measured(board: VirtualBoard) -> None:
    """Every other board's power and slow-down are assumed, and say so."""
    assert (board.physics == "measured") == (board.kernel.profile.key == "agx_orin_64gb")


def test_assumed_physics_follow_the_measured_board(board: VirtualBoard) -> None:
    """At maximum clocks nothing slows down; idle power there is the AGX Orin's, by the modules' classes."""
    point = board.kernel.profile.maximum()
    share = board.kernel.profile.class_w / 60
    orin = board.kernel.physics.as_orin(point)
    assert board.kernel.physics.idle(point).total_w == pytest.approx(share * idle_power_w(orin))
    board.request(board.table.maximum())
    assert board.slowdowns("bert", (1, 8)) == (1, 1)
    halved = board.kernel.physics.as_orin(type(point)(gpu_hz=point.gpu_hz // 2 if point.gpu_hz else None))
    assert halved.gpu_hz == pytest.approx(650_250_000, rel=1e-6)


def test_load_raises_power_on_every_board(board: VirtualBoard, time: VirtualTime) -> None:
    """A busy board draws more than an idle one, to a plausible share of its class."""
    board.request(board.table.maximum())
    powers: list[float] = []
    for busy_s in (0.0, 0.05):
        for _ in range(20):
            time.sleep(0.05)
            board.run([Load("resnet", busy_s, 16)], 0.05)
        powers.append(board.power_w())
    assert powers[0] < powers[1] < 1.2 * board.kernel.profile.class_w


def test_the_build_of_a_kernel_reads_no_clock_of_its_own() -> None:
    """Time comes from outside: two kernels with the same clock say the same."""
    now: Callable[[], float] = lambda: 5.0  # noqa: E731
    first, second = (VirtualKernel(read_profile("tx2"), "4", now) for _ in range(2))
    assert [first.tree.read(path) for path in first.paths()] == [second.tree.read(path) for path in second.paths()]
