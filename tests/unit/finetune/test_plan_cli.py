# SPDX-License-Identifier: Apache-2.0
"""`teg plan`: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.plan_file import read_plan
from finetune.poet.graph_file import parse_graph
from finetune.poet.matrices import Matrices, judge
from finetune.replay import replay
from governor.cli import DONE, NO, USAGE, main
from tests.unit.finetune.steps import poet_file

Teg = Callable[..., int]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "chain.json"
    path.write_text(json.dumps(poet_file(6)))
    return path


@pytest.fixture
def teg(graph: Path) -> Teg:
    """`teg plan` on the chain with little effort, and with what else is asked for."""

    def run(*flags: str) -> int:
        return main(["plan", "--graph", str(graph), "--platform", "board", "--effort", "1", *flags])

    return run


def test_a_plan_is_printed_and_written(teg: Teg, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file's matrices obey POET's rules at the budget asked for, and cost what the file says."""
    out = tmp_path / "plan.json"
    assert teg("--budget", "60%", "--out", str(out)) == DONE
    text = capsys.readouterr().out
    assert "chain on board, poet rules: optimal" in text
    assert "the least there is" in text
    content = json.loads(out.read_bytes())
    found = parse_graph(poet_file(6))
    problem = found.problem("board", content["budget_bytes"])
    assert content["budget_bytes"] == found.activation_peak_bytes * 6 // 10
    bits = [np.array(content[name], dtype=bool) for name in ("R", "SRam", "SSd", "Min", "Mout")]
    verdict = judge(problem, Matrices(*bits), found.edges)
    assert verdict.broken == ()
    assert verdict.overhead_j == pytest.approx(content["overhead_j"])


def test_json_is_one_object_and_the_same_as_the_file(
    teg: Teg, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else on standard output, also under `real`, where the weights are counted."""
    out = tmp_path / "plan.json"
    assert teg("--budget", "70%", "--semantics", "real", "--json", "--out", str(out)) == DONE
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_bytes())
    assert "R" not in printed
    assert printed["peak_bytes"] > printed["activation_peak_bytes"] > 0
    problem = parse_graph(poet_file(6)).problem("board", printed["budget_bytes"], semantics="real")
    assert replay(problem, read_plan(out, problem.graph).schedule).overhead_j == printed["overhead_j"]


def test_the_picture_is_drawn(teg: Teg, tmp_path: Path) -> None:
    """As PNG."""
    picture = tmp_path / "plan.png"
    assert teg("--budget", "60%", "--plot", str(picture)) == DONE
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_no_plan_is_exit_code_1_with_the_reason(teg: Teg, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the smallest budget that has one, which then has one."""
    out = tmp_path / "plan.json"
    assert teg("--budget", "100", "--out", str(out)) == NO
    text = capsys.readouterr().out
    assert "infeasible" in text
    assert "alone needs" in text
    content = json.loads(out.read_bytes())
    assert (content["status"], content["schedule"]) == ("infeasible", [])
    assert teg("--budget", str(content["smallest_budget_bytes"])) == DONE
    assert teg("--budget", "100%", "--deadline", "0.9x") == NO
    assert "computing alone takes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("where", "value", "why"),
    [
        ("edges", [[0, 1], [1, 0]], "closes a cycle"),
        ("edges", [[0, 1]], "is not connected"),
        ("cost_ram", [-1] * 13, "must be finite and not negative"),
    ],
)
def test_a_graph_that_is_not_sound_is_exit_code_1(
    graph: Path, capsys: pytest.CaptureFixture[str], where: str, value: Any, why: str
) -> None:
    """One line on standard error names the place."""
    graph.write_text(json.dumps(poet_file(6) | {where: value}))
    assert main(["plan", "--graph", str(graph), "--platform", "board", "--budget", "60%"]) == NO
    found = capsys.readouterr()
    assert why in found.err
    assert found.err.count("\n") == 1
    assert not found.out


def test_storage_that_moves_nothing_is_exit_code_1(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named with its figure."""
    content = poet_file(6)
    content["platforms"]["board"]["chip"]["PAGEOUT_THROUGHPUT"] = 0
    graph.write_text(json.dumps(content))
    assert main(["plan", "--graph", str(graph), "--platform", "board", "--budget", "60%"]) == NO
    assert "PAGEOUT_THROUGHPUT: must be above zero" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--budget", "many"], "is not a number of bytes"),
        (["--budget", "60%", "--deadline", "soon"], "is neither seconds nor a multiple"),
        (["--budget", "60%", "--out", "/nowhere/plan.json"], "No such file"),
    ],
)
def test_flags_that_cannot_be_used_are_usage(
    teg: Teg, capsys: pytest.CaptureFixture[str], flags: list[str], why: str
) -> None:
    """Exit code 2, and what was wrong."""
    assert teg(*flags) == USAGE
    assert why in capsys.readouterr().err


def test_what_to_plan_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file, a platform for it, a model that is known."""
    missing = str(tmp_path / "missing.json")
    assert main(["plan", "--graph", missing, "--platform", "a72", "--budget", "60%"]) == USAGE
    assert "No such file" in capsys.readouterr().err
    assert main(["plan", "--model", "no_such_model", "--budget", "60%"]) == USAGE
    assert "no architecture is named 'no_such_model'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--budget", "1"], ["--graph", "a", "--model", "b", "--budget", "1"], ["--model", "m"], ["--seed", "-1"]]
)
def test_flags_that_do_not_fit_together_end_the_parser(flags: list[str]) -> None:
    """With exit code 2."""
    with pytest.raises(SystemExit) as caught:
        main(["plan", *flags])
    assert caught.value.code == USAGE


FACTORY = """
import torch

def make(batch):
    model = torch.nn.Sequential(*(layer for _ in range(6) for layer in (torch.nn.Linear(64, 64), torch.nn.Tanh())))
    return model, torch.nn.functional.mse_loss, (torch.randn(batch, 64), torch.randn(batch, 64))
"""


def test_a_module_of_ones_own_is_planned_for_a_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Captured, with its optimizer, on counted operations; half the activations fit the budget that was asked for."""
    (tmp_path / "my_module_to_plan.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    flags = ["--platform", "a72nocache", "--batch", "512", "--budget", "60%", "--effort", "0.5", "--json"]
    assert main(["plan", "--model", "my_module_to_plan:make", "--optimizer", "momentum", *flags]) == DONE
    content = json.loads(capsys.readouterr().out)
    assert content["semantics"] == "real"
    assert content["costs_from"] == "counted operations x published rates, nothing timed"
    assert content["peak_bytes"] <= content["budget_bytes"]
    assert content["overhead_j"] > 0
