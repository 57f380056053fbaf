# SPDX-License-Identifier: Apache-2.0
"""What the governor reads of real pages: instances, the trainer, the server's file; and what it writes to them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from device import info

from governor.reader import RESCAN_S, PageReader
from telemetry.instance_page import BOOKS, InstanceInfo, InstancePage
from telemetry.pages import HEARTBEAT, STALE_NS
from telemetry.rundir import RunDir
from telemetry.trainer_page import JobNotice, TrainerLimits, TrainerPage


class Desk:
    """A run directory, and a reader whose clock is ours."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDir(folder)
        self.run_dir.make()
        self.now_ns = time.monotonic_ns()
        self.reader = PageReader(self.run_dir, lambda: self.now_ns)

    def rescan(self) -> None:
        self.now_ns += int(1.1e9 * RESCAN_S)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.reader.close()


def test_a_trainer_is_seen_and_told_its_limits(desk: Desk) -> None:
    """What it wants and did; stretches once each. A new process begins anew, one that has died is none."""
    assert desk.reader.read().trainer is None
    desk.reader.write_limits(TrainerLimits(1.0, 0.05), 2.0)
    page = TrainerPage.create(desk.run_dir.trainer_page)
    notice = JobNotice("job", "digits_cnn", 0.004, 0.1, 30, wants=True)
    page.write_notice(notice)
    page.add_stretch(2_000_000)
    page.slice_done(5_000_000)
    desk.rescan()
    seen = desk.reader.read().trainer
    assert seen is not None
    assert (seen.notice, seen.busy_ns, seen.slices, seen.stretches_s) == (notice, 5_000_000, 1, (0.002,))
    again = desk.reader.read().trainer
    assert again is not None
    assert again.stretches_s == ()
    desk.reader.write_limits(TrainerLimits(0.5, 0.05, "why"), 2.0)
    assert page.read_limits(time.monotonic_ns()) == TrainerLimits(0.5, 0.05, "why")
    desk.now_ns += STALE_NS
    assert desk.reader.read().trainer is None
    page.remove()


def test_a_silent_model_is_told_by_its_age(desk: Desk) -> None:
    """Before it counts as gone; what only keeps books is not seen at all."""
    page = InstancePage.create(desk.run_dir.instance_page("one"))
    page.write_info(info())
    books = InstancePage.create(desk.run_dir.instance_page("two"))
    books.write_info(InstanceInfo("finetune", "1", "two", BOOKS, 1, 0, 0.0, 0.99, 1.0))
    desk.rescan()
    desk.now_ns = time.monotonic_ns()
    (seen,) = desk.reader.read().instances
    assert seen.silent_s == pytest.approx(0.0, abs=0.2)
    page.words[HEARTBEAT] = desk.now_ns - 700_000_000
    (seen,) = desk.reader.read().instances
    assert seen.silent_s == pytest.approx(0.7)
    page.remove()
    books.remove()


def test_the_server_says_what_died_and_what_is_on_trial(desk: Desk) -> None:
    """Only while those who wrote it live."""
    served = {
        "pid": os.getpid(), "server_pid": 1, "address": "127.0.0.1", "http": 1, "grpc": 2, "metrics": 3, "models": [],
        "faults": {"stub": 2},
    }  # fmt: skip
    (desk.run_dir.root / "serve.json").write_text(json.dumps(served))
    rollout = {"pid": os.getpid(), "model": "digits_cnn", "version": 2, "base": 1}
    (desk.run_dir.root / "rollout.json").write_text(json.dumps(rollout))
    now = desk.reader.read()
    assert (now.rollout, now.server_faults) == ("digits_cnn", {"stub": 2})
    (desk.run_dir.root / "rollout.json").write_text(json.dumps(rollout | {"pid": 2**22 + 1}))
    (desk.run_dir.root / "serve.json").unlink()
    desk.rescan()
    now = desk.reader.read()
    assert (now.rollout, now.server_faults) == ("", {})
