# SPDX-License-Identifier: Apache-2.0
"""The fault suite's own logic: what it resumes, what it calls passed, what a crashed disk may hold, what docs link."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.crash import Call, Disk, out_of_order
from tests.faults.record import Row, Tally
from tests.faults.runner import digest, run, verdict
from tests.faults.strace import numbered
from tests.faults.table import ROWS

ROOT = Path(__file__).resolve().parents[3]
PASSED = {"injected": 4, "real_processes": 4, "failed": 0, "failures": [], "passed": True, "seconds": 1.0}
FAILED = PASSED | {"failed": 1, "failures": ["left changed"], "passed": False}


def rows(*names: str) -> list[Row]:
    return [Row(name, f"fault {name}", 4, "nowhere:nothing") for name in names]


class Runs:
    """Counts which rows were run; those in `failing` fail."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.run: list[str] = []

    def __call__(self, row: Row, every: int) -> dict[str, Any]:
        self.run.append(row.number)
        return dict(FAILED if row.number in self.failing else PASSED)


def quiet(line: str) -> None:
    """Nobody listens."""


def test_rows_that_passed_are_not_run_again(tmp_path: Path) -> None:
    """A second run takes up what the first one finished, and repeats only what failed."""
    first, second = Runs("2"), Runs()
    assert not run(rows("1", "2"), tmp_path / "r.json", runs=first, say=quiet)
    assert run(rows("1", "2"), tmp_path / "r.json", runs=second, say=quiet)
    assert (first.run, second.run) == (["1", "2"], ["2"])


@pytest.mark.parametrize("content", ['{"1": {"digest": "another", "passed": true}}', "[1]", "{", ""])
def test_results_of_other_sources_do_not_count(tmp_path: Path, content: str) -> None:
    """A report of a changed product, or one that cannot be read, holds nothing."""
    (tmp_path / "r.json").write_text(content)
    runs = Runs()
    assert run(rows("1"), tmp_path / "r.json", runs=runs, say=quiet)
    assert runs.run == ["1"]
    assert json.loads((tmp_path / "r.json").read_text())["1"]["passed"]


def test_a_changed_source_has_another_digest(tmp_path: Path) -> None:
    """Names and contents of the product's files are in the digest; files of other kinds are not."""
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards/a.py").write_text("x = 1\n")
    before = digest(tmp_path)
    (tmp_path / "boards/notes.txt").write_text("nothing\n")
    assert digest(tmp_path) == before
    (tmp_path / "boards/a.py").write_text("x = 2\n")
    assert digest(tmp_path) != before


@pytest.mark.parametrize(
    ("outcome", "every", "passed"),
    [
        ({"injected": 100, "real_processes": 20, "failed": 0}, 1, True),
        ({"injected": 99, "real_processes": 99, "failed": 0}, 1, False),
        ({"injected": 100, "real_processes": 19, "failed": 0}, 1, False),
        ({"injected": 100, "real_processes": 20, "failed": 1}, 1, False),
        ({"injected": 10, "real_processes": 1, "failed": 0}, 7, True),
        ({"injected": 0, "real_processes": 0, "failed": 0}, 7, False),
    ],
)
def test_a_row_passes_only_at_its_number(outcome: dict[str, int], every: int, passed: bool) -> None:
    """A full run needs every injection, twenty of them real; a thinned one needs some; neither bears a failure."""
    assert verdict(Row("1", "fault", 100, "x:y"), outcome, every) is passed


def test_a_tally_thins_and_remembers() -> None:
    """Every third point is taken; what did not hold is counted and kept in words."""
    tally = Tally(every=3)
    assert tally.thin(range(7)) == [0, 3, 6]
    assert (tally.few(10), tally.few(2)) == (3, 1)
    assert not tally.same(1, 2, "a knob")
    assert (tally.failed, tally.failures) == (1, ["a knob: 1 in place of 2"])


def test_unsynced_bytes_may_be_lost_and_synced_ones_not() -> None:
    """Before fsync a crash may leave nothing; after it the bytes are there, and after the folder's, the name."""
    disk, path = Disk(Path("/d")), Path("/d/log")
    disk.do(Call("openat", path, flags="O_CREAT"))
    disk.do(Call("write", path, b"one"))
    assert {"log": b""} in list(disk.crashes())
    disk.do(Call("fsync", path))
    assert {} in list(disk.crashes())
    assert {"log": b""} not in list(disk.crashes())
    disk.do(Call("fsync", Path("/d")))
    assert list(disk.crashes()) == [{"log": b"one"}] * 4


def test_a_knob_before_a_safe_ledger_is_out_of_order() -> None:
    """The record and its name must both be on the disk before the first knob is written."""
    ledger, new, knob = Path("/d/ledger"), Path("/d/.new"), Path("/sys/max_freq")
    begin = [Call("openat", new, flags="O_CREAT"), Call("write", new, b"originals")]
    renamed = [Call("fsync", new), Call("rename", new, target=ledger)]
    write, sync = Call("write", knob, b"1"), Call("fsync", Path("/d"))
    assert out_of_order([*begin, *renamed, sync, write], frozenset({knob}), ledger) == []
    assert out_of_order([*begin, *renamed, write, sync], frozenset({knob}), ledger)
    assert out_of_order([write, *begin, *renamed, sync], frozenset({knob}), ledger)


def test_every_row_is_documented_and_runs_a_function_that_exists() -> None:
    """docs/faults.md links each automated row to the file and function that prove it."""
    text = (ROOT / "docs/faults.md").read_text()
    for row in ROWS.values():
        module, _, function = row.run.partition(":")
        assert callable(getattr(importlib.import_module(f"tests.faults.{module}"), function))
        assert f"| {row.number} |" in text
        assert f"[{module}.{function}](../tests/faults/{module}.py)" in text


def test_calls_are_numbered_by_thread_though_threads_take_turns(tmp_path: Path) -> None:
    """The end of a call between which and its beginning another thread's stands is no call of its own."""
    log = tmp_path / "log"
    log.write_text(
        "7 openat(AT_FDCWD, page <unfinished ...>\n"
        "8 write(3, page) = 4\n"
        "7 <... openat resumed>) = 5\n"
        "7 openat(AT_FDCWD, other) = 6\n"
        "7 openat(AT_FDCWD, page) = 7\n"
    )
    assert numbered(log, lambda call, line: "page" in line) == [("openat", 1), ("write", 1), ("openat", 3)]
