# SPDX-License-Identifier: Apache-2.0
"""The physics of the virtual board: laws that hold for every workload, batch and point."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from boards import physics
from boards.clocks import KNOBS, ClockPoint
from boards.errors import WorkloadUnreadable
from boards.physics import LOWEST, MAXIMUM, SHIPPED, Workload, idle_power_w, shipped
from boards.profile import read_profile

TABLE = read_profile("agx_orin_64gb").table()
BATCHES = (1, 2.5, 4, 10, 16, 32, 64, 100)


def points(count: int) -> list[ClockPoint]:
    generator = random.Random(11)
    found = []
    for _ in range(count):
        values = {knob: generator.choice(getattr(TABLE, knob)) for knob in KNOBS}
        found.append(ClockPoint(**values | {"gpu_min_hz": min(values["gpu_min_hz"], values["gpu_hz"])}))
    return found


def one_step_down(point: ClockPoint) -> list[ClockPoint]:
    """The point with each knob in turn one step lower, where there is one."""
    lower = []
    for knob in ("gpu_hz", "emc_hz", "cpu_hz", "cores"):
        values = getattr(TABLE, knob)
        position = values.index(getattr(point, knob))
        if position:
            lower.append(replace(point, **{knob: values[position - 1]}))
    return lower


@pytest.fixture(params=SHIPPED)
def workload(request: pytest.FixtureRequest) -> Workload:
    return shipped(request.param)


@pytest.mark.parametrize("training", [False, True])
def test_lower_clocks_are_never_faster(workload: Workload, training: bool) -> None:
    """One step down on any knob never shortens a batch, and lowering every clock always lengthens it."""
    for point in points(60):
        for batch in BATCHES:
            latency = workload.latency_s(point, batch, training=training)
            for lower in one_step_down(point):
                assert workload.latency_s(lower, batch, training=training) >= latency
    slowest = workload.latency_s(LOWEST, 4, training=training)
    assert slowest > 4 * workload.latency_s(MAXIMUM, 4, training=training)


@pytest.mark.parametrize("training", [False, True])
def test_lower_clocks_never_draw_more(workload: Workload, training: bool) -> None:
    """One step down on any knob never raises busy power."""
    for point in points(60):
        for batch in BATCHES:
            power = workload.busy_power_w(point, batch, training=training)
            for lower in one_step_down(point):
                assert workload.busy_power_w(lower, batch, training=training) <= power + 1e-9


def test_work_never_draws_less_than_rest(workload: Workload) -> None:
    """Busy power is at least the idle power of the same point."""
    for point in points(200):
        assert all(workload.busy_power_w(point, batch) >= idle_power_w(point) for batch in BATCHES)


def test_idle_power_is_nine_watts_at_the_lowest_clocks() -> None:
    """The declared floor, rising with every pinned clock, and moderate at the top."""
    assert idle_power_w(LOWEST) == pytest.approx(9.0)
    assert 12 < idle_power_w(MAXIMUM) < 20
    for point in points(100):
        assert 9.0 - 1e-9 <= idle_power_w(point) <= idle_power_w(MAXIMUM) + 1e-9
        assert all(idle_power_w(lower) <= idle_power_w(point) for lower in one_step_down(point))


def test_the_gpu_minimum_costs_idle_power() -> None:
    """Idle power follows the GPU's lower limit, not its upper one."""
    pinned, free = MAXIMUM, replace(MAXIMUM, gpu_min_hz=306_000_000)
    assert idle_power_w(pinned) > idle_power_w(free) + 1
    assert idle_power_w(free) == idle_power_w(replace(free, gpu_hz=612_000_000))


def test_slowdown_is_one_at_maximum_clocks(workload: Workload) -> None:
    """The factor compares with maximum clocks at the same batch size."""
    assert all(workload.slowdown(MAXIMUM, batch) == pytest.approx(1) for batch in BATCHES)
    assert all(workload.slowdown(point, 4) >= 1 for point in points(50))


def test_batches_between_those_measured_lie_between(workload: Workload) -> None:
    """Latency is interpolated, and grows in proportion beyond the largest batch."""
    sizes = [size for size, _ in workload.inference]
    point = points(1)[0]
    low, middle, high = (workload.latency_s(point, batch) for batch in (sizes[0], (sizes[0] + sizes[1]) / 2, sizes[1]))
    assert middle == pytest.approx((low + high) / 2)
    assert workload.latency_s(point, 2 * sizes[-1]) == pytest.approx(2 * workload.latency_s(point, sizes[-1]))


def test_workloads_are_bound_by_what_they_are_known_for() -> None:
    """ResNet at batch 1 waits for the CPU, BERT for GPU and memory: the surfaces tell them apart."""
    slow_cpu = replace(MAXIMUM, cpu_hz=422_400_000)
    slow_gpu = replace(MAXIMUM, gpu_hz=306_000_000)
    assert shipped("resnet").slowdown(slow_cpu, 1) > 3
    assert shipped("bert").slowdown(slow_cpu, 8) < 1.4
    assert shipped("bert").slowdown(slow_gpu, 8) > 2.5
    assert shipped("bert").slowdown(replace(MAXIMUM, emc_hz=665_600_000), 8) > 3


@pytest.mark.parametrize("phase", ["inference", "training"])
def test_the_shipped_fit_is_good(workload: Workload, phase: str) -> None:
    """The files carry their own errors: median below 3 % in latency and power, over nearly all measured rows."""
    fit = workload.fit[phase]
    assert fit["latency_error_median"] < 0.03
    assert fit["power_error_median"] < 0.03
    assert fit["rows"] > 400


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    """Coefficients may come from a user's file."""
    text = (Path(physics.__file__).parent / "workloads/bert.json").read_text()
    record = json.loads(text) | {"name": "mine"}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(record))
    mine = physics.read_workload(file)
    assert mine.name == "mine"
    assert mine.latency_s(LOWEST, 3) == shipped("bert").latency_s(LOWEST, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"host_s": -1.0}, "not negative"),
        ({"gpu_s": 0.0}, "above 0"),
        ({"device_norm": 0.5}, "at least 1"),
        ({"memory_s": "fast"}, "not negative"),
        ({"surprise": 1.0}, "surprise"),
        ({"cpu_cubic_w": float("nan")}, "not negative"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, change: dict[str, object], message: str) -> None:
    """Unknown, missing, negative or non-finite coefficients name the file and the fault."""
    record = json.loads((Path(physics.__file__).parent / "workloads/lstm.json").read_text())
    record["inference"]["4"] |= change
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(record))
    with pytest.raises(WorkloadUnreadable, match=message) as refused:
        physics.read_workload(file)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"name": "x", "inference": {}}', '{"name": "x", "inference": {"0": {}}}']
)
def test_a_file_that_is_no_workload_is_refused(text: str) -> None:
    """Anything but a workload raises `WorkloadUnreadable`."""
    with pytest.raises(WorkloadUnreadable):
        physics.parse_workload(text, "file")
    with pytest.raises(WorkloadUnreadable):
        physics.read_workload(Path("/nonexistent/file.json"))
