# SPDX-License-Identifier: Apache-2.0
"""What tables of other workloads teach the search."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from boards.clocks import ClockPoint
from boards.physics import AGX_ORIN, idle_power_w, shipped
from governor.points import Table
from governor.surface_file import of_table
from governor.surrogate.prior import OF_THE_BOARD, belief_of, lessons_of
from governor.surrogate.roofline import NAMES, PRIOR_DEVIATION, PRIOR_MEAN

GPU = (306e6, 510e6, 816e6, 1_020e6, 1_300.5e6)
EMC = (665.6e6, 2_133e6, 3_199e6)


def table_of(workload: str, meter: float = 1.0) -> dict[str, list[float]]:
    """Every point of a small table, as a virtual board measures them."""
    rows = list(itertools.product(GPU, EMC, (1.0, 4.0, 16.0)))
    surface = shipped(workload)
    points = [(ClockPoint(gpu_hz=int(gpu), gpu_min_hz=int(gpu), emc_hz=int(emc)), batch) for gpu, emc, batch in rows]
    seconds = [surface.latency_s(*point) for point in points]
    joules = [surface.busy_power_w(*point) * time / point[1] for point, time in zip(points, seconds, strict=True)]
    gpu, emc, batch = (list(column) for column in zip(*rows, strict=True))
    return {
        "gpu_hz": gpu,
        "emc_hz": emc,
        "batch": batch,
        "latency_s": seconds,
        "energy_j": [meter * each for each in joules],
    }


def test_only_the_board_carries_over() -> None:
    """Static power and voltage are learnt; what a workload needs is as open as before."""
    belief = belief_of(lessons_of([table_of("resnet"), table_of("lstm")]), 30.0)
    for number, name in enumerate(NAMES):
        if name in OF_THE_BOARD:
            assert belief.deviation[number] < PRIOR_DEVIATION[number]
        else:
            assert float(belief.mean[number]) == pytest.approx(float(PRIOR_MEAN[number]))
            assert belief.deviation[number] == PRIOR_DEVIATION[number]


def test_watts_are_the_boards_whatever_the_workload_draws() -> None:
    """Told that its first trial draws twice the power, the static share is half."""
    lessons = lessons_of([table_of("resnet"), table_of("bert")])
    watts = NAMES.index("static_w")
    less, more = belief_of(lessons, 20.0).mean[watts], belief_of(lessons, 40.0).mean[watts]
    pull = (less - more) / math.log(2)
    assert 0.6 < pull <= 1.0


def surface_at(rate_hz: float) -> Table:
    """A small surface as a virtual board stores it: single requests of `resnet`, at this load."""
    rows, surface = list(itertools.product(GPU, EMC, (1.0, 4.0))), shipped("resnet")
    points = [ClockPoint(gpu_hz=int(gpu), gpu_min_hz=int(gpu), emc_hz=int(emc)) for gpu, emc, _ in rows]
    seconds = [surface.latency_s(point, 1) for point in points]
    busy = [rate_hz * each for each in seconds]
    watts = [
        share * surface.busy_power_w(point, 1) + (1 - share) * idle_power_w(point)
        for point, share in zip(points, busy, strict=True)
    ]
    gpu, emc, batch = (list(column) for column in zip(*rows, strict=True))
    columns = {
        "gpu_hz": gpu,
        "emc_hz": emc,
        "batch": batch,
        "latency_s": [each * (1 + share / (1 - share) / 2) for each, share in zip(seconds, busy, strict=True)],
        "energy_j": [each / rate_hz for each in watts],
    }
    return of_table(columns, "virtual:agx-orin", ["resnet18"], 0.1, rate_hz, virtual=True).table


@pytest.mark.parametrize("rate_hz", [8.0, 20.0])
def test_a_stored_surface_teaches_the_watts_that_flow_at_its_load(rate_hz: float) -> None:
    """What no clock that was searched moves is known within a fifth; taken for batches back to back it is not."""
    at_top = AGX_ORIN.idle(ClockPoint())
    table, watts = surface_at(rate_hz), NAMES.index("static_w")
    (lesson,) = lessons_of([table])
    assert math.exp(float(lesson.theta[watts])) == pytest.approx(at_top.rest_w + at_top.cpu_w, rel=0.2)
    (blind,) = lessons_of([{name: column for name, column in table.items() if name != "rate_hz"}])
    assert math.exp(float(blind.theta[watts])) < 0.8 * (at_top.rest_w + at_top.cpu_w)


def test_a_load_that_is_none_is_refused() -> None:
    """The message names the table."""
    with pytest.raises(ValueError, match="resnet18 at 20/s"):
        lessons_of([{**surface_at(20.0), "rate_hz": 0.0}])


def test_flagged_and_impossible_rows_teach_nothing() -> None:
    """A bogus reading that is marked, or that is no number, leaves the lesson as it was."""
    sound = table_of("resnet")
    spoilt: dict[str, list[float]] = {name: list(column) for name, column in sound.items()}
    spoilt["flagged"] = [0.0] * len(sound["gpu_hz"])
    for column, wild in (("energy_j", 1e-3), ("latency_s", math.nan)):
        spoilt["flagged"].append(1.0 if column == "energy_j" else 0.0)
        for name in sound:
            spoilt[name].append(wild if name == column else sound[name][0])
    before, after = (lessons_of([table])[0].theta for table in (sound, spoilt))
    assert torch.allclose(before, after, atol=1e-6)


def test_tables_that_teach_nothing_are_no_obstacle() -> None:
    """Too few rows, or no knob at all, leave the prior as it is; unequal columns are an error that names the table."""
    few: Table = {"gpu_hz": [1e9, 2e9], "latency_s": [0.1, 0.05], "energy_j": [1.0, 1.0]}
    bare: Table = {"latency_s": [0.1] * 9, "energy_j": [1.0] * 9}
    belief = belief_of(lessons_of([few, bare]), 10.0)
    assert torch.allclose(belief.mean, PRIOR_MEAN)
    assert torch.equal(belief.deviation, PRIOR_DEVIATION)
    with pytest.raises(ValueError, match="lopsided"):
        lessons_of([{"name": "lopsided", "gpu_hz": [1e9] * 5, "latency_s": [0.1] * 4, "energy_j": [1.0] * 5}])
