# SPDX-License-Identifier: Apache-2.0
"""What `make bench-plan` keeps, what it takes up again, and what it says of the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plan, plan_instances, plan_report
from benchmarks.documents import marks, put
from benchmarks.plan_bars import BARS, INFEASIBLE
from benchmarks.plan_instances import Instance
from benchmarks.plan_markdown import MARK, markdown
from benchmarks.plan_methods import METHODS
from benchmarks.plan_runs import Job, Kept, do, run_all, warm

TINY = Instance("made", "residual", "mixed", 0.8, 8.0, ops=24)


def ours(status: str = "optimal", **more: Any) -> dict[str, Any]:
    row = {
        "status": status,
        "overhead_pct": 0.0,
        "bound_pct": 0.0,
        "gap": 0.0,
        "cpu_s": 0.05,
        "wall_s": 0.05,
        "ops": 27,
        "accepted_by_poet": True,
        "accepted_by_ours": True,
        "packed_bytes": 10,
        "json_bytes": 100,
        "channel": 0.0,
        "smallest_budget_bytes": 1,
    }
    return row | more


def everything(row: dict[str, Any]) -> plan_report.Found:
    def found(method: str, instance: Instance) -> dict[str, Any] | None:
        if (instance.name, instance.platform, instance.share) in INFEASIBLE:
            return ours("infeasible", overhead_pct=None) if method == "ours" else None
        if instance in plan_instances.growing():
            return row | {"ops": instance.ops, "cpu_s": row["cpu_s"] * (instance.ops / 60) ** 1.2}
        return row

    return found


def test_finished_results_are_not_made_again(tmp_path: Path) -> None:
    """A kept result is taken up, one of another instance or a spoilt file is not, and the count of the rest is told."""
    jobs = [Job(name, TINY) for name in ("page_greedy", "capuchin")]
    said: list[str] = []
    kept = Kept(tmp_path, tmp_path)
    kept.put(jobs[0], {"status": "feasible"})
    assert kept.get(jobs[0]) == {"status": "feasible"}
    assert kept.get(Job("page_greedy", Instance("made", "chain", "mixed", 0.8, 8.0, ops=24))) is None
    assert run_all(jobs, kept, tmp_path, 0.0, said.append) == {"failed": 0, "not begun": 1}
    kept.path(jobs[0]).write_text("{")
    assert kept.get(jobs[0]) is None
    assert said[0] == "2 plans, 1 of them made before"


def test_a_row_is_the_judges_word(tmp_path: Path) -> None:
    """Overhead, bytes and our evaluator's verdict are there for each kind of planner, and no optimum is undercut."""
    instance = Instance("made", "residual", "mixed", 0.8, 2.0, ops=15)
    warm()
    rows = {method: do(Job(method, instance), tmp_path) for method in ("ours", "page_greedy", "highs")}
    assert all(row["accepted_by_ours"] and row["packed_bytes"] < row["json_bytes"] for row in rows.values())
    assert rows["ours"]["status"] == rows["highs"]["status"] == "optimal"
    assert rows["ours"]["overhead_pct"] == pytest.approx(rows["highs"]["overhead_pct"], rel=1e-6)
    assert rows["page_greedy"]["overhead_pct"] >= rows["ours"]["overhead_pct"] > 0


def test_no_schedule_has_a_reason(tmp_path: Path) -> None:
    """A planner without a schedule leaves why."""
    row = do(Job("keep", TINY), tmp_path)
    assert row["status"] == "none"
    assert "brings RAM to" in row["why"]


def test_all_targets_can_be_met_and_missed() -> None:
    """Good rows meet every target, bad ones miss every one, none at all say that nothing was run."""
    assert [aim.met == aim.of > 0 for aim in plan_report.targets(everything(ours()))] == [True] * 10
    bad = ours("feasible", overhead_pct=1e9, gap=0.9, cpu_s=1e4, wall_s=1e4, accepted_by_poet=False)
    missed = [aim.what for aim in plan_report.targets(everything(bad)) if aim.met < aim.of]
    assert len(missed) == 8
    nothing = plan_report.targets(lambda method, instance: None)
    assert all(aim.text.startswith("nothing was run") for aim in nothing)


def test_growth_is_the_exponent() -> None:
    """CPU time that grows as N to the 1.2 is said to do so."""
    assert plan_report.growth(everything(ours())) == pytest.approx({"chain": 1.2, "residual": 1.2, "transformer": 1.2})


def test_bars_are_the_grid() -> None:
    """Each row of the default grid has a bar or is infeasible."""
    rows = {(i.name, i.platform, i.share) for i in plan_instances.grid(full=False)}
    assert rows == set(BARS) | INFEASIBLE


def test_jobs_know_their_methods() -> None:
    """Every job's method exists, none is there twice, and the whole grid holds the default one."""
    some, every = plan.jobs(full=False), plan.jobs(full=True)
    assert {job.method for job in every} == set(METHODS)
    assert len(set(every)) == len(every)
    assert set(some) < set(every)


def test_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without POET's graphs the status is 2 and the message says what is missing."""
    monkeypatch.setattr("sys.argv", ["plan", "--data", str(tmp_path)])
    assert plan.main() == 2
    assert "linear.json" in capsys.readouterr().err


def test_markdown_has_every_row() -> None:
    """The tables hold a line for each instance, with what POET's evaluator refuses marked."""
    found = everything(ours(accepted_by_poet=False))
    instance = Instance("poet", "linear", "a72", 0.5)
    rows = {
        instance.key: {
            "instance": {"suite": "poet", "name": "linear", "platform": "a72", "share": 0.5, "semantics": "poet"},
            "methods": {"ours": ours(accepted_by_poet=False)},
        }
    }
    aims = [
        {"what": aim.what, "met": aim.met, "of": aim.of, "missed": aim.missed} for aim in plan_report.targets(found)
    ]
    summary = json.loads(json.dumps({"rows": rows, "claims": plan_report.claims(found), "targets": aims}))
    text = markdown(summary)
    assert "| linear | a72 | 0.5 |  | 0.0000* | 0.0000 | proven |" in text
    assert "published: Capuchin 73 to 141" in text


def test_tables_take_their_place_in_a_document() -> None:
    """Only what lies between the marks changes, and a document without marks is refused."""
    begin, end = marks(MARK)
    document = f"before\n{begin}\nold\n{end}\nafter\n"
    assert put(document, "new\n", MARK) == f"before\n{begin}\nnew\n{end}\nafter\n"
    with pytest.raises(ValueError, match="no lines"):
        put("nothing here", "new\n", MARK)
