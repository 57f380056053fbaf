# SPDX-License-Identifier: Apache-2.0
"""Points of a search whose knobs may leave it."""

from __future__ import annotations

import subprocess
import sys

from boards.clocks import ClockPoint, ClockTable
from governor.points import batch_knob, clocks_of, knob_values, project, without
from governor.trial import Feasible, TrialRecord

TABLE = ClockTable(gpu_hz=(1, 2), gpu_min_hz=(1, 2), emc_hz=(3, 4), cpu_hz=(5, 6))


def trial(energy_j: float, **point: float) -> TrialRecord:
    return TrialRecord(point, Feasible(), energy_j, 0.01)


def test_of_points_that_become_one_the_highest_counts() -> None:
    """Without the memory clock, the trials at its top stand for their points; where there is none, the next lower."""
    records = [trial(1.0, gpu_hz=2, emc_hz=4), trial(2.0, gpu_hz=2, emc_hz=3), trial(3.0, gpu_hz=1, emc_hz=3)]
    told = [(record.point, record.energy_j) for record in project(records, ["gpu_hz"])]
    assert told == [({"gpu_hz": 2}, 1.0), ({"gpu_hz": 1}, 3.0)]


def test_trials_made_without_the_knob_count_before_all() -> None:
    """They measured what the board does now; repetitions all count."""
    records = [trial(1.0, gpu_hz=2, emc_hz=4), trial(2.0, gpu_hz=2), trial(3.0, gpu_hz=2)]
    assert [record.energy_j for record in project(records, ["gpu_hz"])] == [2.0, 3.0]


def test_with_every_knob_nothing_is_projected() -> None:
    """Trials stay as they are, in order; one that lacks a knob does not fit."""
    records = [trial(1.0, gpu_hz=2, emc_hz=4), trial(2.0, gpu_hz=2, emc_hz=3), trial(3.0, gpu_hz=2)]
    assert project(records, ["gpu_hz", "emc_hz"]) == records[:2]


def test_a_table_without_a_knob_neither_searches_nor_pins_it() -> None:
    """The lower GPU limit follows the upper one as long as the table has it."""
    assert clocks_of({"gpu_hz": 2.0, "batch": 4.0}, TABLE) == ClockPoint(gpu_hz=2, gpu_min_hz=2)
    assert clocks_of({"gpu_hz": 2.0}, without(TABLE, ["gpu_min_hz"])) == ClockPoint(gpu_hz=2)
    assert knob_values(("gpu_hz", "emc_hz"), without(TABLE, ["emc_hz"]), {"m": 4}) == {"gpu_hz": (1, 2)}


def test_each_model_has_a_batch_limit_of_its_own() -> None:
    """Up to its largest; with one model the knob is `batch`, and no batch limit is a clock."""
    assert knob_values(("batch",), TABLE, {"m": 3}) == {"batch": (1, 2, 3)}
    both = {"b": 2, "a": 4}
    assert knob_values(("gpu_hz", "batch"), TABLE, both) == {"gpu_hz": (1, 2), "batch.a": (1, 2, 4), "batch.b": (1, 2)}
    assert [batch_knob("a", both), batch_knob("a", {"a": 4})] == ["batch.a", "batch"]
    assert clocks_of({"gpu_hz": 1.0, "batch.a": 2.0, "batch.b": 1.0}, TABLE) == ClockPoint(gpu_hz=1, gpu_min_hz=1)


def test_a_governor_needs_no_torch_until_it_searches() -> None:
    """Everything but the search itself is imported without it: a governor that only guards starts at once."""
    code = (
        "import sys; import governor.loop, governor.hand, governor.tuning, governor.trial, governor.history,"
        "governor.exporter, governor.reader, governor.simulation, governor.in_turn;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'botorch', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
