# SPDX-License-Identifier: Apache-2.0
"""The virtual GPU: its load, its assumed physics and its faults; and a machine without NVML."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from boards.clocks import ClockPoint
from boards.discover import open_board
from boards.errors import KnobDenied, KnobRefused, NodeMissing, SensorImplausible, SensorUnavailable
from boards.nvml_calls import Reason
from boards.nvml_clocks import Seen, alerts, observed
from boards.virtual import Load
from boards.virtual_faults import Faults
from boards.virtual_nvml import VirtualNvmlBoard

ROOT = Path(__file__).resolve().parents[3]
LOW, HIGH = 600_000_000, 1_200_000_000


class Time:
    """Seconds that pass only when somebody sleeps."""

    now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def gpu(time: Time | None = None) -> VirtualNvmlBoard:
    """The virtual GPU in virtual time."""
    time = time or Time()
    return VirtualNvmlBoard(lambda: time.now_s, time.sleep)


def work(board: VirtualNvmlBoard, seconds: float = 1.0) -> None:
    """Keep the GPU busy with bert."""
    board.run([Load("bert", seconds, 16)], seconds)


@pytest.mark.parametrize(
    ("graphics_hz", "idle", "limits"),
    [
        (900_000_000, False, (HIGH, LOW)),
        (210_000_000, True, (HIGH, LOW)),
        (300_000_000, False, (HIGH, 300_000_000)),
        (1_500_000_000, False, (1_500_000_000, LOW)),
        (1_500_000_000, True, (1_500_000_000, LOW)),
        (None, False, (HIGH, LOW)),
    ],
)
def test_a_clock_tells_whether_its_lock_holds(graphics_hz: int | None, idle: bool, limits: tuple[int, int]) -> None:
    """Within the range, or below it at rest: held. Above it, or below it at work: the clock itself is reported."""
    point = observed((LOW, HIGH), None, Seen(graphics_hz, 405_000_000, idle))
    assert (point.gpu_hz, point.gpu_min_hz) == limits


def test_only_what_needs_somebody_is_an_alert() -> None:
    """Heat, the power brake and hardware slow-downs are alerts; idleness and the power limit at work are none."""
    assert alerts(Reason.GPU_IDLE | Reason.SW_POWER_CAP) == ()
    assert alerts(Reason.SW_THERMAL_SLOWDOWN | Reason.HW_POWER_BRAKE) == ("sw-thermal-slowdown", "power-brake")


def test_it_says_that_its_figures_are_assumed() -> None:
    """A board by the name of `virtual:nvml` is virtual, and says that nothing of it was measured."""
    board = open_board("virtual:nvml")
    assert (board.name, board.virtual) == ("virtual:nvml", True)
    assert any("assumed" in note for note in board.notes)


def test_work_takes_power_time_and_energy() -> None:
    """Busy power is above idle power; the counter is the sum of both over time; what is reported early waits."""
    board = gpu()
    idle = board.run([], 2.0).total_w
    assert board.power_w() == pytest.approx(idle, abs=0.001)
    busy = board.run([Load("bert", 3.0, 16)], 1.0).total_w
    assert busy > 3 * idle
    assert board.backlog_s == pytest.approx(2.0)
    assert board.energy_j() == pytest.approx(2 * idle + busy, abs=0.01)
    board.run([], 4.0)
    assert board.backlog_s == 0
    assert board.power_w() == pytest.approx((busy * 2 + idle * 2) / 4, abs=0.01)


def test_lower_clocks_draw_less_and_take_longer() -> None:
    """Each knob trades power for time, as on the boards whose surfaces it borrows."""
    for point in (ClockPoint(gpu_hz=LOW), ClockPoint(emc_hz=5_001_000_000)):
        board = gpu()
        work(board)
        before_w, before = board.power_w(), board.slowdowns("bert", (1, 16))
        board.request(point)
        work(board)
        assert board.power_w() < before_w
        assert all(after > slow for after, slow in zip(board.slowdowns("bert", (1, 16)), before, strict=True))


def test_the_power_limit_lowers_the_clock() -> None:
    """Under a low limit a busy GPU runs slower, within the limit, and the board notes why."""
    board = gpu()
    board.request_power_limit(150)
    work(board)
    assert board.power_w() <= 150
    assert (board.observe().gpu_hz or 0) < board.table.gpu_hz[-1]
    assert board.throttle().alerts == ()
    assert any("power cap" in note for note in board.notes)
    board.restore({"nvml.power_limit_mw": 300_000})
    work(board)
    assert board.power_w() > 150


def test_ignored_locks_show_under_load() -> None:
    """A lock that does nothing cannot be told while the GPU rests, and is as soon as it works."""
    board = gpu()
    board.faults = Faults(ignored=frozenset({"gpu_hz", "emc_hz"}))
    applied = board.request(ClockPoint(gpu_hz=LOW, emc_hz=5_001_000_000))
    assert applied.honoured
    work(board)
    assert (board.observe().gpu_hz or 0) > HIGH
    assert board.observe().emc_hz == 7_001_000_000
    assert not board.request(ClockPoint(gpu_hz=LOW)).honoured


@pytest.mark.parametrize(
    ("faults", "kind", "code"),
    [
        (Faults(denied=frozenset({"gpu_hz"})), KnobDenied, errno.EPERM),
        (Faults(busy=frozenset({"gpu_hz"})), KnobRefused, errno.EBUSY),
        (Faults(missing=frozenset({"gpu_hz"})), NodeMissing, errno.ENODEV),
    ],
)
def test_a_refused_lock_is_an_error_with_its_knob(faults: Faults, kind: type[Exception], code: int) -> None:
    """Not allowed, in use, or gone: the error says which, and which knob."""
    board = gpu()
    board.faults = faults
    with pytest.raises(kind) as refused:
        board.request(ClockPoint(gpu_hz=LOW))
    assert (refused.value.code, refused.value.knob) == (code, "gpu_hz")  # type: ignore[attr-defined]


def test_a_setter_that_is_busy_is_tried_three_times() -> None:
    """Two refusals as busy cost a pause each, no error; the whole takes no more than 200 ms."""
    time = Time()
    board = gpu(time)
    work(board)
    board.faults = Faults(busy=frozenset({"gpu_hz"}), busy_times=2)
    started = time.now_s
    assert board.request(ClockPoint(gpu_hz=LOW)).honoured
    assert 0.1 <= time.now_s - started <= 0.2


def test_sensors_that_lie_give_no_reading() -> None:
    """No data and 0 W raise; a frozen sensor repeats itself; a thermometer without a reading is None."""
    board = gpu()
    for sensor, kind in (("empty", SensorUnavailable), ("zero", SensorImplausible)):
        board.faults = Faults(sensor=sensor)  # type: ignore[arg-type]
        with pytest.raises(kind):
            board.power_w()
    board.faults = Faults(thermal="unreadable")
    assert board.thermals() == {"gpu": None, "memory": None}
    idle_w = board.power_w()
    board.faults = Faults(sensor="frozen")
    work(board)
    assert board.power_w() == idle_w


def test_heat_takes_the_clock_and_raises_an_alert() -> None:
    """Throttled, the GPU runs at its lowest clock: a lower limit is seen not to hold, and alerts are up."""
    board = gpu()
    board.request(ClockPoint(gpu_hz=HIGH, gpu_min_hz=LOW))
    board.faults = Faults(throttled=True)
    work(board)
    assert board.observe().gpu_min_hz == 210_000_000
    assert board.throttle().alerts == ("hw-slowdown", "hw-thermal-slowdown")


def test_a_reloaded_driver_is_opened_anew() -> None:
    """While the driver is reloaded the GPU is lost; afterwards `rescan` finds it, though the old handle is void."""
    board = gpu()
    board.faults = Faults(missing=frozenset({"gpu_hz"}))
    assert board.observe() == ClockPoint()
    board.kernel.reload()
    board.faults = Faults()
    board.rescan()
    assert board.request(ClockPoint(gpu_hz=LOW)).honoured
    assert board.kernel.gpu_lock_mhz == (210, LOW // 10**6)


def test_a_machine_without_the_library_says_what_is_missing(tmp_path: Path) -> None:
    """Where libnvidia-ml.so.1 cannot be loaded, opening `nvml:0` is `NoBoard` and names the driver."""
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"no library")
    open_it = "from boards.discover import open_board; open_board('nvml:0')"
    done = subprocess.run(
        [sys.executable, "-c", open_it],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "NoBoard: no libnvidia-ml.so.1 here: NVIDIA's driver is not installed" in done.stderr
