# SPDX-License-Identifier: Apache-2.0
"""What `make bench-corun` plays, and what it keeps."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.corun_adaptive import Predicted, Sizes
from benchmarks.corun_blocks import MODELS, Block, Kept, blocks
from benchmarks.corun_processes import ProcessFailed
from benchmarks.corun_runs import Company
from benchmarks.corun_setup import Setup
from benchmarks.corun_stage import LOAD, Played, Stage
from benchmarks.corun_traces import KINDS, arrivals
from benchmarks.corun_trainers import ARMS, NAIVE, NONE, OURS, Arm
from telemetry.instance_page import Sample, Status
from telemetry.rundir import RunDir

EVERYBODY = [arm.name for arm in ARMS]
SECOND_NS = 1_000_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_arrivals_come_from_their_seed_at_the_rate_asked_for(kind: str) -> None:
    """The same seed gives the same arrivals, another one others; they ascend, and come at the mean rate."""
    found = arrivals(kind, 50.0, 20_000, 1)
    assert found == arrivals(kind, 50.0, 20_000, 1) != arrivals(kind, 50.0, 20_000, 2)
    assert all(before <= after for before, after in pairwise(found))
    assert len(found) / found[-1] == pytest.approx(50.0, rel=0.05)


def test_bursts_are_burstier_than_poisson() -> None:
    """Requests in windows of a tenth of a second vary evenly, as Poisson ones, and more than those, in this order."""
    ratios = []
    for kind in KINDS:
        counts = [0] * 1000
        for at_s in arrivals(kind, 50.0, 4500, 1):
            counts[min(999, int(at_s / 0.1))] += 1
        ratios.append(statistics.variance(counts[:800]) / statistics.mean(counts[:800]))
    assert ratios[0] < 0.5 < ratios[1] < 1.5 < ratios[2]


def test_an_unknown_kind_is_refused() -> None:
    """The message names those there are."""
    with pytest.raises(ValueError, match="uniform, poisson, bursty"):
        arrivals("twitter", 1.0, 1, 0)


EXPECTED = {"digits_cnn": (4800, 2400), "bert_mini": (4000, 1000), "efficientnet_b0": (4000, 1000)}
"""Requests of a kind of trace: at least 4000 for those whose targets need them, and 1000 for the others."""


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_trace_is_paired_and_seen_often_enough(model: object) -> None:
    """Floor, naive and ours see at least 4000 requests a trace, the others 1000; arms of a block share arrivals."""
    found = list(blocks(model, KINDS, EVERYBODY))  # type: ignore[arg-type]
    assert len({block.key for block in found}) == len(found)
    for kind in KINDS:
        seen = dict.fromkeys(EVERYBODY, 0)
        for block in found:
            for arm in block.arms if block.kind == kind else ():
                seen[arm.name] += block.requests
        often, seldom = EXPECTED[model.name]  # type: ignore[attr-defined]
        assert seen == dict.fromkeys(("none", "naive", "ours"), often) | dict.fromkeys(
            ("nice", "idle", "adaptive"), seldom
        )


def test_nobody_always_goes_first() -> None:
    """The order of the arms rotates."""
    first = {block.arms[0].name for block in blocks(MODELS[0], KINDS, EVERYBODY)}
    assert first >= {"none", "naive", "ours"}


def test_a_block_counts_once_all_its_arms_are_there(tmp_path: Path) -> None:
    """What was played with fewer arms does not stand in for the whole, and a torn file is none."""
    kept, block = Kept(tmp_path), next(iter(blocks(MODELS[0], KINDS, EVERYBODY)))
    kept.keep_rows("digits_cnn", block, [{"arm": "none"}])
    assert kept.rows("digits_cnn", block) is None
    kept.keep_rows("digits_cnn", block, [{"arm": arm.name} for arm in block.arms])
    assert kept.rows("digits_cnn", block) == [{"arm": arm.name} for arm in block.arms]
    next(iter(tmp_path.rglob(f"{block.key}.json"))).write_text('{"rows": [')
    assert Kept(tmp_path).rows("digits_cnn", block) is None


def test_a_setting_survives(tmp_path: Path) -> None:
    """A run that goes on offers and promises what the one before it did."""
    setup = Setup(20.0, 0.03, 0.029, 8, {1: (0.01, 0.011), 2: (0.02,)})
    Kept(tmp_path).keep_setup("digits_cnn", setup)
    assert Kept(tmp_path).setup("digits_cnn") == setup


def played(steps: list[tuple[int, int]], samples: list[tuple[int, int]]) -> Played:
    """Ten seconds, with steps and requests at these seconds."""
    served = [Sample(begin * SECOND_NS, begin * SECOND_NS, end * SECOND_NS, 1, Status.OK) for begin, end in samples]
    pairs = [(begin * SECOND_NS, end * SECOND_NS) for begin, end in steps]
    return Played(0, 10 * SECOND_NS, [(0, 0, SECOND_NS, "")], served, {"steps": pairs})


class Theatre(Stage):
    """A stage without a server or processes: every trace is ten seconds long, and what was played is noted."""

    def __init__(self, folder: Path, broken: str = "") -> None:
        self.model, self.run_dir, self.batch_limit = "digits_cnn", RunDir(folder), 8
        self.run_dir.make()
        self.started: list[str] = []
        self.played: list[str] = []
        self._broken = broken

    def start(self, arm: Arm, make: Callable[[], object]) -> None:
        self.started.append(arm.name)
        if arm.name == self._broken:
            raise ProcessFailed(arm.name, "the process ended with -9")

    def stop(self, arm: Arm) -> None:
        self.started.remove(arm.name)

    def play(self, arrivals_s: object, arm: Arm = NONE, tick: object = None, over: object = None) -> Played:
        if self._broken == LOAD and self.played:
            raise ProcessFailed(LOAD, "no answer within 120 s")
        self.played.append(arm.name)
        return played([(0, 5), (5, 10)], [(1, 4)])


SETUP = Setup(20.0, 0.03, 0.029, 8, {1: (0.01,)})
BLOCK = Block("poisson", 0, 0, 5, (OURS, NONE, NAIVE))


def test_trainers_start_when_they_are_needed(tmp_path: Path) -> None:
    """Each runs in once before its first trace counts; every arm of a block has a row."""
    stage = Theatre(tmp_path)
    with contextlib.closing(Company(stage, SETUP, lambda line: None)) as company:
        later = company.seconds(BLOCK)
        rows = [company.beside(BLOCK, arm) for arm in BLOCK.arms]
        assert company.seconds(BLOCK) < later
    assert stage.played == ["none", "ours", "ours", "none", "naive", "naive"]
    assert [row["steps"] for row in rows] == [2.0] * 3
    assert "desk" in rows[0]


def test_ours_runs_in_for_each_kind_of_arrivals(tmp_path: Path) -> None:
    """Once, and nobody else does; what that takes is counted on."""
    stage, bursty = Theatre(tmp_path), replace(BLOCK, kind="bursty")
    with contextlib.closing(Company(stage, SETUP, lambda line: None)) as company:
        for block in (BLOCK, bursty, replace(bursty, seed=1)):
            for arm in (NONE, OURS):
                company.beside(block, arm)
        assert stage.played == ["none", "none", "ours", "ours", "none", "ours", "ours", "none", "ours"]
        assert company.seconds(BLOCK) == company.seconds(bursty) + 40.0


def test_an_arm_that_fails_is_left_out_with_a_reason(tmp_path: Path) -> None:
    """The others go on; it is not tried again."""
    stage = Theatre(tmp_path, broken="naive")
    with contextlib.closing(Company(stage, SETUP, lambda line: None)) as company:
        for _ in range(2):
            assert "ended with -9" in company.beside(BLOCK, NAIVE)["why"]
        assert company.beside(BLOCK, NONE)["steps"] == 2.0
    assert stage.started == []


def test_nothing_goes_on_without_clients(tmp_path: Path) -> None:
    """That requests cannot be sent is no arm's failure."""
    company = Company(Theatre(tmp_path, broken=LOAD), SETUP, lambda line: None)
    with contextlib.closing(company), pytest.raises(ProcessFailed, match="load"):
        company.beside(BLOCK, NONE)


def test_steps_that_reach_beyond_the_trace_count_in_part() -> None:
    """A step before the trace counts for nothing, one that lies half within for a half, a pause for nothing."""
    assert played([(-4, -2), (-2, 2), (2, 4), (8, 12)], []).steps == pytest.approx(0.5 + 1 + 0.5)
    assert played([], []).steps == 0


def test_idle_is_what_no_request_takes() -> None:
    """Requests that overlap count once, and only within the trace."""
    assert played([], [(1, 4), (2, 3), (3, 5), (9, 12)]).idle_share == pytest.approx(0.5)


def test_an_iteration_waits_where_no_limit_leaves_room() -> None:
    """The largest batch limit that serves all in time is chosen; with too many waiting there is none."""
    predicted = Predicted({1: 0.010, 2: 0.018, 4: 0.040}, 0.040)
    assert predicted.limit_for(0) == 4
    assert predicted.limit_for(3) == 4
    assert predicted.limit_for(4) is None
    assert Predicted({1: 0.010, 2: 0.018, 4: 0.040}, 0.036).limit_for(0) == 2


def test_work_grows_with_the_batch_and_training_takes_three_times_as_much() -> None:
    """The features of the linear predictor: FLOPs in proportion, intensity with reuse of the weights."""
    sizes = Sizes.of("digits_cnn")
    one, four = sizes.inference(1), sizes.inference(4)
    assert four.flops == pytest.approx(4 * one.flops)
    assert four.intensity > one.intensity > 0
    assert sizes.training(4).flops == pytest.approx(3 * four.flops)
    assert sizes.training(0).flops == 0
