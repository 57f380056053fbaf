# SPDX-License-Identifier: Apache-2.0
"""The simulated device keeps to the board's formulas and to clockd's manners."""

from __future__ import annotations

import itertools

import pytest
from device import info, simulation

from boards.clocks import ClockPoint
from boards.physics import idle_power_w
from governor.errors import ClockdUnavailable, LeaseLost, LeaseRefused
from governor.simulated_board import TABLE
from governor.simulation import SimulatedModel, Simulation
from telemetry.instance_page import Knobs

LOW = ClockPoint(306_000_000, 306_000_000, 665_600_000, 729_600_000, 4)


def live(world: Simulation, seconds: float) -> None:
    for _ in range(round(seconds * 10)):
        world.step(0.1)


def test_idle_it_draws_idle_power() -> None:
    """Joules are idle watts times seconds, at the clocks leased while the lease lasts and at the maximum after it."""
    world = simulation(0.0)
    world.board.lease(LOW, 4.95)
    live(world, 10)
    expected_j = 5 * idle_power_w(LOW) + 5 * idle_power_w(TABLE.maximum())
    assert world.energy_j == pytest.approx(expected_j)


def test_under_load_power_and_latency_are_those_of_the_formulas() -> None:
    """Requests far apart take the workload's latency; the busy time is charged with its busy power."""
    world = simulation(1.0)
    world.board.lease(LOW, 1000.0)
    live(world, 300)
    model = world.models[0]
    alone = [sample.service_s for sample in model.finished if sample.batch == 1]
    assert sum(alone) / len(alone) == pytest.approx(model.workload.latency_s(LOW, 1), rel=0.01)
    assert len(model.finished) == pytest.approx(300, rel=0.2)
    busy_w = model.workload.busy_power_w(LOW, 1)
    expected_j = busy_w * model.busy_s + idle_power_w(LOW) * (300 - model.busy_s)
    assert world.energy_j == pytest.approx(expected_j, rel=0.01)


def test_a_batch_limit_holds_until_it_expires() -> None:
    """No batch exceeds the knob in force; afterwards the model's own limit is back."""
    world = simulation(400.0)
    world.write_knobs("resnet18_0_0", Knobs(2, 0), 5.0)
    live(world, 5)
    assert {sample.batch for sample in world.models[0].finished} <= {1, 2}
    live(world, 5)
    assert max(sample.batch for sample in world.models[0].finished) == 8


def test_a_lease_expires_is_lost_and_can_be_refused() -> None:
    """As clockd answers: `LeaseLost` after its time, `LeaseRefused` off the table, nobody there when it is stopped."""
    world = simulation()
    board = world.board
    assert board.lease(LOW, 1.0).honoured
    live(world, 0.5)
    board.renew(1.0)
    live(world, 0.9)
    assert board.point == LOW
    live(world, 0.2)
    with pytest.raises(LeaseLost):
        board.renew(1.0)
    with pytest.raises(LeaseRefused, match="not_offered"):
        board.lease(ClockPoint(gpu_hz=1), 1.0)
    board.stop()
    with pytest.raises(ClockdUnavailable):
        board.table()
    assert world.read().board is None
    board.start()
    board.honours = False
    assert not board.lease(LOW, 1.0).honoured


def test_one_device_serves_both_models_and_the_seed_decides() -> None:
    """Services never overlap, and the same seed lives the same life."""

    def lived(seed: int) -> Simulation:
        world = Simulation([SimulatedModel(info(name), 10.0, seed) for name in ("resnet18", "other")])
        live(world, 60)
        return world

    first, again, another = lived(1), lived(1), lived(2)
    assert [model.finished for model in first.models] == [model.finished for model in again.models]
    assert [model.finished for model in first.models] != [model.finished for model in another.models]
    spans = sorted({(s.start_ns, s.end_ns) for model in first.models for s in model.finished})
    assert all(end_ns <= start_ns for (_, end_ns), (start_ns, _) in itertools.pairwise(spans))


def test_a_view_shows_each_sample_once() -> None:
    """As a page's cursor does; counters go on."""
    world = simulation(20.0)
    live(world, 5)
    first, second = world.read().instances[0], world.read().instances[0]
    assert len(first.samples) == first.requests > 0
    assert second.samples == ()
    assert second.requests == first.requests
