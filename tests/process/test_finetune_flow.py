# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning in the gaps, whole: the guide's client, a real Triton, `teg finetune worker`, `teg run`, clockd.

The board is virtual, the digits are real and turned by a quarter, as after a camera fell on its side.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tritonclient.grpc as grpc

from benchmarks.demo_finetune_world import Clients, load, under_load
from benchmarks.stack import REPOSITORY, TEG, Stack, child, running
from governor.cli import build_parser
from governor.load import LoadPlan, draw_arrivals
from governor.publish import is_intact
from governor.published import read_standing

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDE, EXAMPLE = (DOCS / "finetuning-service.md").read_text(), DOCS / "examples" / "teach_and_train.py"
COMMANDS = re.findall(r"^(teg [^#\n]*?)(?: &&.*)?(?:\s+#.*)?$", GUIDE, flags=re.MULTILINE)
MODEL, TRAINER = "digits_cnn", "finetune"
RATE_HZ, PATIENCE_S = 25.0, 240.0
SAMPLES = 384
JOB = {"epochs": 5, "batch": 32, "learning_rate": 3e-3, "validation_share": 0.25, "patience": 0}
SLOW = '"slo_ms", value: { string_value: "5000" }'
SETTINGS = ("--slo-s", "0.5", "--slo-quantile", "0.9", "--knobs", "gpu_hz", "--trials", "2", "--trial-s", "1")


@dataclass
class Flow:
    """A served model with a governor and a worker beside it, and clients who know only Triton."""

    stack: Stack
    clients: Clients
    repository: Path
    spool: Path

    def standing(self) -> dict[str, Any]:
        return read_standing(self.stack.run_dir.root) or {}

    def ready_versions(self) -> list[str]:
        with grpc.InferenceServerClient(self.stack.grpc_url) as client:
            return list(client.get_model_metadata(MODEL).versions)


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flow]:
    repository, spool = tmp_path / "repository", tmp_path / "spool"
    for model in (MODEL, TRAINER):
        shutil.copytree(REPOSITORY / model, repository / model)
    # a busy host's stalls are not the new version's
    config = repository / MODEL / "config.pbtxt"
    config.write_text(config.read_text().replace('"slo_ms", value: { string_value: "50" }', SLOW))
    monkeypatch.setenv("TEG_SPOOL_DIR", str(spool))
    with ExitStack() as stack:
        up = stack.enter_context(running(tmp_path, MODEL, TRAINER, repository=repository, publish=True))
        for verb, options in (
            ("run", ("--state-dir", str(tmp_path / "state"), "--metrics-port", "0", *SETTINGS)),
            ("finetune worker", ("--watch-s", "2")),
        ):
            log = stack.enter_context((tmp_path / f"{verb}.log").open("w"))
            command = [*TEG, *verb.split(), "--run-dir", str(up.run_dir.root), *options]
            stack.enter_context(child(subprocess.Popen(command, stdout=log, stderr=log)))
        yield Flow(up, stack.enter_context(Clients(up.grpc_url, MODEL, TRAINER)), repository, spool)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The guide's client."""
    spec = importlib.util.spec_from_file_location("teach_and_train", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.external
def test_a_model_learns_what_its_users_send_while_it_serves(
    flow: Flow, example: ModuleType, eventually: Callable[..., None]
) -> None:
    """From samples to a published version: within the budget, no request failed, the governor back at its point."""
    taught, unseen = load()
    lesson, turned = taught.turned(), unseen.turned()
    plan = LoadPlan(flow.stack.grpc_url, MODEL, draw_arrivals(RATE_HZ, 5, seconds=900.0))
    with under_load(plan) as reports, grpc.InferenceServerClient(flow.stack.grpc_url) as client:
        before = flow.clients.accuracy(turned)
        eventually(lambda: flow.standing().get("phase") == "holding", PATIENCE_S)
        point = flow.standing()["point"]
        state = example.follow(client, lesson.images[:SAMPLES], lesson.labels[:SAMPLES], **JOB)
        assert (state["state"], state["version"]) == ("done", 2), state
        assert flow.ready_versions() == ["2"]
        assert flow.clients.accuracy(turned) > before + 0.5
        eventually(lambda: flow.standing().get("point") == point, PATIENCE_S)
    (report,) = reports
    assert report.failed == 0
    assert report.requests > 100
    assert state["step"] == state["steps"] == JOB["epochs"] * (SAMPLES - SAMPLES // 4) // JOB["batch"]
    assert 0 < state["peak_bytes"] <= state["budget_bytes"]
    assert state["accuracy_after"] > state["accuracy_before"] + 0.5
    assert is_intact(flow.repository / MODEL / "2")
    assert flow.spool.stat().st_mode & 0o777 == 0o700


def test_the_guide_shows_what_the_example_runs() -> None:
    """Every block of Python in the guide stands in the example, word for word but for how far it is indented."""
    snippets = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    text = EXAMPLE.read_text()
    assert snippets
    assert all(any(textwrap.indent(found, " " * deep) in text for deep in (0, 4, 8)) for found in snippets)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_of_the_guide_is_understood(command: str) -> None:
    """The command line knows each verb and option that the guide uses."""
    assert callable(build_parser().parse_args(command.split()[1:]).handler)
