# SPDX-License-Identifier: Apache-2.0
"""The governor's metrics, as Prometheus reads them."""

from __future__ import annotations

import logging
import socket
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from governor.exporter import RETRY_S, Exporter, governor_rows
from governor.guard import Slo
from governor.points import Best
from governor.reader import TrainerView
from governor.status import Phase, Status
from governor.training import TrainingStatus
from governor.trial import Feasible, Invalid, TrialRecord, Violated
from telemetry.board_page import BoardReading
from telemetry.metrics import GOVERNOR
from telemetry.trainer_page import JobNotice, TrainerLimits

GOLDEN = Path(__file__).resolve().parents[2] / "fixtures" / "metrics_governor.txt"
POINT = {"gpu_hz": 612e6, "batch": 4.0}
BOARD = BoardReading(
    board="virtual:agx-orin", virtual=True, observe_only=False, sampled_ns=5_000_000_000,
    requested=(612_000_000, 612_000_000, 2_133_000_000, 1_497_600_000, None),
    observed=(612_000_000, 612_000_000, 2_133_000_000, 1_497_600_000, 12),
    energy_j=1234.5, energy_error_j=0.25, power_w=17.75, lease_pid=42, lease_expires_ns=8_000_000_000,
    throttle_events=3, foreign_changes=1, brief_throttles=12, power_missing_s=1.5, power_same_s=0.125, zones_age_s=0.5,
    rails_w={"VDD_GPU_SOC": 7.5, "VIN_SYS_5V0": 4.25}, zones_celsius={"cpu-thermal": 48.5},
)  # fmt: skip


class Source:
    """Fixed figures."""

    def __init__(self, status: Status | None = None, board: BoardReading | None = BOARD) -> None:
        self._status = status or full_status()
        self._board = board

    def status(self) -> Status:
        return self._status

    def board(self) -> BoardReading | None:
        return self._board


def full_status() -> Status:
    trials = [
        TrialRecord(POINT, Feasible(), 0.75, 0.031, 6.0, 90, 0.03),
        TrialRecord(POINT, Violated(), 0.5, 0.09, 6.0, 80, 0.1),
        TrialRecord(POINT, Invalid("load")),
        TrialRecord(POINT, Invalid("throttled")),
    ]
    return Status(
        phase=Phase.HOLDING, point=POINT, trials=trials, best=Best(POINT, 0.75, 0.031, 0.97), leased=True,
        faults=Counter(clockd=2), refusals=Counter(held=1), failures=Counter({("denied", "emc_hz"): 3}),
        left_out={"emc_hz": "denied"}, alarms={"foreign": "somebody else changed a clock"},
        windows=Counter({("resnet18", "kept"): 7, ("resnet18", "broken"): 1}),
        slos={"resnet18": Slo(0.95, 0.05)}, latency_s={"resnet18": 0.033}, server_faults={"stub": 1},
        training=full_standing(),
    )  # fmt: skip


def full_standing() -> TrainingStatus:
    notice = JobNotice("job-7", "resnet18", 0.004, 0.12, 300, wants=True)
    trainer = TrainerView(notice, 1_500_000_000, 40, 12, (), {"running": 1, "done": 3}, {"resumed": 2})
    return TrainingStatus("paced", TrainerLimits(0.25, 0.05, "as predicted"), trainer, 0.006, 0.08, 0.95)


def scrape(exporter: Exporter) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=10) as reply:
        return str(reply.read().decode())


def test_the_page_is_exactly_this() -> None:
    """Names, help, labels and values of every family, against the golden file."""
    exporter = Exporter(Source(), "127.0.0.1", 0)
    try:
        exporter.poll()
        assert scrape(exporter) == GOLDEN.read_text()
    finally:
        exporter.close()


def test_the_golden_page_shows_every_metric() -> None:
    """No metric of the list is without an example, and no name is outside the list."""
    shown = {line.split()[2] for line in GOLDEN.read_text().splitlines() if line.startswith("# TYPE")}
    assert shown == {metric.name for metric in GOVERNOR}


def test_what_is_not_known_is_not_shown() -> None:
    """A governor that waits, without a board: up is 0, and no figure is made up."""
    exporter = Exporter(Source(Status(), None), "127.0.0.1", 0)
    try:
        exporter.poll()
        lines = [line for line in scrape(exporter).splitlines() if not line.startswith("#")]
    finally:
        exporter.close()
    assert lines == ["teg_governor_up 0.0"]


def test_with_several_models_none_takes_a_larger_share_of_its_limit() -> None:
    """The best latency is that of the model nearest its limit, told in the first one's seconds."""
    status = full_status()
    status.slos["bert_mini"] = Slo(0.95, 0.2)
    assert governor_rows(status)["teg_best_latency_seconds"] == [
        (("resnet18",), pytest.approx(0.031)), (("bert_mini",), pytest.approx(0.124))
    ]  # fmt: skip


def test_a_port_that_is_taken_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else's port is a warning, not an end; half a minute later it is tried again, and not before."""
    now_s = 100.0
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        source = Source()
        exporter = Exporter(source, "127.0.0.1", port, lambda: now_s)
        with caplog.at_level(logging.WARNING):
            exporter.poll()
            exporter.poll()
    assert exporter.port is None
    assert len(caplog.records) == 1
    assert source.status().faults["metrics"] == 1
    try:
        now_s += RETRY_S - 1
        exporter.poll()
        assert exporter.port is None
        now_s += 1
        exporter.poll()
        assert exporter.port == port
        assert "teg_governor_up 1.0" in scrape(exporter)
    finally:
        exporter.close()
