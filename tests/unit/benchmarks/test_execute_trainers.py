# SPDX-License-Identifier: Apache-2.0
"""The trainers of `make bench-execute` on small modules: right gradients where their tools give them, known defects."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.trainers import meter
from benchmarks.trainers.exact import differences, outcome
from benchmarks.trainers.paging_hooks import PagingHooks, dense
from benchmarks.trainers.peers import Checkpointed, Eager, MemoryBudget, Selective
from benchmarks.trainers.setting import Setting, Trainer, zero_gradients
from benchmarks.trainers.yields import Asked, quantile_s, waits

SIDE = 128


@pytest.fixture(autouse=True)
def _state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


def setting(folder: Path, norm: bool, dropout: float = 0.1) -> Setting:
    """Convolutions or linear layers in blocks, with dropout."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)] if norm else [nn.Linear(SIDE, SIDE), nn.GELU()]
    blocks = tuple(nn.Sequential(*layers, nn.Dropout(dropout)) for _ in range(1 if norm else 3))
    model = nn.Sequential(*blocks, nn.Flatten(), nn.LazyLinear(4))
    images = torch.randn(8, 3, SIDE, SIDE)
    model(images)
    zero_gradients(model)
    batch = (images, torch.randint(0, 4, (8,)))
    return Setting("small", model, nn.functional.cross_entropy, batch, blocks, folder)


def compared(found: Setting, make: Callable[[Setting], Trainer]) -> dict[str, object]:
    buffers = {name: buffer.clone() for name, buffer in found.model.named_buffers()}
    expected = {key: value.clone() for key, value in outcome(found, Eager(found), buffers).items()}
    trainer = make(found)
    try:
        return differences(expected, outcome(found, trainer, buffers))
    finally:
        trainer.close()


@pytest.mark.parametrize("make", [Eager, Checkpointed, Selective, PagingHooks])
def test_without_statistics_a_peer_is_exact(make: Callable[[Setting], Trainer], tmp_path: Path) -> None:
    """Dropout included, checkpoints and hooks give eager's step bit for bit."""
    assert compared(setting(tmp_path, norm=False), make)["bitwise"]


@pytest.mark.parametrize("make", [Checkpointed, Selective])
def test_checkpoints_count_statistics_twice(make: Callable[[Setting], Trainer], tmp_path: Path) -> None:
    """With BatchNorm inside a checkpoint the gradients are eager's and the running statistics are not."""
    found = compared(setting(tmp_path, norm=True), make)
    assert found["gradient"] == found["loss"] == 0.0
    assert found["buffer"] > 0
    assert not found["bitwise"]


def test_hooks_leave_statistics_right(tmp_path: Path) -> None:
    """Paging saved tensors changes no result."""
    assert compared(setting(tmp_path, norm=True), PagingHooks)["bitwise"]


def test_hooks_write_what_is_saved(tmp_path: Path) -> None:
    """Saved activations go to the file, parameters and the batch do not, and nothing is left in the folder."""
    found = setting(tmp_path, norm=False)
    trainer = PagingHooks(found)
    trainer.step()
    written = trainer.figures()["written_bytes"]
    assert written >= 3 * found.batch[0].nbytes
    trainer.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_the_partitioners_budget_redraws_dropout(tmp_path: Path) -> None:
    """The budget gives eager's gradients without dropout, and others with it, in silence."""

    def partitioned(given: Setting) -> Trainer:
        return MemoryBudget(given, backend="aot_eager_decomp_partition")

    try:
        right = compared(setting(tmp_path, norm=False, dropout=0.0), partitioned)
        wrong = compared(setting(tmp_path, norm=False), partitioned)
    finally:
        torch._dynamo.reset()
        torch._functorch.config.activation_memory_budget = 1.0
        torch._inductor.config.fallback_random = False
    assert right["gradient_relative"] < 1e-5
    assert wrong["gradient_relative"] > 1e-3


def test_checkpoints_are_taken_off_again(tmp_path: Path) -> None:
    """A closed trainer leaves the model as it was."""
    found = setting(tmp_path, norm=False)
    trainer = Checkpointed(found)
    assert all("forward" in vars(block) for block in found.blocks)
    trainer.close()
    assert not any("forward" in vars(block) for block in found.blocks)


def test_what_differs_is_told_by_kind() -> None:
    """Each kind has its largest difference; what is missing or not a number is infinitely far."""
    expected = {
        "loss": torch.tensor(1.0),
        "gradient a": torch.ones(2),
        "buffer b": torch.ones(1),
        "random": torch.ones(1),
    }
    same = differences(expected, dict(expected))
    assert same["bitwise"]
    assert same["random_state"]
    found = expected | {"gradient a": torch.tensor([1.0, 1.5]), "buffer b": torch.tensor([torch.nan])}
    told = differences(expected, found)
    assert (told["gradient"], told["buffer"], told["bitwise"]) == (0.5, float("inf"), False)
    assert told["gradient_relative"] == pytest.approx(0.5 / 2**0.5)
    assert differences(expected, {"loss": torch.tensor(1.0)})["gradient"] == float("inf")


def test_dense_is_one_piece_of_memory() -> None:
    """Permuted tensors are dense; slices and broadcasts are not."""
    whole = torch.zeros(4, 5, 6)
    assert dense(whole)
    assert dense(whole.permute(2, 0, 1))
    assert not dense(whole[:, :3])
    assert not dense(torch.zeros(1).expand(3))


def test_waits_are_those_of_requests_at_random_instants() -> None:
    """The quantiles computed from spans are those of many simulated requests."""
    draw = random.Random(4)
    spans = [draw.expovariate(1.0) for _ in range(200)]
    simulated = sorted(draw.random() * span for span in draw.choices(spans, spans, k=200_000))
    for q in (0.5, 0.99):
        assert quantile_s(spans, q) == pytest.approx(simulated[int(q * len(simulated))], rel=0.03)
    assert waits([2.0, 2.0]) == {"p50_s": 1.0, "p99_s": pytest.approx(1.98), "max_s": 2.0}
    with pytest.raises(ValueError, match="no spans"):
        quantile_s([], 0.5)


def test_a_request_is_seen_at_the_next_asking() -> None:
    """The pacer is free outside of a step, and in one it says no once a request has come."""
    pacer = Asked()
    assert pacer.clear()
    assert pacer.observed() == {"requests": 0}
    pacer.begin(requests=True)
    while pacer.clear():
        pass
    assert pacer.wait() == 0.0
    pacer.end()
    found = pacer.observed()
    assert found["requests"] == 1
    assert 0 <= found["max_s"] <= max(pacer.spans_s)
    assert len(pacer.spans_s) == len(pacer.busy_s)


def test_without_requests_spans_alone_are_noted() -> None:
    """A timed step is never asked to wait."""
    pacer = Asked()
    pacer.begin(requests=False)
    assert all(pacer.clear() for _ in range(5))
    pacer.end()
    assert len(pacer.spans_s) == 6


def test_torchs_events_see_what_is_held() -> None:
    """The meter without a compiler: the peak is that of what lives at once."""

    def held() -> Tensor:
        first = torch.ones(1 << 20)
        second = first + 1
        del first
        return second

    found, peak_bytes = meter.recorded(held)
    assert peak_bytes == pytest.approx(2 * found.nbytes, rel=0.01)


@pytest.mark.external
def test_the_preloaded_meter_sees_every_allocation(tmp_path: Path) -> None:
    """The library counts as torch's own events do, and what torch does not see besides."""
    assert shutil.which("cc")
    library = meter.build(tmp_path)
    script = (
        "import ctypes, torch\n"
        "from benchmarks.trainers import meter\n"
        "assert meter.preloaded()\n"
        "run = lambda: torch.ones(1 << 20) + torch.ones(1 << 20)\n"
        "run()\n"
        "assert abs(meter.counting(run)[1] - meter.recorded(run)[1]) < 1 << 16\n"
        "assert meter.counting(lambda: bytearray(5 << 20))[1] >= 5 << 20\n"
        "before = meter.counting(lambda: None)[1]\n"
        "assert before < 1 << 14\n"
    )
    environment = {"LD_PRELOAD": str(library), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
