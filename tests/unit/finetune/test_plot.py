# SPDX-License-Identifier: Apache-2.0
"""The picture of a plan: what each result is to each time step, and the RAM of each."""

from __future__ import annotations

from dataclasses import replace

from finetune.planning.limits import ROOMY
from finetune.plot import ABSENT, AGAIN, COMPUTED, FREED, IN_RAM, ON_STORAGE, READ, WRITTEN, ram_bytes, states
from finetune.replay import replay
from finetune.schedule import keep_everything, schedule_of
from tests.unit.finetune.steps import chain


def test_every_result_has_its_state_in_every_step() -> None:
    """Value 0 is computed, written, on storage and read; value 1 is computed, dropped and computed again."""
    rows = [["C", 0], ["C", 1], ["O", 0], ["F", 0], ["C", 2], ["F", 1], ["C", 3], ["I", 0], ["C", 1], ["F", 2]]
    rows += [["F", 3], ["C", 4], ["F", 1], ["C", 5]]
    graph = chain(3, ROOMY).graph
    cells = states(graph, schedule_of(rows))
    assert cells[0].tolist() == [COMPUTED, IN_RAM, WRITTEN, ON_STORAGE, READ, IN_RAM, IN_RAM]
    assert cells[1].tolist() == [ABSENT, COMPUTED, IN_RAM, FREED, AGAIN, IN_RAM, FREED]
    assert cells[5].tolist() == [ABSENT] * 6 + [COMPUTED]


def test_ram_of_the_steps_peaks_where_the_judge_says() -> None:
    """Also with workspace; under `poet` without."""
    problem = chain(4, ROOMY)
    costs = replace(problem.costs, workspace_bytes=(0, 0, 35, 0, 0, 0, 0, 0))
    for one in (problem, replace(problem, costs=costs), replace(problem, costs=costs, semantics="poet")):
        schedule = keep_everything(one.graph)
        used = ram_bytes(one, schedule)
        assert len(used) == 8
        assert max(used) == replay(one, schedule).peak_bytes
