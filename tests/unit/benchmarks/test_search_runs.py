# SPDX-License-Identifier: Apache-2.0
"""Runs are kept by what they were made with, and a benchmark without tables says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import search
from benchmarks.search_methods import METHODS, sources
from benchmarks.search_replay import Run
from benchmarks.search_runs import Job, Kept, do, jobs, run_all
from benchmarks.search_suites import Suite, suites

from .test_search_peers import GRID

SUITES = [
    Suite("orin", {"a": GRID, "b": GRID}, (4.0,), seeds=5),
    Suite("tx2", {"c": GRID}, methods=("random",), seeds=2),
]


def test_every_run_is_planned() -> None:
    """Tables x seeds per method; slow peers have fewer seeds, and some suites fewer methods."""
    planned = list(jobs(SUITES, ["random", "botorch"], seeds=None, slow_seeds=1))
    assert len(planned) == 2 * 5 + 2 * 1 + 2
    assert len(set(planned)) == len(planned)
    assert len(list(jobs(SUITES, ["random"], seeds=1, slow_seeds=1))) == 3


def test_finished_runs_are_kept(tmp_path: Path) -> None:
    """What was run comes back as it was; half a file is no run."""
    kept = Kept(tmp_path, {suite.name: suite for suite in SUITES})
    job = Job("random", "orin", "a", 4.0, 0)
    assert kept.get(job) is None
    run = do(job, SUITES[0])
    kept.put(job, run)
    assert kept.get(job) == run
    assert isinstance(run, Run)
    assert len(run.cells) == 30
    kept.path(job).write_text('{"table": "a"')
    assert kept.get(job) is None


def test_runs_in_processes(tmp_path: Path) -> None:
    """What fails is given up and the rest goes on; what is finished is not run again."""
    rows = GRID.recorded
    names = [*GRID.knobs, "latency_s", "power_w", "flagged"]
    lines = [",".join(names), *(",".join(map(str, row)) for row in zip(*(rows[name] for name in names), strict=True))]
    path = tmp_path / "orin-agx" / "infer_a.csv"
    path.parent.mkdir()
    path.write_text("\n".join(lines))
    found = {"orin": suites(tmp_path, full=False)[0][0], "unknown": SUITES[1]}
    kept = Kept(tmp_path / "runs", found)
    todo = [Job("random", "unknown", "c", 4.0, 0), *(Job("random", "orin", "a", 4.0, seed) for seed in range(3))]
    said: list[str] = []
    assert run_all(todo, kept, tmp_path, 60.0, said.append) == {"given_up": 1, "not_begun": 0}
    assert "given up" in " ".join(said)
    runs = [kept.get(job) for job in todo[1:]]
    assert [run and run.cells for run in runs] == [do(job, found["orin"]).cells for job in todo[1:]]
    assert run_all(todo[1:], kept, tmp_path, 60.0, said.append) == {"given_up": 0, "not_begun": 0}
    assert said[-1] == "3 runs, 3 of them finished before"


def test_other_tables_are_other_runs(tmp_path: Path) -> None:
    """A file's name tells method, code, tables, limit and seed apart."""
    other = Suite("orin", {"a": GRID})
    paths = {
        Kept(tmp_path, {suite.name: suite}).path(Job(method, "orin", "a", multiple, seed))
        for suite in (SUITES[0], other)
        for method in ("random", "gp")
        for multiple in (2.0, 4.0)
        for seed in (0, 1)
    }
    assert len(paths) == 16


def test_a_method_is_all_of_its_sources() -> None:
    """What a method imports of ours belongs to it; what it does not import does not."""
    assert "governor.search" in sources("governor.search")
    assert "governor.trial" not in sources("governor.search")
    assert "benchmarks.tables" in sources("benchmarks.search_replay")
    assert "benchmarks.baselines.gp" in sources("benchmarks.baselines.two_phase")
    assert "benchmarks.baselines.gp" not in sources("benchmarks.baselines.uniform")
    assert all(sources(entry.where.partition(":")[0]) for entry in METHODS.values())


@pytest.mark.parametrize("words", [[], ["--data", "/nowhere"]])
def test_without_tables(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and what to do, before anything is run."""
    monkeypatch.delenv("DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["search", *words])
    assert search.main() == 2
    assert "tables" in capsys.readouterr().err
