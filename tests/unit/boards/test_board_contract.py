# SPDX-License-Identifier: Apache-2.0
"""What holds for every board: the same code on the virtual one and on the files of an AGX Orin."""

from __future__ import annotations

import random

import pytest

from boards.clocks import KNOBS, ClockPoint
from boards.errors import NotOffered
from boards.jetson import JetsonBoard

MODULE = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


def test_table_is_that_of_the_agx_orin_64gb(board: JetsonBoard) -> None:
    """The table is read from the board: 11 GPU steps, 4 lockable EMC rates, 29 CPU steps, whole clusters."""
    table = board.table
    assert (table.gpu_hz[0], table.gpu_hz[-1], len(table.gpu_hz)) == (306_000_000, 1_300_500_000, 11)
    assert table.gpu_min_hz == table.gpu_hz
    assert table.emc_hz == (204_000_000, 665_600_000, 2_133_000_000, 3_199_000_000)
    assert (table.cpu_hz[0], table.cpu_hz[-1], len(table.cpu_hz)) == (115_200_000, 2_201_600_000, 29)
    assert table.cores == (4, 8, 12)


def test_a_board_at_rest_is_at_its_own_limits(board: JetsonBoard) -> None:
    """Nobody has asked for anything: every knob observes as the kernel's files say."""
    assert board.observe() == ClockPoint(1_300_500_000, 306_000_000, 3_199_000_000, 2_201_600_000, 12)


@pytest.mark.parametrize(
    "point",
    [
        ClockPoint(gpu_hz=612_000_000),
        ClockPoint(gpu_hz=408_000_000, gpu_min_hz=306_000_000),
        ClockPoint(emc_hz=2_133_000_000),
        ClockPoint(cpu_hz=1_344_000_000),
        ClockPoint(cores=4),
        ClockPoint(714_000_000, 306_000_000, 665_600_000, 960_000_000, 8),
    ],
    ids=str,
)
def test_what_is_asked_for_reads_back(board: JetsonBoard, point: ClockPoint) -> None:
    """A request moves the knobs that it sets, leaves the others alone, and reads every one back."""
    before = board.observe()
    applied = board.request(point)
    assert applied.honoured, applied
    assert 0.0199 <= applied.settle_s < 0.1
    expected = [asked if asked is not None else old for asked, old in zip(point.values(), before.values(), strict=True)]
    assert list(board.observe().values()) == expected


@pytest.mark.parametrize(
    "point",
    [
        ClockPoint(gpu_hz=500_000_000),
        ClockPoint(emc_hz=1_600_000_000),
        ClockPoint(cores=6),
        ClockPoint(gpu_hz=408_000_000, gpu_min_hz=510_000_000),
    ],
    ids=str,
)
def test_what_the_table_lacks_is_refused_before_anything_is_written(board: JetsonBoard, point: ClockPoint) -> None:
    """A value off the table, or an inverted GPU range, raises `NotOffered` and changes nothing."""
    before = board.read_knobs()
    with pytest.raises(NotOffered):
        board.request(point)
    assert board.read_knobs() == before


def test_restore_undoes_any_sequence_of_requests(board: JetsonBoard) -> None:
    """`restore(read_knobs())` puts every knob file back, after whatever points came between."""
    originals = board.read_knobs()
    generator = random.Random(3)
    for _ in range(8):
        values = {knob: generator.choice(getattr(board.table, knob)) for knob in KNOBS}
        point = ClockPoint(**values | {"gpu_min_hz": 306_000_000})
        board.request(point)
    board.restore(originals)
    assert board.read_knobs() == originals


def test_restore_of_nothing_gives_the_boards_own_range(board: JetsonBoard) -> None:
    """Knobs missing from the originals go to the board's own range: all cores, full range, EMC unlocked."""
    board.request(ClockPoint(408_000_000, 306_000_000, 204_000_000, 115_200_000, 4))
    board.restore({})
    values = board.read_knobs()
    assert (values["gpu.min_freq"], values["gpu.max_freq"]) == (306_000_000, 1_300_500_000)
    assert values["emc.mrq_rate_locked"] == 0
    assert all(values[f"policy{number}.scaling_max_freq"] == 2_201_600 for number in (0, 4, 8))
    assert all(values[f"cpu{cpu}.online"] == 1 for cpu in range(12))


def test_impossible_originals_are_not_written(board: JetsonBoard) -> None:
    """A damaged ledger cannot put a value on a knob that the board does not have: its own range takes its place."""
    nonsense = {"gpu.min_freq": -5, "gpu.max_freq": 10**12, "policy0.scaling_max_freq": 1, "emc.rate": 10**15}
    board.request(ClockPoint(408_000_000, 306_000_000, 204_000_000, 115_200_000, 4))
    board.restore(nonsense | {"cpu0.online": 0})
    assert board.observe() == ClockPoint(1_300_500_000, 306_000_000, 3_199_000_000, 2_201_600_000, 12)


def test_module_power_counts_the_memory_rail_once(board: JetsonBoard) -> None:
    """VDDQ lies inside VIN_SYS_5V0, so the module is the sum of the other three."""
    rails = board.rails()
    assert set(rails) == {*MODULE, "VDDQ_VDD2_1V8AO"}
    assert rails["VDDQ_VDD2_1V8AO"] > 0.1
    assert board.power_w(rails) == pytest.approx(sum(rails[label] for label in MODULE))
    assert 9 < board.power_w() < 20


def test_rails_say_over_what_window_they_average(board: JetsonBoard) -> None:
    """NVIDIA's start-up leaves the monitors averaging over 430 ms."""
    assert board.averaging_s == pytest.approx(0.430)


def test_zones_are_known_by_type(board: JetsonBoard) -> None:
    """Temperatures come by zone type; the one that reads a constant 100 °C is left out."""
    zones = board.thermals()
    assert {"cpu-thermal", "gpu-thermal", "tj-thermal"} <= set(zones)
    assert "PMIC-Die" not in zones
    assert 20 < (zones["tj-thermal"] or 0) < 100


def test_nothing_throttles_at_rest(board: JetsonBoard) -> None:
    """A running fan and cpufreq caps are no throttling."""
    assert board.throttle().alerts == ()
    assert (board.throttle().events, board.throttle().brief_events) == (0, 0)


def test_a_restore_keeps_its_hands_off_what_is_somebody_elses(board: JetsonBoard) -> None:
    """Knob files named in `keep` stay as they are; the others go back, and never across a limit that stays."""
    originals = board.read_knobs()
    board.request(ClockPoint(408_000_000, 306_000_000, 204_000_000, 960_000_000, 12))
    board.restore(originals, frozenset({"gpu.max_freq", "policy4.scaling_max_freq"}))
    knobs = board.read_knobs()
    assert knobs["gpu.max_freq"] == 408_000_000
    assert knobs["policy4.scaling_max_freq"] == 960_000
    rest = {name: value for name, value in originals.items() if not name.endswith("max_freq")}
    assert {name: knobs[name] for name in rest} == rest
    assert knobs["policy0.scaling_max_freq"] == originals["policy0.scaling_max_freq"]


def test_a_kept_limit_is_not_crossed(board: JetsonBoard) -> None:
    """An original that lies beyond a limit which somebody else has set since gives way to it."""
    board.request(ClockPoint(gpu_hz=1_224_000_000, gpu_min_hz=1_020_000_000))
    originals = board.read_knobs()
    board.request(ClockPoint(gpu_hz=408_000_000, gpu_min_hz=306_000_000))
    board.restore(originals, frozenset({"gpu.max_freq"}))
    assert (board.read_knobs()["gpu.min_freq"], board.read_knobs()["gpu.max_freq"]) == (408_000_000, 408_000_000)


def test_limits_at_rest_are_looked_at_when_nothing_is_asked_for(board: JetsonBoard) -> None:
    """A rescan in the middle of a lease does not take our own limits for those of a power mode."""
    originals, table = board.read_knobs(), board.table
    board.request(ClockPoint(408_000_000, 306_000_000, 204_000_000, 960_000_000, 4))
    board.rescan()
    assert board.table == table
    board.restore(originals)
    board.rescan()
    assert board.table == table
