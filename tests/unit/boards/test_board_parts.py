# SPDX-License-Identifier: Apache-2.0
"""Parts that vanish and return, requests that fail, rates that do not hold, sensors that lie."""

from __future__ import annotations

import contextlib
import errno
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from boards.archive import export
from boards.clocks import ClockPoint
from boards.discover import open_jetson
from boards.errors import (
    BoardError,
    KnobDenied,
    KnobRefused,
    NodeError,
    NodeMissing,
    NotOffered,
    NotRestored,
    SensorImplausible,
    SensorUnavailable,
)
from boards.jetson import OTHER_RAILS_S, JetsonBoard
from boards.layout import LAYOUTS, ORIN_NANO
from boards.tree import SysfsTree
from boards.virtual import VirtualBoard
from boards.virtual_faults import Faults

if TYPE_CHECKING:
    from .conftest import VirtualTime

LOW = ClockPoint(408_000_000, 306_000_000, 204_000_000, 960_000_000, 4)
OF_KNOB = {
    "gpu_hz": ClockPoint(gpu_hz=408_000_000),
    "gpu_min_hz": ClockPoint(gpu_min_hz=408_000_000),
    "emc_hz": ClockPoint(emc_hz=204_000_000),
    "cpu_hz": ClockPoint(cpu_hz=960_000_000),
    "cores": ClockPoint(cores=4),
}


@pytest.mark.parametrize("knob", OF_KNOB)
@pytest.mark.parametrize(("fault", "kind"), [("denied", KnobDenied), ("busy", KnobRefused), ("missing", NodeMissing)])
def test_a_failed_request_names_its_knob(virtual: VirtualBoard, knob: str, fault: str, kind: type[NodeError]) -> None:
    """Whatever fails, and why, the error says which knob of the point it was asked for."""
    virtual.faults = Faults(**{fault: frozenset({knob})})
    with pytest.raises(kind) as failure:
        virtual.request(OF_KNOB[knob])
    assert failure.value.knob == knob


@pytest.mark.parametrize("knob", OF_KNOB)
def test_a_knob_that_is_busy_twice_is_granted(virtual: VirtualBoard, time: VirtualTime, knob: str) -> None:
    """The third try goes through, within 200 ms for each write."""
    virtual.faults = Faults(busy=frozenset({knob}), busy_times=2)
    assert virtual.request(OF_KNOB[knob]).honoured


@pytest.mark.parametrize(
    ("knob", "gone"), [("gpu_hz", {"gpu_hz", "gpu_min_hz"}), ("emc_hz", {"emc_hz"}), ("cpu_hz", {"cpu_hz", "cores"})]
)
def test_a_part_that_vanishes_is_missed_and_welcomed_back(virtual: VirtualBoard, knob: str, gone: set[str]) -> None:
    """Its knobs observe as None and are not offered, the others work on; a rescan finds it again as it was."""
    table, before = virtual.table, virtual.observe()
    virtual.faults = Faults(missing=frozenset(gone))
    seen = virtual.observe()
    for name in OF_KNOB:
        assert (getattr(seen, name) is None) == (name in gone)
        assert bool(getattr(virtual.table, name)) == (name not in gone)
    assert virtual.missing
    assert any("vanished" in note for note in virtual.notes)
    with pytest.raises(NotOffered):
        virtual.request(OF_KNOB[knob])
    others = {name: getattr(LOW, name) for name in OF_KNOB if name not in gone}
    assert virtual.request(ClockPoint(**others)).honoured
    virtual.rescan()
    assert virtual.missing
    virtual.restore({})
    virtual.faults = Faults()
    virtual.rescan()
    assert (virtual.table, virtual.missing) == (table, ())
    assert virtual.observe() == before
    assert not any("vanished" in note for note in virtual.notes)


def test_what_cannot_be_put_back_for_want_of_its_part_is_said(virtual: VirtualBoard) -> None:
    """A part that is not there cannot be restored: the rest is, and the knobs that still wait are named."""
    originals = virtual.read_knobs()
    virtual.request(LOW)
    virtual.faults = Faults(missing=frozenset({"gpu_hz", "gpu_min_hz"}))
    with pytest.raises(NotRestored) as failure:
        virtual.restore(originals)
    assert {getattr(missed, "knob", "") for missed in failure.value.failures} == {"gpu.min_freq", "gpu.max_freq"}
    others = {name: value for name, value in originals.items() if not name.startswith("gpu")}
    assert virtual.read_knobs() == others
    virtual.faults = Faults()
    virtual.rescan()
    virtual.restore(originals)
    assert virtual.read_knobs() == originals


def test_a_cluster_that_vanishes_is_waited_for(files: Path, time: VirtualTime) -> None:
    """One policy's folder goes: the others are restored and work on, its limit is owed until it is back."""
    board = open_jetson(files, time.clock, time.sleep)
    originals = board.read_knobs()
    assert board.request(ClockPoint(cpu_hz=960_000_000)).honoured
    policy = (files / "sys/devices/system/cpu/cpufreq/policy4").resolve()
    shutil.copytree(policy, files / "away")
    shutil.rmtree(policy)
    board.observe()
    board.rescan()
    for _ in range(2):
        with pytest.raises(NotRestored) as failure:
            board.restore(originals)
        assert {getattr(missed, "knob", "").split(".")[0] for missed in failure.value.failures} == {"policy4"}
    assert board.request(ClockPoint(cpu_hz=729_600_000)).honoured
    (files / "away").rename(policy)
    board.rescan()
    board.restore(originals)
    board.rescan()
    assert board.read_knobs() == originals
    assert (policy / "scaling_max_freq").read_text().strip() == "2201600"


def test_the_next_process_waits_for_a_cluster_too(files: Path, time: VirtualTime) -> None:
    """One that never saw the policy does not take its limit for restored: it is named until it is there again."""
    board = open_jetson(files, time.clock, time.sleep)
    originals = board.read_knobs()
    board.request(ClockPoint(cpu_hz=960_000_000))
    policy = files / "sys/devices/system/cpu/cpufreq/policy4"
    policy.rename(files / "away")
    heir = open_jetson(files, time.clock, time.sleep)
    with pytest.raises(NotRestored) as owed:
        heir.restore(originals)
    assert {getattr(missed, "knob", "").split(".")[0] for missed in owed.value.failures} == {"policy4"}
    (files / "away").rename(policy)
    heir.rescan()
    heir.restore(originals)
    assert (policy / "scaling_max_freq").read_text().split()[0] == "2201600"


def test_a_watch_sees_every_knob_file(board: JetsonBoard) -> None:
    """Nothing written, nothing seen; any one knob file written, by whomever, and it no longer reads as it did."""
    board.request(LOW)
    still = board.watch_knobs()
    assert still()
    assert still()
    for point in (ClockPoint(gpu_hz=714_000_000), ClockPoint(cpu_hz=729_600_000), ClockPoint(emc_hz=665_600_000)):
        before = board.watch_knobs()
        board.request(point)
        assert not before()
        assert not still()
    before = board.watch_knobs()
    board.request(ClockPoint(cores=8))
    assert not before()


def test_a_file_that_vanishes_takes_its_part_along(files: Path, time: VirtualTime) -> None:
    """On a tree of files too, under a descriptor that is still open."""
    board = open_jetson(files, time.clock, time.sleep)
    limit = files / "sys/class/devfreq/17000000.gpu/max_freq"
    for _ in range(3):
        board.observe()
    text = limit.read_text()
    limit.unlink()
    assert board.observe().gpu_hz is None
    assert board.observe().emc_hz is not None
    board.rescan()
    assert board.missing == ("gpu",)
    limit.write_text(text)
    board.rescan()
    assert board.observe().gpu_hz == 1_300_500_000


def test_monitors_that_return_under_another_number_are_found(files: Path, time: VirtualTime) -> None:
    """Power is unknown while they are gone, and there is none to be made up; a rescan finds them where they are now."""
    board = open_jetson(files, time.clock, time.sleep)
    power_w = board.power_w()
    link = files / "sys/class/hwmon/hwmon4"
    (files / "sys/devices/platform/bus@0/c240000.i2c/i2c-1/1-0040/hwmon/hwmon4").rename(files / "away")
    with pytest.raises((NodeMissing, SensorUnavailable)):
        board.power_w()
    assert board.missing == ("rails",)
    link.unlink()
    (files / "sys/class/hwmon/hwmon7").symlink_to(files / "away")
    board.rescan()
    assert board.power_w() == pytest.approx(power_w)


def test_an_unproven_rate_that_does_not_hold_is_withdrawn(time: VirtualTime) -> None:
    """Where nobody has proven the rates, one that does not read back after its tries leaves the table, with a note."""
    tx2 = VirtualBoard("virtual:tx2", time.clock, time.sleep)
    tx2.faults = Faults(ignored=frozenset({"emc_hz"}))
    assert not tx2.request(ClockPoint(emc_hz=800_000_000)).honoured
    assert 800_000_000 not in tx2.table.emc_hz
    assert any("800 MHz does not hold" in note for note in tx2.notes)
    tx2.rescan()
    assert 800_000_000 not in tx2.table.emc_hz
    assert len(tx2.table.emc_hz) == 10


def test_a_proven_rate_stays_on_offer(virtual: VirtualBoard) -> None:
    """On Orin a rate that was not granted is a failed request, and no reason to doubt the board."""
    virtual.faults = Faults(ignored=frozenset({"emc_hz"}))
    assert not virtual.request(ClockPoint(emc_hz=204_000_000)).honoured
    assert 204_000_000 in virtual.table.emc_hz


@pytest.mark.parametrize("sensor", ["negative", "zero", "nan", "empty"])
@pytest.mark.parametrize("name", ["virtual:tx2", "virtual:orin-nano", "virtual:agx-orin", "virtual:agx-thor"])
def test_power_that_cannot_be_true_is_refused(time: VirtualTime, name: str, sensor: str) -> None:
    """Negative, zero, no number, nothing: never a reading, on iio as on hwmon as on the INA238."""
    board = VirtualBoard(name, time.clock, time.sleep)
    board.faults = Faults(sensor=sensor)  # type: ignore[arg-type]
    with pytest.raises(SensorImplausible):
        board.power_w()


def test_power_beyond_what_the_module_survives_is_refused(virtual: VirtualBoard) -> None:
    """A total above the over-current limits is a sensor's fault."""
    rails = dict.fromkeys(virtual.parts.rails.module, virtual.plausible_w / 2)
    with pytest.raises(SensorImplausible, match="VDD_GPU_SOC"):
        virtual.power_w(rails)


def test_a_broken_rail_that_does_not_count_costs_nothing(tmp_path: Path, time: VirtualTime) -> None:
    """The carrier's monitors of a TX2 are read but not counted: without one the module's power is still known."""
    export(VirtualBoard("virtual:tx2", time.clock, time.sleep).tree, tmp_path / "root")
    board = open_jetson(tmp_path / "root", time.clock, time.sleep)
    power_w = board.power_w()
    broken = next(path for path in (tmp_path / "root/sys").rglob("rail_name_0") if path.read_text() == "VDD_MUX\n")
    broken.with_name("in_power0_input").write_text("-1\n")
    assert "VDD_MUX" in board.rails()
    time.sleep(OTHER_RAILS_S)
    assert "VDD_MUX" not in board.rails()
    assert board.power_w() == power_w


def test_over_current_counts_by_how_long_it_lasts(virtual: VirtualBoard, time: VirtualTime) -> None:
    """Under-voltage and average over-current are events; the instantaneous kind, which some do all day, is not."""
    virtual.faults = Faults(over_current={"oc1": 3, "oc2": 2, "oc3": 20})
    for _ in range(50):
        time.sleep(0.1)
        virtual.run((), 0.1)
    throttle = virtual.throttle()
    assert throttle.events > 0
    assert throttle.brief_events == pytest.approx(4 * throttle.events, rel=0.2)


def test_thermometers_that_all_fail_are_told_from_there_being_none(virtual: VirtualBoard) -> None:
    """No zone that can be read is an error, not an empty answer: that is a board without thermometers."""
    virtual.faults = Faults(thermal="unreadable")
    with pytest.raises(SensorUnavailable):
        virtual.thermals()


def test_a_zone_with_an_impossible_text_is_left_out(files: Path) -> None:
    """One zone of a real tree."""
    (files / "sys/class/thermal/thermal_zone0/temp").write_text("hot\n")
    zones = open_jetson(files).thermals()
    assert "cpu-thermal" not in zones
    assert zones["gpu-thermal"] == pytest.approx(44.25)


def test_the_first_module_of_a_kind_is_recognised_by_its_chip(files: Path) -> None:
    """A module that is not known by name is treated as the board with its chip and its rails, and a note says so."""
    compatible = files / "proc/device-tree/compatible"
    compatible.write_text("nvidia,p0000-0000\0nvidia,tegra234\0")
    board = open_jetson(files)
    assert board.name == "Jetson (tegra234)"
    assert board.power_w() > 0
    assert "treated as Jetson AGX Orin" in board.notes[0]
    for label in (files / "sys/class/hwmon").glob("*/in1_label"):
        label.write_text("VDD_IN\n")
    assert "treated as Jetson Orin NX" in open_jetson(files).notes[0]


def test_layouts_claim_no_module_twice() -> None:
    """Each module has one layout, Super or not."""
    for module in ("p3310-1000", "p2888-0004", "p3668-0001", "p3701-0005", "p3701-0004", "p3767-0000", "p3834-0008"):
        strings = [f"nvidia,carrier+{module}"]
        assert sum(layout.recognises(strings) for layout in LAYOUTS) == 1, module
    for module in ("p3767-0003", "p3767-0005", "p3767-0005-super"):
        assert [layout for layout in LAYOUTS if layout.recognises([f"nvidia,p3768-0000+{module}"])] == [ORIN_NANO]


def test_a_chip_without_board_is_none() -> None:
    """Another vendor's strings are no Jetson, however much of its kernel looks like one."""
    assert not any(layout.recognises(["nvidia,tegra210", "other,board"]) for layout in LAYOUTS)


def test_a_cpu_list_is_not_believed_where_it_does_not_follow(tmp_path: Path, time: VirtualTime) -> None:
    """The kernel's list of online cores is one read instead of twelve; a plain file of that name is no such list."""
    export(VirtualBoard("virtual:agx-orin", time.clock, time.sleep).tree, tmp_path / "root")
    board = open_jetson(tmp_path / "root", time.clock, time.sleep)
    board.request(ClockPoint(cores=4))
    assert (tmp_path / "root/sys/devices/system/cpu/online").read_text() == "0-11\n"
    assert board.observe().cores == 4


class ShyPolicies:
    """A kernel that answers EBUSY to every file of a policy while its cores are offline (Linux 6 cpufreq.c)."""

    def __init__(self, virtual: VirtualBoard) -> None:
        self._tree = virtual.tree
        self.write, self.glob, self.exists = self._tree.write, self._tree.glob, self._tree.exists
        self.watch = self._tree.watch

    def read(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        if "/policy" in folder and name != "affected_cpus" and not self._tree.read(f"{folder}/affected_cpus"):
            raise SensorUnavailable(path, "Device or resource busy", errno.EBUSY)
        return self._tree.read(path)


def test_a_mode_that_hides_policies_hides_no_cores(virtual: VirtualBoard, time: VirtualTime) -> None:
    """Where a power mode has taken whole clusters off, they are not offered, and still freed where all is unknown."""
    virtual.kernel.apply_mode(1)
    time.sleep(0.1)
    board = JetsonBoard("shy", ShyPolicies(virtual), virtual.layout, time.clock, time.sleep)
    assert board.table.cores == (4,)
    originals = board.read_knobs()
    assert [originals[f"cpu{cpu}.online"] for cpu in (0, 3, 4, 11)] == [1, 1, 0, 0]
    assert board.request(board.table.maximum()).honoured
    board.restore(originals)
    assert board.read_knobs() == originals
    board.restore({})
    board.rescan()
    assert board.table.cores == (4, 8, 12)


class CountingTree(SysfsTree):
    """Counts reads."""

    reads = 0

    def read(self, path: str) -> str:
        self.reads += 1
        return super().read(path)


def test_a_tick_reads_few_files(tmp_path: Path, time: VirtualTime) -> None:
    """Twenty times a second, on an AGX Orin: clocks in 11 reads, knobs in 11 (12 with the EMC locked), rails in 6."""
    virtual = VirtualBoard("virtual:agx-orin", time.clock, time.sleep)
    export(virtual.tree, tmp_path / "root")
    tree = CountingTree(tmp_path / "root")
    board = JetsonBoard("counted", tree, virtual.layout, time.clock, time.sleep)
    counts = []
    board.rails()
    for look in (board.observe, board.read_knobs, board.rails):
        tree.reads = 0
        look()
        counts.append(tree.reads)
    assert counts == [11, 11, 6]


@pytest.mark.parametrize("name", ["virtual:tx2@4", "virtual:xavier-nx@5", "virtual:agx-orin@6", "virtual:agx-thor@7"])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_stays_behind_whatever_went_wrong(time: VirtualTime, name: str, seed: int) -> None:
    """Requests that fail half-way, are ignored, clamped, refused or lose their part: once the faults are gone, one
    restore puts every knob file back."""
    board, generator = VirtualBoard(name, time.clock, time.sleep), random.Random(seed)
    originals, whole, failed = board.read_knobs(), board.table, 0
    for _ in range(60):
        kind = generator.choice(("ignored", "clamped", "denied", "busy", "missing"))
        board.faults = Faults(**{kind: frozenset(generator.sample(sorted(OF_KNOB), generator.randrange(3)))})
        values = {knob: generator.choice(steps) for knob in OF_KNOB if (steps := getattr(board.table, knob))}
        try:
            failed += not board.request(ClockPoint(**values)).honoured
        except BoardError:
            failed += 1
        if generator.random() < 0.2:
            with contextlib.suppress(NotRestored):
                board.restore(originals)
        if generator.random() < 0.3:
            board.rescan()
    assert failed > 10
    board.faults = Faults()
    board.rescan()
    board.restore(originals)
    board.rescan()
    assert board.read_knobs() == originals
    assert (board.table.gpu_hz, board.table.cpu_hz, board.table.cores) == (whole.gpu_hz, whole.cpu_hz, whole.cores)


@pytest.mark.parametrize("text", ["", "fast slow", "306000000 x"])
def test_a_table_that_is_none_is_a_missing_part(files: Path, text: str) -> None:
    """A GPU without steps, or with steps that are no numbers, offers nothing; the rest of the board works."""
    (files / "sys/class/devfreq/17000000.gpu/available_frequencies").write_text(text)
    board = open_jetson(files)
    assert board.missing == ("gpu",)
    assert board.table.gpu_hz == ()
    assert board.table.emc_hz


def test_a_lock_of_somebody_elses_is_put_back(files: Path, time: VirtualTime) -> None:
    """Memory that jetson_clocks had locked before us is locked again after us, at its rate."""
    emc = files / "sys/kernel/debug/bpmp/debug/clk/emc"
    (emc / "mrq_rate_locked").write_text("1\n")
    (emc / "rate").write_text("2133000000\n")
    board = open_jetson(files, time.clock, time.sleep)
    originals = board.read_knobs()
    assert originals["emc.rate"] == 2_133_000_000
    assert board.request(ClockPoint(emc_hz=204_000_000)).honoured
    board.restore(originals)
    assert board.read_knobs() == originals
