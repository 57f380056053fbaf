# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from finetune.capture import Captured, capture
from finetune.capturing.optimizer import with_optimizer
from finetune.capturing.torch_private import recording_memory
from finetune.errors import GraphInvalid
from finetune.paging.channel import Channel
from finetune.problem import Limits
from finetune.profile import Profile, problem_of, profile
from finetune.profiling.channel import PagingFile, filesystem_of, measure_speeds
from finetune.profiling.energy import Meter, Power
from finetune.profiling.profile_file import read_profile, write_profile
from finetune.replay import replay
from finetune.schedule import keep_everything
from telemetry.board_page import BoardReading
from tests.unit.finetune.captured_steps import Residual, planned

BLANK = BoardReading("board", False, False, 0, (None,) * 5, (None,) * 5, 0.0, 0.0, 0.0, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def captured() -> Captured:
    torch.manual_seed(3)
    return capture(Residual(), nn.functional.cross_entropy, (torch.randn(8, 3, 32, 32), torch.arange(8) % 5))


@pytest.fixture(scope="module")
def found(captured: Captured, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return profile(captured, tmp_path_factory.mktemp("pages"), repeats=2)


def test_every_op_is_timed_and_nothing_changes(captured: Captured, tmp_path: Path) -> None:
    """All ops have a time above nothing; weights, buffers, gradients and the random state are as before."""
    before = {name: value.clone() for name, value in captured.step.state_dict().items()}
    state = torch.get_rng_state()
    found = profile(captured, tmp_path, repeats=1)
    assert list(found.ops) == [op.name for op in captured.graph.ops]
    assert all(cost.time_s > 0 for cost in found.ops.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in captured.step.state_dict().items())
    assert all(parameter.grad is None for parameter in captured.step.parameters())
    assert list(tmp_path.iterdir()) == []


def test_workspace_is_what_an_op_holds_beyond_its_outputs(captured: Captured, found: Profile) -> None:
    """Eager's dropout draws a mask of floats and keeps one of bytes: its workspace is the floats; a relu has none."""
    graph = captured.graph
    dropout = next(op for op in graph.ops if op.target == "dropout")
    kept_bytes = sum(graph.storages[storage].size_bytes for storage in dropout.outputs)
    elements = kept_bytes // 5
    assert found.ops[dropout.name].output_bytes == kept_bytes
    assert elements * 4 <= found.ops[dropout.name].workspace_bytes + kept_bytes - elements * 5 <= elements * 4 + 4096
    relu = next(op for op in graph.ops if op.target == "aten.relu.default")
    assert found.ops[relu.name].workspace_bytes == 0


def test_the_peak_with_workspaces_is_the_allocators(captured: Captured, found: Profile) -> None:
    """What the judge says the step needs is what torch's allocator saw when it ran, within a hundredth."""
    with recording_memory() as events:
        planned(captured, seed=1)
    live = worst = 0
    for _, _, _, size_bytes in sorted(
        (event for event in events if event[0] == "[memory]"), key=lambda event: event[1]
    ):
        live += size_bytes
        worst = max(worst, live)
    problem = problem_of(captured.graph, found, Limits(1 << 40))
    expected = replay(problem, keep_everything(captured.graph)).activation_peak_bytes
    assert expected == pytest.approx(worst, rel=0.01)


def test_a_step_with_an_optimizer_is_costed_too(captured: Captured, found: Profile) -> None:
    """Updates have times by their size, and the workspace of the costliest options: gradients decayed and clipped."""
    graph = with_optimizer(captured.graph, "adam")
    problem = problem_of(graph, found, Limits(1 << 40))
    replay(problem, keep_everything(graph))
    updates = [number for number, op in enumerate(graph.ops) if op.target == "adam"]
    assert len(updates) == len(list(captured.step.parameters()))
    assert all(problem.costs.time_s[number] > 0 for number in updates)
    weight = max(updates, key=lambda number: graph.storages[graph.ops[number].updates[0]].size_bytes)
    size_bytes = graph.storages[graph.ops[weight].updates[0]].size_bytes
    assert problem.costs.workspace_bytes[weight] == pytest.approx(4 * size_bytes, rel=0.01)


def test_joules_without_a_counter_are_power_times_seconds_and_say_so(captured: Captured, found: Profile) -> None:
    """A declared power is named, and idle and transfer power reach the planner."""
    declared = replace(found, power=Power(8.0, 3.0, 0.5, "assumed"))
    assert declared.energy_source == "power model x time (assumed)"
    costs = problem_of(captured.graph, declared, Limits(1)).costs
    assert costs.idle_w == 3.0
    assert costs.write_j == tuple(0.5 * seconds for seconds in costs.write_s)


def test_a_profile_survives_its_file(found: Profile, tmp_path: Path) -> None:
    """Written and read again it is equal."""
    write_profile(tmp_path / "here.json", found)
    assert read_profile(tmp_path / "here.json") == found


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("ops", 0, "time_s"), -1.0),
        (("ops", 0, "time_s"), float("nan")),
        (("ops", 0, "time_s"), True),
        (("ops", 0, "workspace_bytes"), 1.5),
        (("ops", 0, "name"), None),
        (("speeds", "direct"), 1),
        (("power", "source"), 3),
        (("updates", "adam"), {}),
        (("threads",), "1"),
        (("format",), 2),
    ],
)
def test_a_file_that_is_no_profile_is_refused_by_place(
    found: Profile, tmp_path: Path, where: tuple[str | int, ...], value: object
) -> None:
    """The error says which field."""
    path = tmp_path / "here.json"
    write_profile(path, found)
    content = place = json.loads(path.read_text())
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(GraphInvalid) as refused:
        read_profile(path)
    assert str(where[0]) in str(refused.value) or str(where[-1]) in str(refused.value)


def test_a_profile_is_of_one_graph(found: Profile) -> None:
    """Costs of another batch size are refused."""
    other = capture(Residual(), nn.functional.cross_entropy, (torch.randn(2, 3, 32, 32), torch.tensor([0, 1])))
    with pytest.raises(GraphInvalid, match="another graph"):
        problem_of(other.graph, found, Limits(1))


def test_storage_is_measured_where_pages_will_lie(tmp_path: Path) -> None:
    """Both ways have a bandwidth, longer transfers take longer, nothing stays behind."""
    speeds = measure_speeds(tmp_path, size_bytes=8 << 20, repeats=2)
    assert speeds.write_bytes_per_s > 0 < speeds.read_bytes_per_s
    assert speeds.write_s(1 << 20) < speeds.write_s(1 << 24)
    assert speeds.read_s(1 << 20) < speeds.read_s(1 << 24)
    assert speeds.filesystem == filesystem_of(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_in_memory_is_no_direct_storage() -> None:
    """Pages in a tmpfs free nothing, and the profile says that they do not bypass memory."""
    assert not measure_speeds(Path("/dev/shm"), size_bytes=1 << 20, repeats=1).direct  # noqa: S108


def test_a_read_is_timed_with_the_memory_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step reads into memory that it has not yet, which takes up to twice as long as filling what is at hand."""
    before_bytes = []
    read = Channel.read

    def seen(channel: Channel, number: int, memory: torch.UntypedStorage) -> None:
        before_bytes.append(memory.nbytes())
        read(channel, number, memory)

    monkeypatch.setattr(Channel, "read", seen)
    with PagingFile(tmp_path, 1 << 20) as file:
        file.write(1 << 20)
        for _ in range(2):
            file.read(1 << 20)
        file.write(1 << 20)  # refused unless all of it is back
    assert before_bytes == [0, 0]


def test_the_paging_file_has_no_name_and_closes(tmp_path: Path) -> None:
    """Killed at any time, nothing is left in the folder."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with PagingFile(tmp_path, 1 << 20) as file:
        file.write(1 << 20)
        file.read(1 << 20)
        assert list(tmp_path.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


class Board:
    """A joule counter sampled every 10 ms of a clock that work moves on; `watts` is what is drawn."""

    def __init__(self, averaging_s: float = 0.0, error_w: float = 0.0) -> None:
        self.now_ns, self.watts, self.energy_j = 0, 5.0, 0.0
        self.averaging_s, self.error_w = averaging_s, error_w
        self.sampled = replace(BLANK, averaging_s=averaging_s)

    def work(self, watts: float, seconds: float) -> None:
        for _ in range(round(seconds * 1000)):
            self.now_ns += 1_000_000
            self.energy_j += watts * 0.001
            if self.now_ns % 10_000_000 == 0:
                error_j = self.error_w * self.now_ns / 1e9
                sample = {"energy_j": self.energy_j, "energy_error_j": error_j, "power_w": watts}
                self.sampled = replace(self.sampled, sampled_ns=self.now_ns, **sample)

    def read(self) -> BoardReading:
        return self.sampled

    def clock_ns(self) -> int:
        return self.now_ns


def test_power_is_that_of_the_work_alone() -> None:
    """What was drawn before the work began does not count, however long the sensor averages."""
    board = Board(averaging_s=0.05)
    board.work(20.0, 0.1)
    assert Meter(board, 2.0, board.clock_ns).power_w(lambda: board.work(7.0, 0.003)) == pytest.approx(7.0)


def test_power_that_the_counter_does_not_resolve_is_not_measured() -> None:
    """A counter whose error is a fifth of the joules gives no figure, and the limit ends the work."""
    board = Board(error_w=2.0)
    assert Meter(board, 0.5, board.clock_ns).power_w(lambda: board.work(10.0, 0.003)) is None
    assert board.now_ns < 0.6e9


class Steady:
    """Eight watts, whenever one looks."""

    def __init__(self, *, virtual: bool = False) -> None:
        self.looks, self.virtual = 0, virtual

    def read(self) -> BoardReading:
        self.looks += 1
        at_ns = (1 << 62) + self.looks * 1_000_000
        return replace(BLANK, virtual=self.virtual, sampled_ns=at_ns, energy_j=self.looks * 0.008, power_w=8.0)


def test_a_virtual_boards_counter_is_not_asked(captured: Captured, tmp_path: Path) -> None:
    """It does not count what this process draws."""
    found = profile(captured, tmp_path, repeats=1, counter=Steady(virtual=True))
    assert found.energy_source == "power model x time (assumed)"


def test_joules_come_from_the_counter_where_it_resolves(captured: Captured, tmp_path: Path) -> None:
    """Long ops get their own power, the others the mean of those, and the profile says for how much that holds."""
    found = profile(captured, tmp_path, repeats=1, counter=Steady())
    assert found.energy_source.startswith("joule counter for ")
    assert any(cost.counted for cost in found.ops.values())
    for cost in found.ops.values():
        assert cost.energy_j == pytest.approx(8.0 * cost.time_s)
