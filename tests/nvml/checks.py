# SPDX-License-Identifier: Apache-2.0
"""What holds for every NVML GPU: the same checks over the virtual driver and over a C library that nvidia-ml-py loads.

A `Lab` makes boards over one driver whose locks outlive the board, as NVIDIA's do, and can make the driver worse.
"""

from __future__ import annotations

import errno
from typing import Protocol

import pytest

from boards.clocks import ClockPoint
from boards.errors import KnobDenied, KnobRefused, NoBoard, NodeError, NotOffered, NotRestored
from boards.nvml import NvmlBoard
from boards.nvml_limit import POWER_LIMIT

CLOCK_LOCK = "nvmlDeviceSetGpuLockedClocks"
MEMORY_LOCK = "nvmlDeviceSetMemoryLockedClocks"


class Lab(Protocol):
    """A driver to be tested; every switch acts on the next call."""

    def board(self) -> NvmlBoard:
        """A new board over the same driver."""
        ...

    def busy(self, *, busy: bool) -> None:
        """Whether kernels run."""
        ...

    def reasons(self, bits: int) -> None:
        """Event reasons beside those of an idle GPU."""
        ...

    def held_at(self, graphics_mhz: int) -> None:
        """A clock that heat or power holds a busy GPU at, 0 for none."""
        ...

    def refuse(self, code: int, *names: str) -> None:
        """Calls that answer `code`; 13 is that the library lacks the function, 0 that they work again."""
        ...

    def not_root(self) -> None:
        """Setters are refused."""
        ...

    def as_orin(self) -> None:
        """A Jetson's NVML: a name and nothing else."""
        ...

    def locks_mhz(self) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """The ranges that the driver holds graphics and memory clock in."""
        ...

    def live(self) -> None:
        """Let some time pass."""
        ...


def mid(board: NvmlBoard) -> int:
    """A graphics clock in the middle of the table."""
    return board.table.gpu_hz[len(board.table.gpu_hz) // 2]


def check_the_table_is_a_product(lab: Lab) -> None:
    """Clocks are offered in Hz, ascending; a memory clock that would take graphics clocks away is left out."""
    table = lab.board().table
    assert len(table.gpu_hz) > 10
    assert table.gpu_min_hz == table.gpu_hz
    assert table.gpu_hz[0] == 210_000_000
    assert len(table.emc_hz) == 2
    assert 405_000_000 not in table.emc_hz
    assert table.cpu_hz == table.cores == ()


def check_at_rest_the_clocks_are_reported(lab: Lab) -> None:
    """Nobody has locked anything: there are no limits to report, only the clocks of this moment."""
    assert lab.board().observe() == ClockPoint(gpu_hz=210_000_000, emc_hz=405_000_000)


def check_what_is_asked_for_is_locked(lab: Lab) -> None:
    """A request locks the range it names, and reads back as asked under load."""
    board = lab.board()
    lab.busy(busy=True)
    point = ClockPoint(gpu_hz=mid(board), gpu_min_hz=board.table.gpu_hz[3], emc_hz=board.table.emc_hz[0])
    applied = board.request(point)
    assert applied.honoured, applied
    memory_mhz = board.table.emc_hz[0] // 10**6
    locks = (board.table.gpu_hz[3] // 10**6, mid(board) // 10**6), (memory_mhz, memory_mhz)
    assert lab.locks_mhz() == locks


def check_an_idle_gpu_below_its_lock_is_honoured(lab: Lab) -> None:
    """An idle GPU rests below its lower limit and rises when work comes, so its lock counts as held."""
    board = lab.board()
    lab.busy(busy=False)
    point = ClockPoint(gpu_hz=mid(board), gpu_min_hz=mid(board), emc_hz=board.table.emc_hz[-1])
    assert board.request(point).honoured
    lab.busy(busy=True)
    assert board.observe() == point


def check_a_clock_that_heat_takes_shows(lab: Lab) -> None:
    """A busy GPU below its lower limit is reported where it is, and the thermal reasons are alerts."""
    board = lab.board()
    lab.busy(busy=True)
    board.request(ClockPoint(gpu_hz=mid(board), gpu_min_hz=mid(board)))
    lab.held_at(300)
    lab.reasons(0x8 | 0x40)
    assert board.observe().gpu_min_hz == 300_000_000
    assert board.observe().gpu_hz == mid(board)
    assert board.throttle().alerts == ("hw-slowdown", "hw-thermal-slowdown")


def check_the_power_limit_at_work_is_no_alert(lab: Lab) -> None:
    """A software power cap is what the owner of the power limit asked for: a note, no alert."""
    board = lab.board()
    lab.busy(busy=True)
    lab.reasons(0x4)
    assert board.throttle().alerts == ()
    assert any("power cap" in note for note in board.notes)


def check_a_lock_that_does_nothing_is_not_honoured(lab: Lab) -> None:
    """A busy GPU above its upper limit ignores the lock: the clock is reported as it is."""
    board = lab.board()
    lab.busy(busy=True)
    board.request(ClockPoint(gpu_hz=mid(board)))
    lab.held_at(mid(board) // 10**6 + 150)
    assert board.observe().gpu_hz == mid(board) + 150_000_000


def check_requests_do_not_depend_on_their_order(lab: Lab) -> None:
    """A lower limit that had to give way to an upper one comes back when it fits again."""
    board = lab.board()
    lab.busy(busy=True)
    low, middle, top = board.table.gpu_hz[2], mid(board), board.table.gpu_hz[-1]
    board.request(ClockPoint(gpu_hz=top, gpu_min_hz=middle))
    board.request(ClockPoint(gpu_hz=low))
    assert lab.locks_mhz()[0] == (low // 10**6, low // 10**6)
    board.request(ClockPoint(gpu_hz=top))
    assert lab.locks_mhz()[0] == (middle // 10**6, top // 10**6)
    board.request(ClockPoint(gpu_hz=low, gpu_min_hz=low))
    board.request(ClockPoint(gpu_min_hz=middle))
    assert lab.locks_mhz()[0] == (middle // 10**6, middle // 10**6)


def check_restore_takes_locks_of_a_dead_process_away(lab: Lab) -> None:
    """Locks outlive their board; restoring from a new one leaves none, and the power limit as it was."""
    originals = lab.board().read_knobs()
    dead = lab.board()
    dead.request(ClockPoint(gpu_hz=mid(dead), emc_hz=dead.table.emc_hz[0]))
    dead.request_power_limit(150)
    assert lab.locks_mhz() != (None, None)
    lab.board().restore(originals)
    assert lab.locks_mhz() == (None, None)
    assert lab.board().read_knobs() == originals


def check_restore_keeps_what_is_somebody_elses(lab: Lab) -> None:
    """A power limit that somebody else changed stays; unknown or impossible originals give the card's default."""
    board = lab.board()
    default = board.read_knobs()[POWER_LIMIT]
    board.request_power_limit(150)
    board.restore({POWER_LIMIT: default}, frozenset({POWER_LIMIT}))
    assert board.read_knobs() == {POWER_LIMIT: 150_000}
    board.restore({POWER_LIMIT: -1})
    assert board.read_knobs() == {POWER_LIMIT: default}


def check_the_power_limit_stays_in_its_range(lab: Lab) -> None:
    """A limit within the card's range is set and read back; one outside is refused before NVML is asked."""
    board = lab.board()
    assert board.power_limits_w == (100.0, 300.0)
    assert board.request_power_limit(200) == 200.0
    with pytest.raises(KnobRefused) as refused:
        board.request_power_limit(99)
    assert refused.value.knob == "power_limit_w"
    assert board.read_knobs() == {POWER_LIMIT: 200_000}


def check_off_the_table_nothing_is_asked_for(lab: Lab) -> None:
    """A point off the table raises `NotOffered`, and no lock is set."""
    board = lab.board()
    for point in (ClockPoint(gpu_hz=211_000_000), ClockPoint(cores=4), ClockPoint(mid(board), board.table.gpu_hz[-1])):
        with pytest.raises(NotOffered):
            board.request(point)
    assert lab.locks_mhz() == (None, None)


def check_without_root_there_is_a_board_that_reads(lab: Lab) -> None:
    """Setters that are not allowed are missing knobs with a note; power, energy and temperature still read."""
    lab.not_root()
    board = lab.board()
    assert (board.table.gpu_hz, board.table.emc_hz) == ((), ())
    assert sum("not allowed" in note for note in board.notes) == 2
    assert board.power_w() > 0
    assert board.thermals().keys() == {"gpu", "memory"}
    with pytest.raises(KnobDenied):
        board.request_power_limit(200)
    with pytest.raises(NotRestored) as failed:
        board.restore({})
    assert {type(failure) for failure in failed.value.failures} == {KnobDenied}


def check_permission_lost_later_is_an_error_with_its_knob(lab: Lab) -> None:
    """A setter that is refused at run time raises `KnobDenied` and names the knob."""
    board = lab.board()
    lab.not_root()
    for point, knob in (
        (ClockPoint(gpu_hz=mid(board)), "gpu_hz"),
        (ClockPoint(gpu_min_hz=mid(board)), "gpu_min_hz"),
        (ClockPoint(emc_hz=board.table.emc_hz[0]), "emc_hz"),
    ):
        with pytest.raises(KnobDenied) as denied:
            board.request(point)
        assert (denied.value.knob, denied.value.code) == (knob, errno.EPERM)


def check_each_call_may_be_missing_alone(lab: Lab) -> None:
    """A library without one function, or a GPU that does not support it, loses that capability and no other."""
    for code in (13, 3):
        for name, lost in (
            (CLOCK_LOCK, "GPU clock lock"),
            (MEMORY_LOCK, "memory clock lock"),
            ("nvmlDeviceGetTotalEnergyConsumption", "energy"),
            ("nvmlDeviceGetPowerManagementLimitConstraints", "power limit's range"),
        ):
            lab.refuse(code, name)
            board = lab.board()
            assert sum(note.startswith(f"{lost}: missing") for note in board.notes) == 1, board.notes
            assert (board.table.gpu_hz == ()) == (name == CLOCK_LOCK)
            assert (board.table.emc_hz == ()) == (name == MEMORY_LOCK)
            assert (board.energy_j() is None) == (lost == "energy")
            assert (board.read_knobs() == {}) == (lost == "power limit's range")
            board.restore({})
            lab.refuse(0, name)


def check_without_instantaneous_power_the_mean_is_said(lab: Lab) -> None:
    """Where NVML only averages power, the board says over what window."""
    assert lab.board().averaging_s == pytest.approx(0.1)
    lab.refuse(3, "nvmlDeviceGetFieldValues")
    board = lab.board()
    assert board.averaging_s == 1.0
    assert "power is the mean of the last 1 s" in board.notes
    assert board.power_w() > 0
    assert board.thermals().keys() == {"gpu"}


def check_energy_is_counted(lab: Lab) -> None:
    """The counter grows while time passes, and never falls."""
    board = lab.board()
    before = board.energy_j()
    lab.live()
    after = board.energy_j()
    assert before is not None
    assert after is not None
    assert after > before


def check_a_jetsons_own_nvml_is_no_board(lab: Lab) -> None:
    """Orin's NVML counts a GPU and reports nothing about it: said so, with the way that works."""
    lab.as_orin()
    with pytest.raises(NoBoard, match=r"Orin \(nvgpu\).*--board auto"):
        lab.board()


def check_a_lost_gpu_comes_back(lab: Lab) -> None:
    """A GPU that falls off the bus leaves the table and raises; `rescan` finds it when it is back."""
    board = lab.board()
    table = board.table
    lost = ("nvmlDeviceGetClockInfo", "nvmlDeviceGetFieldValues", "nvmlDeviceResetGpuLockedClocks")
    lab.refuse(15, *lost)
    assert board.observe() == ClockPoint()
    assert board.table.gpu_hz == ()
    with pytest.raises(NodeError) as missing:
        board.power_w()
    assert missing.value.code == errno.ENODEV
    with pytest.raises(NotRestored):
        board.restore({})
    board.rescan()
    assert board.table.gpu_hz == ()
    assert board.notes[0].startswith("lost: ")
    lab.refuse(0, *lost)
    board.rescan()
    assert board.table == table


CHECKS = [check for name, check in sorted(globals().items()) if name.startswith("check_")]
