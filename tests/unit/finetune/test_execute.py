# SPDX-License-Identifier: Apache-2.0
"""What a step that fails leaves behind, what it refuses, and how it gets out of the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import finetune
from finetune.capture import capture
from finetune.capturing.optimizer import with_optimizer
from finetune.errors import (
    BatchMismatch,
    LossNotFinite,
    ModelChanged,
    NoPlan,
    PageCorrupted,
    PageStoreFull,
    PlanMismatch,
    ScheduleInvalid,
    StepTorn,
)
from finetune.execute import Execution
from finetune.executing.lower import lower
from finetune.executing.sinks import Optimizing
from finetune.pacer import Free, Pacer
from finetune.pages import MemoryPages
from finetune.plan import Plan
from tests.unit.finetune.training import assert_equal, residual, state_of, tight_plan


class Trained:
    """A small model with its execution at the smallest budget, on pages whose faults can be switched on."""

    def __init__(self, only: str = "page", pacer: Pacer | None = None) -> None:
        self.model, self.loss, self.batches = residual()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.captured = capture(self.model, self.loss, self.batches[0])
        graph = with_optimizer(self.captured.graph, "adam")
        self.plan = tight_plan(graph, 0, only=only)  # type: ignore[arg-type]
        lowered = lower(self.captured, graph, self.plan)
        self.pages = MemoryPages({number: graph.storages[number].size_bytes for number in lowered.paged})
        sink = Optimizing(self.optimizer)
        self.execution = Execution(
            self.captured, graph, lowered, self.plan.budget_bytes, sink, self.pages, pacer or Free(), {}
        )

    def state(self) -> dict[str, Tensor]:
        with self.execution.resident():
            return state_of(self.model, self.optimizer)


@pytest.fixture
def trained() -> Trained:
    return Trained()


def test_a_full_disk_before_any_update_changes_nothing(trained: Trained) -> None:
    """Weights, states, buffers and random state are as before the step, and the next step is as if nothing had been."""
    torch.manual_seed(7)
    trained.execution.step(trained.batches[0])
    before = trained.state()
    trained.pages.disk.full_at_write = 1
    with pytest.raises(PageStoreFull):
        trained.execution.step(trained.batches[1])
    trained.pages.disk.full_at_write = None
    assert not trained.execution.torn
    assert_equal([trained.state()], [before])
    found = trained.execution.step(trained.batches[1])
    other = Trained()
    torch.manual_seed(7)
    other.execution.step(other.batches[0])
    assert torch.equal(found, other.execution.step(other.batches[1]))
    assert_equal([trained.state()], [other.state()])


def test_a_loss_that_is_not_finite_changes_nothing(trained: Trained) -> None:
    """The step is given up before the backward part, with the random state put back."""
    before = trained.state()
    image, target = trained.batches[0]
    with pytest.raises(LossNotFinite, match="nan"):
        trained.execution.step((torch.full_like(image, torch.nan), target))
    assert_equal([trained.state()], [before])


def test_a_failure_among_the_updates_is_never_trained_on(trained: Trained) -> None:
    """The step is torn and says so, until a sound state is loaded; from there on it trains as ever."""
    torch.manual_seed(7)
    trained.execution.step(trained.batches[0])
    with trained.execution.resident():
        model = {name: value.clone() for name, value in trained.model.state_dict().items()}
    trained.pages.disk.full_at_write = None
    for write in range(200):
        trained.pages.disk.full_at_write = write
        try:
            trained.execution.step(trained.batches[1])
        except PageStoreFull:
            if trained.execution.torn:
                break
    assert trained.execution.torn
    trained.pages.disk.full_at_write = None
    with pytest.raises(StepTorn):
        trained.execution.step(trained.batches[1])
    with trained.execution.resident():
        trained.model.load_state_dict(model)
        trained.execution.restored()
    assert trained.execution.step(trained.batches[1]).isfinite()


def test_a_corrupted_page_ends_the_step(trained: Trained) -> None:
    """No value of a damaged page reaches the model."""
    trained.execution.step(trained.batches[0])
    storage = trained.execution.parked[0]
    trained.pages.disk.flip_bit(trained.pages.offsets[storage] + 1)
    with pytest.raises(PageCorrupted):
        trained.execution.step(trained.batches[1])
    with pytest.raises(StepTorn):
        trained.execution.step(trained.batches[1])


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((torch.zeros(3, 3, 12, 12), torch.zeros(3, dtype=torch.int64)), r"\[4, 3, 12, 12\].*\[3, 3, 12, 12\]"),
        ((torch.zeros(4, 3, 12, 12),), "2 tensors.*1"),
        ((torch.zeros(4, 3, 12, 12).double(), torch.zeros(4, dtype=torch.int64)), "float32.*float64"),
        ((torch.zeros(4, 12, 12, 3).permute(0, 3, 1, 2), torch.zeros(4, dtype=torch.int64)), "strides"),
    ],
)
def test_another_batch_is_refused(trained: Trained, batch: tuple[Tensor, ...], words: str) -> None:
    """A batch of another shape, type, layout or count is named beside what was compiled for."""
    with pytest.raises(BatchMismatch, match=words):
        trained.execution.step(batch)


def test_a_changed_model_is_refused(trained: Trained) -> None:
    """Another mode, or weights in new memory, would not be what was captured."""
    trained.model.eval()
    with pytest.raises(ModelChanged, match="mode"):
        trained.execution.step(trained.batches[0])
    trained.model.train()
    trained.model.get_parameter("head.bias").data = torch.zeros(5)
    with pytest.raises(ModelChanged, match=r"head\.bias"):
        trained.execution.step(trained.batches[0])


def test_plans_of_others_are_refused() -> None:
    """A plan for another graph, and one whose schedule breaks a rule."""
    model, loss, batches = residual()
    trained = Trained()
    with pytest.raises(PlanMismatch):
        finetune.compile(model, loss, batches[0], plan=trained.plan)
    short = Plan(
        "feasible", "real", trained.plan.graph_digest, "", "", trained.plan.budget_bytes - 1, 0.0, trained.plan.schedule
    )
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(ScheduleInvalid, match="bytes"):
        finetune.compile(model, loss, batches[0], plan=short, optimizer=optimizer)


def test_an_impossible_budget_names_a_possible_one() -> None:
    """`NoPlan` carries the least budget that the planner knows how to keep."""
    model, loss, batches = residual()
    with pytest.raises(NoPlan, match="bytes are enough") as raised:
        finetune.compile(model, loss, batches[0], 1000)
    assert raised.value.smallest_budget_bytes is not None
    assert raised.value.smallest_budget_bytes > 1000


class Busy:
    """Wants the machine at every `every`-th question; remembers what it was told."""

    def __init__(self, every: int) -> None:
        self.every, self.asked, self.waits, self.slices = every, 0, 0, list[float]()

    def clear(self) -> bool:
        self.asked += 1
        return self.asked % self.every != 0

    def wait(self) -> float:
        self.waits += 1
        return 0.25

    def slice_done(self, busy_s: float) -> None:
        self.slices.append(busy_s)


def test_inference_is_waited_for_while_a_step_is_measured(tmp_path: Path) -> None:
    """Before each operation whose pieces, workspace or time is looked for, before each update and transfer."""
    model, loss, batches = residual()
    pacer = Busy(1)
    stages: list[tuple[str, int]] = []
    step = finetune.compile(
        model,
        loss,
        batches[0],
        "95%",
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        pacer=pacer,
        page_dir=tmp_path,
        longest_s=1e-4,
        progress=lambda stage: stages.append((stage, pacer.waits)),
    )
    ops = sum(op.phase != "update" for op in step._execution.graph.ops)
    step.close()
    ends = [*(waits for _, waits in stages[1:]), pacer.waits]
    during = {stage: end - begin for (stage, begin), end in zip(stages, ends, strict=True)}
    assert during["pieces"] >= 4
    assert during["workspaces"] >= ops
    assert during["times"] >= 5 * ops
    assert during["storage"] >= 50
    assert during["memory"] == 1
    assert during["capture"] == 0


def test_inference_is_asked_after_every_op() -> None:
    """Each op, also one computed again, ends with the question; waits and slices are told, and results are the same."""
    pacer = Busy(5)
    trained = Trained("both", pacer)
    torch.manual_seed(7)
    found = trained.execution.step(trained.batches[0])
    ops = sum(act == "C" for act, _ in trained.plan.schedule)
    assert pacer.asked >= ops + 1
    assert pacer.waits == pacer.asked // 5 == trained.execution.runtime.tally.yields
    assert trained.execution.runtime.tally.waited_s == pytest.approx(0.25 * pacer.waits)
    assert len(pacer.slices) == pacer.waits + 1
    assert all(busy_s >= 0 for busy_s in pacer.slices)
    other = Trained("both")
    torch.manual_seed(7)
    assert torch.equal(found, other.execution.step(other.batches[0]))
    assert_equal([trained.state()], [other.state()])
