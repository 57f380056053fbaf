# SPDX-License-Identifier: Apache-2.0
"""Faults of the clocks on request: what each does to writes and files, on boards of every kernel."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from boards.clocks import KNOBS
from boards.errors import KnobDenied, KnobRefused, NodeMissing
from boards.virtual import NAMES, VirtualBoard
from boards.virtual_cpu import FOLDER as CPU
from boards.virtual_emc import FOLDER as EMC
from boards.virtual_faults import Faults, read_faults

if TYPE_CHECKING:
    from .conftest import VirtualTime

BOARDS = ("virtual:tx2", "virtual:xavier-nx@4", "virtual:orin-nano@5", "virtual:agx-orin", "virtual:agx-thor")


@pytest.fixture(params=BOARDS)
def board(request: pytest.FixtureRequest, time: VirtualTime) -> VirtualBoard:
    return VirtualBoard(request.param, time.clock, time.sleep)


def knob_file(board: VirtualBoard, knob: str) -> tuple[str, str]:
    """A file of a knob, and a value that the kernel takes there at rest."""
    profile = board.kernel.profile
    files = {
        "gpu_hz": (f"{board.kernel.gpu.folder}/max_freq", profile.gpu.hz[-2]),
        "gpu_min_hz": (f"{board.kernel.gpu.folder}/min_freq", profile.gpu.hz[-2]),
        "emc_hz": (f"{EMC}/rate", profile.emc.lockable_hz[0]),
        "cpu_hz": (f"{CPU}/cpufreq/policy0/scaling_max_freq", profile.cpu.hz[-2] // 1000),
        "cores": (f"{CPU}/cpu1/online", 0),
    }
    path, value = files[knob]
    return path, str(value)


@pytest.fixture
def locked(board: VirtualBoard) -> VirtualBoard:
    """With the memory locked, so that each knob takes its value."""
    board.tree.write(f"{EMC}/mrq_rate_locked", "1")
    if board.kernel.profile.emc.needs_halt:
        board.tree.write(board.kernel.profile.emc.bwmgr_halt or "", "1")
    return board


@pytest.mark.parametrize("knob", KNOBS)
def test_ignored(locked: VirtualBoard, time: VirtualTime, knob: str) -> None:
    """The write succeeds, and nothing follows it until the fault ends."""
    path, value = knob_file(locked, knob)
    before = locked.tree.read(path)
    for faults, read in ((Faults(ignored=frozenset({knob})), before), (Faults(), value)):
        locked.faults = faults
        locked.tree.write(path, value)
        time.sleep(0.01)
        assert locked.tree.read(path) == read


@pytest.mark.parametrize("knob", KNOBS)
def test_denied(locked: VirtualBoard, knob: str) -> None:
    """EACCES; the other knobs still move."""
    locked.faults = Faults(denied=frozenset({knob}))
    for other in KNOBS:
        path, value = knob_file(locked, other)
        if other == knob:
            with pytest.raises(KnobDenied):
                locked.tree.write(path, value)
        else:
            locked.tree.write(path, value)


@pytest.mark.parametrize("knob", KNOBS)
def test_busy_for_a_time(locked: VirtualBoard, time: VirtualTime, knob: str) -> None:
    """So many writes fail, then they are taken; switching the fault on again starts over."""
    path, value = knob_file(locked, knob)
    for _ in range(2):
        locked.faults = Faults(busy=frozenset({knob}), busy_times=2)
        for _ in range(2):
            with pytest.raises(KnobRefused) as refused:
                locked.tree.write(path, value)
            assert refused.value.code == (errno.EAGAIN if knob == "emc_hz" else errno.EBUSY)
        locked.tree.write(path, value)
        time.sleep(0.01)
        assert locked.tree.read(path) == value


def test_busy_for_good(locked: VirtualBoard) -> None:
    """With `busy_times` 0 no write is ever taken."""
    locked.faults = Faults(busy=frozenset({"gpu_hz"}))
    path, value = knob_file(locked, "gpu_hz")
    for _ in range(20):
        with pytest.raises(KnobRefused):
            locked.tree.write(path, value)


def test_clamped(locked: VirtualBoard, time: VirtualTime) -> None:
    """Values above the middle of a table become that, and read so; those below are taken."""
    profile, kernel = locked.kernel.profile, locked.kernel
    locked.faults = Faults(clamped=frozenset(KNOBS))
    gpu, emc, cpu = profile.gpu.hz, profile.emc.lockable_hz, [hz // 1000 for hz in profile.cpu.hz]
    locked.tree.write(f"{kernel.gpu.folder}/min_freq", "0")
    for steps, path in (
        (gpu, f"{kernel.gpu.folder}/max_freq"),
        (emc, f"{EMC}/rate"),
        (cpu, f"{CPU}/cpufreq/policy0/scaling_max_freq"),
    ):
        for asked, granted in ((steps[-1], steps[len(steps) // 2]), (steps[len(steps) // 2 - 1],) * 2):
            if path.startswith(CPU):
                locked.tree.write(path.replace("max", "min"), "0")
            locked.tree.write(path, str(asked))
            time.sleep(0.01)
            assert int(locked.tree.read(path)) == granted
    for value in ("0", "1"):
        for cpu_file in kernel.cpus.core_files()[1:]:
            locked.tree.write(cpu_file, value)
    counts = profile.table().cores
    assert kernel.point().cores == counts[len(counts) // 2]


@pytest.mark.parametrize("knob", KNOBS)
def test_missing(board: VirtualBoard, knob: str) -> None:
    """The part's files are gone for reading, writing and searching, and back when the fault ends."""
    path, value = knob_file(board, knob)
    links = board.tree.glob("/sys/class/devfreq/*/max_freq")
    board.faults = Faults(missing=frozenset({knob}))
    assert not board.tree.exists(path)
    assert path not in board.tree.glob(path.replace("policy0", "policy*").replace("cpu1", "cpu*"))
    with pytest.raises(NodeMissing):
        board.tree.read(path)
    with pytest.raises(NodeMissing):
        board.tree.write(path, value)
    assert (board.tree.glob("/sys/class/devfreq/*/max_freq") == links) == (knob not in ("gpu_hz", "gpu_min_hz"))
    board.faults = Faults()
    assert board.tree.exists(path)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_board_without_faults_has_none(name: str, time: VirtualTime) -> None:
    """Every virtual board takes what its own table offers, and reads back as asked."""
    board = VirtualBoard(name, time.clock, time.sleep)
    assert board.faults == Faults()
    assert board.request(board.table.maximum()).honoured
    board.restore({})


def test_a_file_of_faults(tmp_path: Path) -> None:
    """Every field may stand in a JSON object; what is left out is sound."""
    file = tmp_path / "faults.json"
    file.write_text(
        json.dumps(
            {
                "ignored": ["gpu_hz"],
                "clamped": ["emc_hz"],
                "denied": ["cores"],
                "busy": ["cpu_hz"],
                "missing": ["gpu_min_hz"],
                "busy_times": 3,
                "sensor": "spike",
                "thermal": "unreadable",
                "throttled": True,
                "over_current": {"oc3": 12, "oc1": 0.5},
            }
        )
    )
    assert read_faults(file) == Faults(
        ignored=frozenset({"gpu_hz"}),
        clamped=frozenset({"emc_hz"}),
        denied=frozenset({"cores"}),
        busy=frozenset({"cpu_hz"}),
        missing=frozenset({"gpu_min_hz"}),
        busy_times=3,
        sensor="spike",
        thermal="unreadable",
        throttled=True,
        over_current={"oc3": 12, "oc1": 0.5},
    )
    file.write_text("{}")
    assert read_faults(file) == Faults()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "JSON object"),
        ("", "JSON object"),
        ({"ignore": ["gpu_hz"]}, "unknown fault"),
        ({"ignored": ["gpu"]}, "no such knob: gpu"),
        ({"ignored": "gpu_hz"}, "must be of type list"),
        ({"busy_times": -1}, "negative"),
        ({"busy_times": True}, "must be of type int"),
        ({"sensor": "loud"}, "sensor must be one of"),
        ({"thermal": "hot"}, "thermal must be one of"),
        ({"over_current": {"oc4": 1}}, "oc1, oc2, oc3"),
        ({"over_current": {"oc1": -1}}, "oc1: -1"),
        ({"over_current": {"oc1": "often"}}, "faults.json"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, record: Any, message: str) -> None:
    """Unknown fields, knobs and values name the file and what is wrong."""
    file = tmp_path / "faults.json"
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message) as refused:
        read_faults(file)
    assert str(file) in str(refused.value)


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    """A torn file is an error in words; one that is not there is the system's."""
    file = tmp_path / "faults.json"
    file.write_text('{"ignored": [')
    with pytest.raises(ValueError, match=r"faults\.json"):
        read_faults(file)
    with pytest.raises(FileNotFoundError):
        read_faults(tmp_path / "nothing.json")
