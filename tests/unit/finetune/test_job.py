# SPDX-License-Identifier: Apache-2.0
"""A job from stored samples to weights: what it learns, what it keeps, and that it goes on as if never stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.nn import functional
from torch.optim import SGD, AdamW

from finetune.checkpoint import load
from finetune.data_order import DataOrder
from finetune.errors import (
    CheckpointInvalid,
    Diverged,
    LossNotFinite,
    NoPlan,
    NotBetter,
    TooFewSamples,
    WeightsRefused,
)
from finetune.job import Job, prepare
from finetune.jobs.dataset import Dataset
from finetune.jobs.session import Trained
from finetune.jobs.validation import Score, score
from finetune.jobs.weights import read_served
from finetune.pacer import Free
from telemetry.sample_store import SampleStore
from telemetry.samples import Samples
from telemetry.spool import Spool
from tests.unit.finetune.jobs_made_up import FIELDS, REQUEST, another, made_up, network, one_thread, run, store


@pytest.fixture(autouse=True)
def as_a_worker() -> Iterator[None]:
    """One thread, as a worker has; jobs seed torch's generator, which other tests must not see."""
    with one_thread():
        yield


def weights_of(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return dict(load(folder / name).model)


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in found)


def plain(job: Job) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same training in a loop of plain torch: losses, and the last weights."""
    with closing(Samples(job.samples)) as samples:
        data = Dataset(samples, job.request.batch, job.request.validation_share, job.request.seed)
        module = network()
        module.load_state_dict(read_served(job.served))
        kind = AdamW(module.parameters(), lr=job.request.learning_rate)
        if job.request.optimizer == "sgd":
            kind = SGD(module.parameters(), lr=job.request.learning_rate, momentum=0.9)
        order = DataOrder(len(data.training), job.request.batch, job.request.seed)
        torch.manual_seed(job.request.seed)
        losses = []
        for _ in range(job.request.epochs * -(-len(data.training) // job.request.batch)):
            *inputs, labels = data.training_batch(next(order))
            kind.zero_grad()
            loss = functional.cross_entropy(module(*inputs), labels)
            torch.autograd.backward(loss)
            kind.step()
            losses.append(loss.item())
        return losses, module.state_dict()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_it_trains_as_plain_torch_does(tmp_path: Path, optimizer: str) -> None:
    """Losses and weights are those of a plain loop over the same batches, to the last bit."""
    job = made_up(tmp_path)
    job = another(job, optimizer=optimizer)
    losses = []
    with prepare(job) as session:
        while not session.finished:
            session.advance()
            losses.append(session.progress.loss)
        session.save()
    wanted, weights = plain(job)
    assert losses == wanted
    assert same(weights_of(job.work, "checkpoint.safetensors"), weights)


def test_it_learns(tmp_path: Path) -> None:
    """Trained weights are more accurate on the samples held out than those that serve."""
    trained = run(another(made_up(tmp_path, samples=300), epochs=8))
    assert trained.accuracy_after > trained.accuracy_before + 0.2
    assert trained.steps == 8 * 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What the made-up job comes to when nothing interrupts it."""
    with one_thread():
        return run(made_up(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("died_after", [0, 7, 17])
def test_it_goes_on_where_it_was_killed(tmp_path: Path, whole: Trained, died_after: int) -> None:
    """Killed after any step, with a checkpoint from some steps before, it comes to the same bits."""
    job = made_up(tmp_path)
    with prepare(job) as session:
        for number in range(died_after):
            session.advance()
            if number == died_after // 2:
                session.save()
    again = run(job)
    assert same(again.weights, whole.weights)
    assert (again.accuracy_before, again.accuracy_after) == (whole.accuracy_before, whole.accuracy_after)
    assert again.steps == whole.steps


def test_it_trains_on_the_samples_that_were_there(tmp_path: Path, whole: Trained) -> None:
    """Samples that arrive, or are erased, once a job has begun change nothing of it, restarts included."""
    job = made_up(tmp_path)
    with prepare(job):
        store(Spool(tmp_path / "spool"), 30, first=9)
    with SampleStore(job.samples, FIELDS) as samples:
        samples.erase()
    assert same(run(job).weights, whole.weights)


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    """What comes of a job are the weights of the epoch that did best on the samples held out, not the last ones."""
    job = another(made_up(tmp_path), epochs=6, learning_rate=0.3, margin=1.0)
    epochs: list[tuple[Score, dict[str, torch.Tensor]]] = []
    module = network()
    with prepare(job) as session:
        while not session.finished:
            session.advance()
            if session.progress.epoch > len(epochs):
                session.save()
                module.load_state_dict(weights := weights_of(job.work, job.checkpoint.name))
                epochs.append((score(module, session.data, Free()), weights))
        found = session.trained()
    best, weights = max(epochs, key=lambda epoch: epoch[0])
    assert same(found.weights, weights)
    assert found.accuracy_after == best.accuracy
    assert best is not epochs[-1][0]


def test_it_stops_early(tmp_path: Path) -> None:
    """After so many epochs without a better one it is over; with a patience of 0 it never is."""
    job = another(made_up(tmp_path), epochs=40, learning_rate=1.0, optimizer="sgd", margin=1.0, patience=2)
    with prepare(job) as session:
        while not session.finished:
            session.advance()
        assert session.progress.since_best == 2
        assert session.progress.step < session.progress.steps


def test_worse_weights_are_refused(tmp_path: Path) -> None:
    """What is worse than the serving version by more than the margin is not handed out; the margin is the job's."""
    job = another(made_up(tmp_path, samples=300), epochs=8)
    better = run(job)
    shutil.rmtree(job.work)
    weights = {name: tensor.clone() for name, tensor in better.weights.items()}
    republish(job, weights)
    spoiling = another(job, learning_rate=5.0, optimizer="sgd", epochs=1, seed=1)
    with pytest.raises(NotBetter) as caught:
        run(spoiling)
    assert caught.value.after < caught.value.before
    shutil.rmtree(job.work)
    assert run(another(spoiling, margin=1.0)).accuracy_after == caught.value.after


def republish(job: Job, weights: dict[str, torch.Tensor]) -> None:
    """Other weights in the version that serves."""
    safetensors.torch.save_file(weights, job.served)
    digest = hashlib.sha256(job.served.read_bytes()).hexdigest()
    (job.served.parent / "digest.json").write_text(json.dumps({"files": {job.served.name: digest}}))


def test_a_loss_that_is_not_finite_ends_it(tmp_path: Path) -> None:
    """A batch whose loss is not finite is passed over; several in a row end the job, and say what may help."""
    job = another(made_up(tmp_path), learning_rate=10.0, optimizer="sgd", epochs=40)
    republish(job, {name: tensor * 1e18 for name, tensor in read_served(job.served).items()})
    with pytest.raises(Diverged, match="lower the learning rate") as caught:
        run(job)
    assert isinstance(caught.value.__cause__, LossNotFinite)


@pytest.mark.parametrize("count", [1, 9])
def test_too_few_samples_are_said(tmp_path: Path, count: int) -> None:
    """Without a batch to train on and something to validate the job says how many samples it needs."""
    with pytest.raises(TooFewSamples, match="10 are needed") as caught:
        run(made_up(tmp_path, samples=count))
    assert (caught.value.found, caught.value.needed) == (count, 10)
    assert run(made_up(tmp_path / "enough", replace(REQUEST, margin=1.0), samples=10)).steps == 3


def test_a_damaged_checkpoint_is_moved_aside(tmp_path: Path, whole: Trained) -> None:
    """A checkpoint that cannot be trusted is kept for people to look at; the job begins anew, and ends the same."""
    job = made_up(tmp_path)
    with prepare(job) as session:
        session.advance()
        session.save()
    content = bytearray(job.checkpoint.read_bytes())
    content[-3] ^= 4
    job.checkpoint.write_bytes(content)
    with pytest.raises(CheckpointInvalid):
        load(job.checkpoint)
    assert same(run(job).weights, whole.weights)
    assert list(job.work.glob("*.corrupt-*"))


def test_anothers_checkpoint_is_not_taken_up(tmp_path: Path) -> None:
    """A checkpoint of another job is never gone on from."""
    job = made_up(tmp_path)
    with prepare(job):
        assert job.checkpoint.exists()
    assert run(replace(job, id="b" * 22)).steps == 18
    assert list(job.work.glob("*.corrupt-*"))


@pytest.mark.parametrize("spoil", ["weights", "digest", "missing", "pickle", "architecture"])
def test_weights_that_are_not_what_they_say_are_refused(tmp_path: Path, spoil: str) -> None:
    """Only safetensors that fit their digest and the architecture are trained."""
    job = made_up(tmp_path)
    if spoil == "weights":
        job.served.write_bytes(job.served.read_bytes()[:-1] + b"\7")
    elif spoil == "digest":
        (job.served.parent / "digest.json").write_text('{"files": {}}')
    elif spoil == "missing":
        job.served.unlink()
    elif spoil == "pickle":
        job = replace(job, served=job.served.with_suffix(".pt"))
    else:
        republish(job, {"0.weight": torch.zeros(2, 2)})
    with pytest.raises(WeightsRefused):
        run(job)


def test_a_budget_too_small_says_what_would_do(tmp_path: Path) -> None:
    """A budget in which no step fits is refused with one that is enough, which then is."""
    job = another(made_up(tmp_path), budget=100)
    with pytest.raises(NoPlan, match="bytes are enough") as caught:
        run(job)
    assert run(another(job, budget=caught.value.smallest_budget_bytes, margin=1.0)).steps == 18


def test_a_plan_is_made_once(tmp_path: Path) -> None:
    """The plan of a graph, batch, board and budget is kept for the next job; another budget has its own."""
    job = another(made_up(tmp_path), budget="80%")
    stages: list[str] = []
    with prepare(job, stage=stages.append) as session:
        planned = session.report.budget_bytes
    assert "plan" in stages
    stages.clear()
    again = replace(job, work=job.work.with_name("again"))
    with prepare(again, stage=stages.append) as session:
        assert session.report.budget_bytes == planned
    assert "plan" not in stages
    with prepare(replace(another(again, budget="90%"), work=job.work.with_name("third")), stage=stages.append):
        assert "plan" in stages
    assert len(list(job.plans.glob("*.json"))) == 2


def test_a_damaged_plan_is_made_anew(tmp_path: Path) -> None:
    """A kept plan that cannot be read is moved aside, and another one is made."""
    job = another(made_up(tmp_path), budget="80%")
    with prepare(job):
        kept = next(job.plans.glob("*.json"))
    kept.write_text("{")
    with prepare(job) as session:
        assert session.report.budget_bytes
    assert len(list(job.plans.glob("*.json"))) == 1
    assert list(job.plans.glob("*.corrupt-0"))


def test_validation_changes_nothing(tmp_path: Path) -> None:
    """Scoring leaves mode, weights, hooks and random numbers as they were, and looks up after every module."""
    job = made_up(tmp_path)

    class Asked(Free):
        times = 0

        def clear(self) -> bool:
            self.times += 1
            return True

    pacer, module = Asked(), network().train()
    with closing(Samples(job.samples)) as samples:
        data = Dataset(samples, 8, 0.2, 4)
        before = torch.get_rng_state()
        first, second = score(module, data, pacer), score(module, data, Free())
    assert first == second
    assert module.training
    assert torch.equal(torch.get_rng_state(), before)
    assert pacer.times == len(data.held_out) * 5, "before each sample, and after each of four modules"
    assert not any(part._forward_hooks for part in module.modules())


def test_the_split_is_the_seeds(tmp_path: Path) -> None:
    """Held out and training samples are disjoint, all of them, of the share asked for, and another for another seed."""
    job = made_up(tmp_path, samples=100)
    with closing(Samples(job.samples)) as samples:
        splits = [Dataset(samples, 8, 0.3, seed) for seed in (1, 1, 2)]
    assert len(splits[0].held_out) == 30
    assert sorted((*splits[0].held_out, *splits[0].training)) == list(range(100))
    assert splits[0].held_out == splits[1].held_out != splits[2].held_out


def test_time_is_accounted_for_once(tmp_path: Path) -> None:
    """What the pacer is told of training adds up to no more than the time that training took, batches and all."""
    job = made_up(tmp_path)
    told: list[float] = []

    class Listening(Free):
        def slice_done(self, busy_s: float) -> None:
            told.append(busy_s)

    with prepare(job, Listening()) as session:
        told.clear()
        begun_s = time.monotonic()
        while not session.finished:
            session.advance()
        session.save()
        took_s = time.monotonic() - begun_s
    assert 0.5 * took_s < sum(told) <= took_s
