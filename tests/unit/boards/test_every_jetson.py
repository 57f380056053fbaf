# SPDX-License-Identifier: Apache-2.0
"""What holds for every Jetson under every JetPack it is known with: on its virtual kernel, and on its exported files.

The expectations are the facts that are known of each board, not what the code found there. Plain files accept anything
and follow nothing, so what needs a kernel's answer is tested on the virtual kernel alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from boards.archive import export
from boards.clocks import KNOBS, ClockPoint
from boards.discover import open_jetson
from boards.errors import NotOffered
from boards.jetson import JetsonBoard
from boards.virtual import NAMES, VirtualBoard

if TYPE_CHECKING:
    from .conftest import VirtualTime

Span = tuple[int, float, float]
"""How many values, and the lowest and highest in MHz."""


@dataclass(frozen=True)
class Facts:
    """What is known of a board."""

    gpu: Span
    gpu_floor: float
    emc: Span
    cpu: Span | None
    cores: tuple[int, ...]
    module: set[str]
    others: set[str]
    """Rails that do not count for the module."""
    averaging_s: float
    zones: set[str]
    gpu_rail: str = ""
    proven: bool = True


ORIN_ZONES = {f"{name}-thermal" for name in ("cpu", "gpu", "cv0", "cv1", "cv2", "soc0", "soc1", "soc2", "tj")}
OLD_ORIN_ZONES = {f"{name}-therm" for name in ("CPU", "GPU", "CV0", "CV1", "CV2", "SOC0", "SOC1", "SOC2", "tj")}
AGX_RAILS = {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}
ORIN = Facts(
    gpu=(7, 306, 918),
    gpu_floor=306,
    emc=(4, 204, 3199),
    cpu=(26, 115.2, 1984),
    cores=(4, 8),
    module={"VDD_IN"},
    others={"VDD_CPU_GPU_CV", "VDD_SOC"},
    averaging_s=0.430,
    zones=ORIN_ZONES,
)
AGX = replace(
    ORIN, module=AGX_RAILS, others={"VDDQ_VDD2_1V8AO"}, zones=ORIN_ZONES | {"tboard-thermal", "tdiode-thermal"}
)
FACTS = {
    "tx2": Facts(
        gpu=(13, 114.75, 1300.5),
        gpu_floor=114.75,
        emc=(11, 40.8, 1866),
        cpu=(12, 345.6, 2035.2),
        cores=(4, 6),
        module={"VDD_IN"},
        others={"VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI", "VDD_SYS_CPU", "VDD_SYS_DDR", "VDD_MUX"}
        | {"VDD_5V0_IO_SYS", "VDD_3V3_SYS", "VDD_3V3_IO_SLP", "VDD_1V8_IO", "VDD_3V3_SYS_M2"},
        averaging_s=0.0066,
        zones={"BCPU-therm", "MCPU-therm", "GPU-therm", "PLL-therm", "Tboard_tegra", "Tdiode_tegra", "thermal-fan-est"},
        gpu_rail="VDD_SYS_GPU",
        proven=False,
    ),
    "xavier_nx": Facts(
        gpu=(15, 114.75, 1109.25),
        gpu_floor=114.75,
        emc=(8, 204, 1866),
        cpu=(25, 115.2, 1907.2),
        cores=(2, 4, 6),
        module={"VDD_IN"},
        others={"VDD_CPU_GPU_CV", "VDD_SOC"},
        averaging_s=0.430,
        zones={"AO-therm", "CPU-therm", "GPU-therm", "AUX-therm", "thermal-fan-est"},
        proven=False,
    ),
    "agx_xavier": Facts(
        gpu=(14, 114.75, 1377),
        gpu_floor=114.75,
        emc=(9, 204, 2133),
        cpu=(29, 115.2, 2265.6),
        cores=(2, 4, 6, 8),
        module={"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"},
        others=set(),
        averaging_s=0.430,
        zones={"CPU-therm", "GPU-therm", "AUX-therm", "AO-therm", "Tboard_tegra", "Tdiode_tegra", "thermal-fan-est"},
        gpu_rail="GPU",
        proven=False,
    ),
    "orin_nano_8gb": replace(ORIN, gpu=(5, 306, 624.75), cpu=(20, 115.2, 1510.4), cores=(4, 6)),
    "orin_nano_8gb_super": replace(ORIN, gpu=(8, 306, 1020), cpu=(22, 115.2, 1728), cores=(4, 6)),
    "orin_nx_16gb": ORIN,
    "orin_nx_16gb_super": replace(ORIN, gpu=(10, 306, 1173)),
    "agx_orin_64gb": replace(AGX, gpu=(11, 306, 1300.5), cpu=(29, 115.2, 2201.6), cores=(4, 8, 12)),
    "agx_orin_32gb": replace(AGX, gpu=(8, 306, 930.75), cpu=(28, 115.2, 2188.8)),
    "agx_thor": Facts(
        gpu=(170, 54, 1575),
        gpu_floor=315,
        emc=(2, 665.6, 4266),
        cpu=None,
        cores=(2, 4, 6, 8, 10, 12, 14),
        module={"VIN"},
        others={"VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"},
        averaging_s=0.0066,
        zones={"tj-thermal", "soc012-thermal", "cpu-thermal", "soc345-thermal", "gpu-thermal"},
        gpu_rail="VDD_GPU",
        proven=False,
    ),
}
EVERY = sorted(name for name in NAMES if "@" in name)
"""Each board under each of its JetPacks."""
GATED = {f"{zone}-{end}" for zone in ("cv0", "cv1", "cv2", "CV0", "CV1", "CV2", "gpu") for end in ("thermal", "therm")}
"""Zones that may answer EAGAIN, which no plain file can: an export leaves them out."""


@pytest.fixture(params=EVERY)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def facts(name: str) -> Facts:
    key, jetpack = NAMES[name]
    found = FACTS[key]
    return replace(found, zones=OLD_ORIN_ZONES) if jetpack == "5" and "orin" in key else found


@pytest.fixture
def virtual(name: str, time: VirtualTime) -> VirtualBoard:
    return VirtualBoard(name, time.clock, time.sleep)


class Shelf:
    """Boards that nobody asks anything of, made once each: on the virtual kernel, and on the files that it exports."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._boards: dict[tuple[str, str], JetsonBoard] = {}

    def board(self, name: str, kind: str) -> JetsonBoard:
        if (name, kind) not in self._boards:
            virtual = VirtualBoard(name)
            export(virtual.tree, self._root / name)
            self._boards |= {(name, "virtual"): virtual, (name, "files"): open_jetson(self._root / name)}
        return self._boards[name, kind]


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("exported"))


@pytest.fixture(params=["virtual", "files"])
def board(request: pytest.FixtureRequest, name: str, shelf: Shelf) -> JetsonBoard:
    """The board on its virtual kernel, and what discovery makes of the files that kernel exports; only to look at."""
    return shelf.board(name, request.param)


def span(values: tuple[int, ...]) -> Span | None:
    return (len(values), values[0] / 1e6, values[-1] / 1e6) if values else None


def test_every_board_is_covered() -> None:
    """Ten boards, each under all of its JetPacks."""
    assert {NAMES[name][0] for name in EVERY} == set(FACTS)
    assert len(FACTS) == 10
    assert len(EVERY) == 22


def test_its_table_is_the_known_one(board: JetsonBoard, facts: Facts) -> None:
    """How many values each knob has, and where they end; no knob where none is known."""
    table = board.table
    assert (span(table.gpu_hz), span(table.emc_hz), span(table.cpu_hz)) == (facts.gpu, facts.emc, facts.cpu)
    assert table.gpu_min_hz == table.gpu_hz
    assert table.cores == facts.cores
    assert board.missing == ()


def test_at_rest_it_is_at_its_own_limits(board: JetsonBoard, facts: Facts) -> None:
    """With no power mode in the way the upper limits are the table's ends; a knob that it lacks observes as None."""
    seen = board.observe()
    assert seen.gpu_hz == facts.gpu[2] * 1e6
    assert seen.gpu_min_hz == facts.gpu_floor * 1e6
    assert seen.cpu_hz == (facts.cpu[2] * 1e6 if facts.cpu else None)
    assert (seen.emc_hz, seen.cores) == (facts.emc[2] * 1e6, facts.cores[-1])


def test_its_power_counts_each_watt_once(board: JetsonBoard, facts: Facts) -> None:
    """All rails are read, those that add up to the module are its power, and it is one that such a board can draw."""
    rails = board.rails()
    assert set(rails) == facts.module | facts.others
    assert board.power_w(rails) == pytest.approx(sum(rails[label] for label in facts.module))
    assert 2 < board.power_w() < 30 < board.plausible_w


def test_its_gpu_is_not_called_what_it_is_not(board: JetsonBoard, facts: Facts) -> None:
    """A rail is the GPU's only where it feeds nothing else; where there is none a note says so."""
    assert board.layout.gpu_rail == facts.gpu_rail
    assert (facts.gpu_rail in board.rails()) == bool(facts.gpu_rail)
    assert any("GPU power cannot be told" in note for note in board.notes) == (not facts.gpu_rail)


def test_it_knows_over_what_its_power_averages(board: JetsonBoard, name: str, facts: Facts) -> None:
    """As its monitors say; where they do not, what the driver or NVIDIA's start-up sets, and a note."""
    assert board.averaging_s == pytest.approx(facts.averaging_s)
    silent = NAMES[name][1] == "4" or NAMES[name][0] == "agx_thor"
    assert any("is assumed" in note and "average" in note for note in board.notes) == silent


def test_its_zones_are_known_by_type(board: JetsonBoard, facts: Facts) -> None:
    """Every zone but the one that reads 100 °C whatever happens; those without power read None, never 0."""
    zones = board.thermals()
    assert set(zones) <= facts.zones
    assert facts.zones - set(zones) <= (set() if board.virtual else GATED)
    for zone, celsius in zones.items():
        assert celsius is None or 20 < celsius < 100, zone


def test_nothing_throttles_at_rest(board: JetsonBoard) -> None:
    """Fans, caps and counters at zero are no throttling."""
    throttle = board.throttle()
    assert (throttle.events, throttle.brief_events, throttle.alerts) == (0, 0, ())


def test_unproven_memory_rates_are_said_to_be(board: JetsonBoard, facts: Facts) -> None:
    """Only Orin's set of rates has been proven on boards."""
    assert any("unproven" in note for note in board.notes) != facts.proven


def test_its_knob_files_stay_as_they_are(board: JetsonBoard, facts: Facts) -> None:
    """While nobody writes they read the same; the rate of an unlocked memory is not one of them."""
    knobs = board.read_knobs()
    assert knobs == board.read_knobs()
    assert "emc.rate" not in knobs
    assert {"gpu.min_freq", "gpu.max_freq", "emc.mrq_rate_locked", "emc.state"} <= set(knobs)
    assert ("emc.bwmgr_halt" in knobs) == ("Thor" in board.layout.name)
    assert ("policy0.scaling_min_freq" in knobs) == (facts.cpu is not None)
    assert sum(knob.endswith(".online") for knob in knobs) == facts.cores[-1]


def test_what_it_does_not_offer_is_refused(board: JetsonBoard, facts: Facts) -> None:
    """Values between its own, and knobs that it lacks."""
    for point in (ClockPoint(gpu_hz=306_000_001), ClockPoint(emc_hz=203_999_999), ClockPoint(cores=1)):
        with pytest.raises(NotOffered):
            board.request(point)
    if facts.cpu is None:
        with pytest.raises(NotOffered):
            board.request(ClockPoint(cpu_hz=1_000_000_000))


def points(board: JetsonBoard, seed: int, count: int) -> list[ClockPoint]:
    """Both ends, and points between."""
    table, generator = board.table, random.Random(seed)
    lowest = ClockPoint(**{knob: values[0] for knob in KNOBS if (values := getattr(table, knob))})
    drawn = [lowest, table.maximum()]
    while len(drawn) < count:
        point = ClockPoint(**{knob: generator.choice(values) for knob in KNOBS if (values := getattr(table, knob))})
        if table.offers(point):
            drawn.append(point)
    return drawn


def test_what_is_asked_for_reads_back(virtual: VirtualBoard) -> None:
    """Any point of the table, from any other: without an error from any kernel, and honoured."""
    for point in points(virtual, 7, 12):
        applied = virtual.request(point)
        assert applied.honoured, applied
        assert applied.settle_s < 0.1


def test_restore_undoes_any_sequence_of_requests(virtual: VirtualBoard) -> None:
    """Every knob file reads as before, whatever came between, in every power mode."""
    for mode in virtual.kernel.profile.modes:
        virtual.kernel.apply_mode(mode.number)
        virtual.rescan()
        originals = virtual.read_knobs()
        for point in points(virtual, mode.number, 5):
            assert virtual.request(point).honoured, (mode.name, point)
        virtual.restore(originals)
        assert virtual.read_knobs() == originals, mode.name


def test_the_table_stays_within_the_power_mode(virtual: VirtualBoard) -> None:
    """A GPU cap between two steps stands for the higher (nvgpu), a CPU limit for the lower; offline cores stay so."""
    whole = virtual.table
    for mode in virtual.kernel.profile.modes:
        virtual.kernel.apply_mode(mode.number)
        virtual.rescan()
        table = virtual.table
        cap_hz = mode.gpu_max_hz if mode.gpu_max_hz > 0 else whole.gpu_hz[-1]
        assert table.gpu_hz[-1] == min(step for step in whole.gpu_hz if step >= min(cap_hz, whole.gpu_hz[-1]))
        if whole.cpu_hz and mode.cpu_max_hz > 0:
            assert table.cpu_hz[-1] == max(step for step in whole.cpu_hz if step <= mode.cpu_max_hz)
        if mode.emc_cap_hz > 0:
            assert table.emc_hz[-1] == max(rate for rate in whole.emc_hz if rate <= mode.emc_cap_hz)
        assert table.cores[-1] == len(mode.cores)
    virtual.kernel.apply_mode(virtual.kernel.profile.modes[0].number)


def test_a_lower_limit_comes_back_with_its_room(virtual: VirtualBoard) -> None:
    """What a low request must lower, the next higher one puts back: where one ends does not depend on the way."""
    rest, table = virtual.read_knobs(), virtual.table
    cpu = (table.cpu_hz[0], table.cpu_hz[-1]) if table.cpu_hz else (None, None)
    virtual.request(ClockPoint(gpu_hz=table.gpu_hz[0], cpu_hz=cpu[0]))
    virtual.request(ClockPoint(gpu_hz=table.gpu_hz[-1], cpu_hz=cpu[1]))
    assert virtual.read_knobs() == rest


def test_files_get_the_kernels_units_and_are_put_back(
    virtual: VirtualBoard, tmp_path: Path, time: VirtualTime, facts: Facts
) -> None:
    """Hz for GPU and memory, kHz for CPUs, 0 and 1 for cores; restored to what they were, and without a record to the
    board's own range with the memory unlocked."""
    export(virtual.tree, tmp_path / "root")
    board = open_jetson(tmp_path / "root", time.clock, time.sleep)
    originals, table = board.read_knobs(), board.table
    cpu_hz = table.cpu_hz[1] if table.cpu_hz else None
    board.request(ClockPoint(table.gpu_hz[2], table.gpu_hz[1], table.emc_hz[0], cpu_hz, table.cores[0]))
    knobs = board.read_knobs()
    assert (knobs["gpu.min_freq"], knobs["gpu.max_freq"]) == table.gpu_hz[1:3]
    assert (knobs["emc.mrq_rate_locked"], knobs["emc.rate"]) == (1, table.emc_hz[0])
    assert knobs.get("policy0.scaling_max_freq") == (cpu_hz // 1000 if cpu_hz else None)
    assert sum(knobs[knob] for knob in knobs if knob.endswith(".online")) == table.cores[0]
    again = open_jetson(tmp_path / "root", time.clock, time.sleep)
    again.restore(originals)
    assert again.read_knobs() == originals
    again.request(ClockPoint(gpu_hz=table.gpu_hz[0], emc_hz=table.emc_hz[0], cores=table.cores[0]))
    again.restore({})
    freed = again.read_knobs()
    assert freed["gpu.max_freq"] == facts.gpu[2] * 1e6
    assert freed["emc.mrq_rate_locked"] == 0
    assert again.observe().emc_hz == facts.emc[2] * 1e6
    assert sum(freed[knob] for knob in freed if knob.endswith(".online")) == facts.cores[-1]
