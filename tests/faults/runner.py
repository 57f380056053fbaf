# SPDX-License-Identifier: Apache-2.0
"""Runs rows, each in a process of its own, writes out/faults.json after every one, and takes up what is finished."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .record import Row
from .zygote import ROOT

Json = dict[str, Any]
HOST_S = 4.0
"""What a host may lose in a thinned run before a promise is called broken."""
SOURCES = (
    "boards", "finetune", "governor", "model_repository", "predictor", "telemetry", "triton_backend", "tests/faults",
    "tests/fixtures",
)  # fmt: skip


def digest(root: Path = ROOT, sources: Sequence[str] = SOURCES) -> str:
    """A name of the product and the suite as they are: another one means that no earlier result counts."""
    found = hashlib.sha256()
    for source in sources:
        for path in sorted((root / source).rglob("*")):
            if path.suffix in (".py", ".json", ".tree") and path.is_file():
                found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def earlier(report: Path, name: str) -> Json:
    """The rows of an earlier run of the same sources that passed; a report that cannot be read holds none."""
    try:
        old = json.loads(report.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(old, dict):
        return {}
    return {row: result for row, result in old.items() if result.get("digest") == name and result.get("passed")}


def verdict(row: Row, outcome: Mapping[str, Any], every: int = 1) -> bool:
    """Whether a row passed: nothing failed, and it injected as often as it must; thinned, at least once."""
    enough = outcome["injected"] >= row.need and outcome["real_processes"] >= min(row.real, row.need)
    return not outcome["failed"] and (enough or (every > 1 and outcome["injected"] > 0))


def run_row(row: Row, every: int = 1, root: Path = ROOT) -> Json:
    """One row in a process of its own; what became of it. `root` is the product's, so that a copy may be tried."""
    began_s = time.monotonic()
    with tempfile.NamedTemporaryFile(prefix="teg-row-", suffix=".json") as answer:
        command = [sys.executable, "-m", "tests.faults", "--one", row.number, "--every", str(every)]
        command += ["--answer", answer.name]
        environ = os.environ | {"TEG_FAULT_HOST_S": str(HOST_S if every > 1 else 0.0)}
        process = subprocess.Popen(command, cwd=root, env=environ, stderr=subprocess.PIPE, text=True)
        try:
            said = process.communicate(timeout=row.limit_s)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            said = f"not done after {row.limit_s:.0f} s; {process.communicate()[1]}"
        outcome = _answered(Path(answer.name), process.returncode, said)
    outcome["passed"] = verdict(row, outcome, every)
    return {"what": row.fault, **outcome, "need": row.need, "seconds": round(time.monotonic() - began_s, 1)}


def run(
    rows: Sequence[Row],
    report: Path,
    *,
    every: int = 1,
    runs: Callable[[Row, int], Json] = run_row,
    say: Callable[[str], None] = print,
) -> bool:
    """Run what has not passed yet, write the report after every row; whether all of them passed."""
    name = digest() + (f"/{every}" if every > 1 else "")
    results = earlier(report, name)
    for row in rows:
        if row.number not in results:
            say(f"row {row.number}: {row.fault} ...")
            results[row.number] = runs(row, every) | {"digest": name}
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        say(line_of(row, results[row.number]))
    return all(results[row.number]["passed"] for row in rows)


def line_of(row: Row, result: Mapping[str, Any]) -> str:
    """One row's result for people."""
    sign = "passed" if result["passed"] else "FAILED"
    counts = f"{result['injected']} injected (need {row.need}), {result['real_processes']} into real processes"
    lines = [f"row {row.number}: {sign}: {counts}, {result['seconds']} s"]
    return "\n".join([*lines, *(f"    {failure}" for failure in result["failures"][:5])])


def _answered(answer: Path, code: int, said: str) -> Json:
    text = answer.read_text()
    if code == 0 and text:
        outcome: Json = json.loads(text)
        return outcome
    failure = f"the row itself ended with {code}: {said[-2000:]}"
    return {"injected": 0, "real_processes": 0, "failed": 1, "failures": [failure], "kinds": {}, "notes": {}}
