# SPDX-License-Identifier: Apache-2.0
"""The virtual board under load and under faults, in virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from boards.clocks import KNOBS, ClockPoint
from boards.errors import NotRestored, SensorImplausible, SensorUnavailable
from boards.physics import MAXIMUM, idle_power_w
from boards.virtual import Load, VirtualBoard
from boards.virtual_faults import Faults

if TYPE_CHECKING:
    from .conftest import VirtualTime

LOW = ClockPoint(408_000_000, 306_000_000, 665_600_000, 960_000_000, 4)
TICK_S = 0.05


def spend(board: VirtualBoard, time: VirtualTime, seconds: float, share: float = 0.0, batch: float = 4) -> float:
    """Let time pass with the board busy for a share of it; joules drawn."""
    joules = 0.0
    for _ in range(round(seconds / TICK_S)):
        time.sleep(TICK_S)
        joules += board.run([Load("resnet", share * TICK_S, batch)], TICK_S).total_w * TICK_S
    return joules


def test_a_board_at_rest_draws_its_idle_power(virtual: VirtualBoard, time: VirtualTime) -> None:
    """Without load the rails add up to the idle power of the clocks, to a step of the sensor."""
    spend(virtual, time, 1.0)
    assert virtual.power_w() == pytest.approx(idle_power_w(virtual.observe()), abs=0.1)


def test_load_raises_power_to_what_the_physics_say(virtual: VirtualBoard, time: VirtualTime) -> None:
    """Half busy draws half of the idle and half of the busy power."""
    virtual.request(replace(MAXIMUM, gpu_min_hz=306_000_000))
    spend(virtual, time, 1.0, share=0.5)
    point = virtual.observe()
    expected = 0.5 * idle_power_w(point) + 0.5 * virtual.workloads["resnet"].busy_power_w(point, 4)
    assert virtual.power_w() == pytest.approx(expected, abs=0.2)


def test_busy_time_beyond_the_tick_is_charged_later(virtual: VirtualBoard, time: VirtualTime) -> None:
    """A long batch reports all its time at its end; its energy is neither lost nor drawn all at once."""
    quiet = idle_power_w(virtual.observe())
    busy = virtual.workloads["bert"].busy_power_w(virtual.observe(), 2)
    first = virtual.run([Load("bert", 0.225, 2)], TICK_S).total_w
    assert first == pytest.approx(busy)
    assert virtual.backlog_s == pytest.approx(0.175)
    joules = first * TICK_S + spend(virtual, time, 1.0)
    assert virtual.backlog_s == 0
    assert joules == pytest.approx(1.05 * quiet + 0.225 * (busy - quiet))


def test_rails_average_over_430_ms(virtual: VirtualBoard, time: VirtualTime) -> None:
    """A step in power appears on the rails as a ramp that ends one window later."""
    low = virtual.power_w()
    high = virtual.workloads["resnet"].busy_power_w(virtual.observe(), 4)
    seen = []
    for _ in range(10):
        spend(virtual, time, TICK_S, share=1.0)
        seen.append(virtual.power_w())
    assert seen[3] == pytest.approx(low + (high - low) * 0.2 / 0.43, abs=0.2)
    assert seen == sorted(seen)
    assert seen[7] < high - 0.5
    assert seen[8] == pytest.approx(high, abs=0.2)


def test_rails_count_in_steps(virtual: VirtualBoard) -> None:
    """The INA3221 knows 8 mV and 20 mA; its channels that are not wired answer ENODATA."""
    for channel in virtual.parts.rails.channels:
        assert int(virtual.tree.read(channel.files[0])) % 8 == 0
        assert int(virtual.tree.read(channel.files[1])) % 20 == 0
    for unwired in ("in1_input", "curr3_input"):
        with pytest.raises(SensorUnavailable):
            virtual.tree.read(f"/sys/bus/i2c/devices/1-0041/hwmon/hwmon2/{unwired}")


def test_load_warms_the_module(virtual: VirtualBoard, time: VirtualTime) -> None:
    """Temperature follows power, slowly."""
    before = virtual.thermals()["tj-thermal"] or 0
    spend(virtual, time, 1.0, share=1.0)
    soon = virtual.thermals()["tj-thermal"] or 0
    spend(virtual, time, 120.0, share=1.0)
    later = virtual.thermals()["tj-thermal"] or 0
    assert before < soon < before + 3
    assert later > before + 10


def test_lower_clocks_slow_every_batch_down(virtual: VirtualBoard) -> None:
    """At maximum clocks every factor is 1; at low ones above it, by batch size."""
    virtual.request(MAXIMUM)
    assert virtual.slowdowns("resnet", (1, 4, 64)) == (1, 1, 1)
    virtual.request(LOW)
    factors = virtual.slowdowns("resnet", (1, 4, 64))
    assert min(factors) > 1.5
    assert len(set(factors)) == 3


def test_training_has_its_own_surface(virtual: VirtualBoard) -> None:
    """A training step is neither slowed down nor charged like an inference batch."""
    virtual.request(LOW)
    assert virtual.slowdowns("bert", (16,)) != virtual.slowdowns("bert", (16,), training=True)
    power = virtual.workloads["bert"].busy_power_w(LOW, 16, training=True)
    assert virtual.run([Load("bert", 1.0, 16, training=True)], 1.0).total_w == pytest.approx(power)


def test_a_workload_it_does_not_know_is_an_error(virtual: VirtualBoard) -> None:
    """No load is charged as something else."""
    with pytest.raises(KeyError, match="unheard-of"):
        virtual.run([Load("unheard-of", 0.1, 1)], 0.1)


@pytest.mark.parametrize("knob", KNOBS)
def test_an_ignored_write_is_found_by_reading_back(virtual: VirtualBoard, time: VirtualTime, knob: str) -> None:
    """A knob that does not move is not honoured, is observed where it stands, and costs half a second at most."""
    virtual.faults = Faults(ignored=frozenset({knob}))
    before = virtual.observe()
    started = time.now_s
    applied = virtual.request(replace(LOW, gpu_min_hz=408_000_000))
    assert not applied.honoured
    assert getattr(applied.observed, knob) == getattr(before, knob)
    assert time.now_s - started <= 0.52
    others = [other for other in KNOBS if other != knob]
    assert all(getattr(applied.observed, other) == getattr(applied.requested, other) for other in others)


def test_a_restore_that_does_not_take_is_an_error(virtual: VirtualBoard) -> None:
    """Whoever restores must know that it failed, and what."""
    originals = virtual.read_knobs()
    virtual.request(LOW)
    virtual.faults = Faults(ignored=frozenset({"gpu_hz"}))
    with pytest.raises(NotRestored, match=r"gpu\.max_freq"):
        virtual.restore(originals)
    assert virtual.observe().cores == 12
    virtual.faults = Faults()
    virtual.restore(originals)
    assert virtual.read_knobs() == originals


def test_throttling_shows(virtual: VirtualBoard, time: VirtualTime) -> None:
    """A throttled GPU raises its alert, slows batches down, and reads back below its limits."""
    virtual.request(MAXIMUM)
    virtual.faults = Faults(throttled=True)
    assert virtual.throttle().alerts == ("gpu-throttle-alert",)
    assert virtual.slowdowns("resnet", (16,))[0] > 2
    assert virtual.observe() != MAXIMUM


def test_a_frozen_sensor_repeats_itself(virtual: VirtualBoard, time: VirtualTime) -> None:
    """The reading stays while the power moves."""
    virtual.faults = Faults(sensor="frozen")
    before = virtual.rails()
    spend(virtual, time, 1.0, share=1.0)
    assert virtual.rails() == before


def test_a_negative_reading_is_refused(virtual: VirtualBoard) -> None:
    """Negative power never becomes a number."""
    virtual.faults = Faults(sensor="negative")
    with pytest.raises(SensorImplausible):
        virtual.power_w()


def test_cores_that_come_back_obey_the_limit_in_force(virtual: VirtualBoard) -> None:
    """A cluster that was off keeps its old limit; bringing it back must not bring that back."""
    virtual.request(ClockPoint(cores=4))
    virtual.request(ClockPoint(cpu_hz=960_000_000))
    applied = virtual.request(ClockPoint(cores=12))
    assert applied.honoured
    assert virtual.observe().cpu_hz == 960_000_000
