# SPDX-License-Identifier: Apache-2.0
"""What `make bench-execute` keeps, and what it says of rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import execute_plot, execute_report, execute_runs
from benchmarks.execute_markdown import markdown
from benchmarks.execute_report import MODELS, key_of, modes, trainers
from benchmarks.execute_runs import ChildFailed, Job, Kept, Running

EXACT = {"loss": 0.0, "gradient": 0.0, "gradient_relative": 0.0, "buffer": 0.0, "random_state": True, "bitwise": True}
WAITS = {"p50_s": 0.001, "p99_s": 0.005, "max_s": 0.006}


def row(
    share: float, ratio: float, *, p99_s: float = 0.005, bitwise: bool = True, planned: float = 1.0
) -> dict[str, Any]:
    """One that needs a share of 500 MB and `ratio` times eager's second, `planned` of both as its plan says."""
    eager = {"wall_s": 1.0, "cpu_s": 1.0, "peak_bytes": 500_000_000}
    own = {"wall_s": ratio, "cpu_s": ratio, "peak_bytes": int(share * 500_000_000)}
    waits = WAITS | {"p99_s": p99_s}
    told = {
        "predicted_peak_bytes": planned * own["peak_bytes"],
        "predicted_step_s": planned * ratio,
        "plain_step_s": 1.0,
    }
    return {
        "rounds": [{"own": own, "eager": eager}] * 3,
        "exact": EXACT | {"bitwise": bitwise, "buffer": 0.0 if bitwise else 0.5},
        "peak_bytes": own["peak_bytes"],
        "startup": {"startup_s": 1.0},
        "yields": {"wall": waits, "own": waits, "observed": {"requests": 40} | waits},
        "figures": told,
    }


def everybody(make: Callable[[str, str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        key_of(model, name, mode): make(name, mode)
        for model in MODELS
        for name in trainers(model)
        for mode in modes(name)
    }


def good(name: str, mode: str) -> dict[str, Any]:
    if name == "eager":
        return row(1.0, 1.0)
    if name.startswith("ours"):
        share = int(name.partition("_")[2] or 100) / 100
        return row(share, 1.0 + 0.1 * (1 - share))
    return row(0.6, 1.3, bitwise=False)


def bad(name: str, mode: str) -> dict[str, Any]:
    if name == "ours_30":
        return {"why": "NoPlan: the working set alone is more | than that"}
    if name.startswith("ours"):
        return row(1.0, 1.5, p99_s=0.04, bitwise=False, planned=0.5)
    return row(0.9, 1.0)


def summary_of(rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    figures = execute_report.table(rows.get)
    aims = execute_report.targets(figures)
    told = [{"what": aim.what, "met": aim.met, "of": aim.of, "missed": aim.missed} for aim in aims]
    found: dict[str, Any] = json.loads(json.dumps({"rows": figures, "targets": told}))
    return found


def test_all_targets_can_be_met_and_missed() -> None:
    """Good rows meet every target, bad ones miss every one, none at all say that nothing was run."""
    met = execute_report.targets(execute_report.table(everybody(good).get))
    assert [(aim.what, aim.missed) for aim in met if not 0 < aim.met == aim.of] == []
    missed = execute_report.targets(execute_report.table(everybody(bad).get))
    assert all(aim.met < aim.of for aim in missed)
    nothing = execute_report.targets(execute_report.table(lambda key: None))
    assert all(aim.text.startswith("nothing was run") for aim in nothing)


def test_a_ratio_is_taken_within_its_round() -> None:
    """A machine that slows down meanwhile changes no ratio."""
    rounds = [
        {"own": {"wall_s": 1.1 * slow, "cpu_s": slow}, "eager": {"wall_s": slow, "cpu_s": slow}} for slow in (1, 2, 5)
    ]
    found = execute_report.figures(row(0.5, 1.0) | {"rounds": rounds}, row(1.0, 1.0))
    assert found["wall"] == {key: pytest.approx(1.1) for key in ("median", "least", "most")}
    assert found["peak"] == 0.5


def test_tables_have_every_row(tmp_path: Path) -> None:
    """Rows with figures and rows without have a line, and the picture is drawn."""
    found = summary_of(everybody(good))
    text = markdown(found)
    assert text.count("| bert_base | ours, 23 %, whole |") == 3
    assert "| resnet18 | checkpoint per block | 0 | 0 | 0 | 0.5 | eager's |" in text
    assert (
        "| bert_base | ours, 30 %, whole | - | - | - | NoPlan: the working set alone is more / than that |"
        in markdown(summary_of(everybody(bad)))
    )
    execute_plot.picture(tmp_path / "plot.png", found["rows"], MODELS)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_rows_are_kept_by_what_they_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept row is taken up; a spoilt file holds none, and neither does another product's."""
    kept = Kept(tmp_path)
    ours, peer = key_of("resnet18", "ours", "whole"), key_of("resnet18", "hooks")
    for key in (ours, peer):
        kept.put(key, {"rounds": []})
        assert kept.get(key) == {"rounds": []}
    assert execute_runs.code(ours=True) != execute_runs.code(ours=False)
    kept.path(peer).write_text("{")
    assert kept.get(peer) is None
    digest = execute_runs.code
    monkeypatch.setattr(execute_runs, "code", lambda *, ours: digest(ours=ours) + ("x" if ours else ""))
    assert Kept(tmp_path).get(ours) is None


def test_what_is_held_to_a_few_percent_is_timed_more_often() -> None:
    """And together, beside the same eager steps; nobody is left out or measured twice."""
    jobs = [Job("bert_base", name) for name in execute_report.trainers("bert_base")[1:]]
    (timed, often), *rest = execute_runs.groups(jobs)
    assert [job.trainer for job in timed] == ["ours", "ours_50"]
    assert all(len(group) <= execute_runs.GROUP and times < often for group, times in rest)
    assert sorted(job.trainer for group, _ in [(timed, 0), *rest] for job in group) == sorted(
        job.trainer for job in jobs
    )


class Failing:
    """A child that fails at one command."""

    def __init__(self, command: str, *, reported: bool) -> None:
        self.job, self.startup = Job("resnet18", "hooks"), {"startup_s": 1.0}
        self._command, self._reported = command, reported

    def ready(self) -> None:
        """It has begun."""

    def ask(self, command: str, mode: str, limit_s: float = 0.0) -> dict[str, Any]:
        if command == self._command:
            raise ChildFailed("no room", reported=self._reported)
        return {"wall_s": 1.0, "cpu_s": 1.0, "peak_bytes": 7}


@pytest.mark.parametrize("reported", [False, True])
@pytest.mark.parametrize("command", ["exact", "step", "yields"])
def test_a_row_that_fails_says_why(command: str, reported: bool) -> None:
    """Nothing more is asked of it, and what a process said of itself holds for later runs too."""
    running = Running(Failing(command, reported=reported), "resnet18-hooks", "")  # type: ignore[arg-type]
    for part in (running.begin, lambda: running.step({"wall_s": 1.0}), running.end):
        running.attempt(part)
    assert running.row == {"why": "no room"}
    assert running.lasting is reported
