# SPDX-License-Identifier: Apache-2.0
"""The board page and the trainer page."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from telemetry.board_page import RAILS, ZONES, BoardPage, BoardReading
from telemetry.pages import HEARTBEAT
from telemetry.trainer_page import ENDLESS_NS, FAULT_KINDS, JOB_STATES, RING, JobNotice, TrainerLimits, TrainerPage

READING = BoardReading(
    board="virtual:agx-orin",
    virtual=True,
    observe_only=False,
    sampled_ns=123,
    requested=(1_300_500_000, None, 3_199_000_000, 2_201_600_000, 12),
    observed=(1_300_500_000, 306_000_000, 3_199_000_000, 2_201_600_000, 12),
    energy_j=1234.5,
    energy_error_j=0.25,
    power_w=31.5,
    lease_pid=77,
    lease_expires_ns=456,
    throttle_events=2,
    foreign_changes=1,
    rails_w={"VDD_GPU_SOC": 12.5, "VDD_CPU_CV": 4.0},
    zones_celsius={"gpu": 41.5, "cpu": 39.0},
)


def test_a_reading_comes_back(tmp_path: Path) -> None:
    """Every field, absent knobs included, is read as written, and writing beats."""
    page = BoardPage.create(tmp_path / "board.page")
    assert page.read() is None
    written_ns = time.monotonic_ns()
    page.write(READING)
    reader = BoardPage.open(tmp_path / "board.page")
    assert reader.read() == READING
    assert reader.words[HEARTBEAT] >= written_ns
    reader.close()
    page.close()


def test_more_rails_than_fit_are_cut(tmp_path: Path) -> None:
    """A board with more rails or zones than the page holds loses the last ones, not the reading."""
    page = BoardPage.create(tmp_path / "board.page")
    rails = {f"rail{n}": float(n) for n in range(RAILS + 3)}
    zones = {f"zone{n}": float(n) for n in range(ZONES + 3)}
    page.write(dataclasses.replace(READING, rails_w=rails, zones_celsius=zones))
    reading = page.read()
    assert reading is not None
    assert list(reading.rails_w) == list(rails)[:RAILS]
    assert list(reading.zones_celsius) == list(zones)[:ZONES]
    page.close()


def test_slices_add_up(tmp_path: Path) -> None:
    """Busy time and the number of slices only grow."""
    page = TrainerPage.create(tmp_path / "trainer.page")
    for busy_ns in (5, 7):
        page.slice_done(busy_ns)
    assert (page.busy_ns, page.slices) == (12, 2)
    page.close()


def test_limits_expire(tmp_path: Path) -> None:
    """A trainer whose governor is gone has no limits in force, and knows it."""
    page = TrainerPage.create(tmp_path / "trainer.page")
    assert page.read_limits(0) is None
    page.write_limits(TrainerLimits(0.5, 0.02), ttl_s=5.0)
    now_ns = time.monotonic_ns()
    assert page.read_limits(now_ns) == TrainerLimits(0.5, 0.02)
    assert page.read_limits(now_ns + 5_000_000_000) is None
    page.close()


def test_a_notice_comes_back(tmp_path: Path) -> None:
    """An idle process' before one was written; no deadline is an infinite one."""
    page = TrainerPage.create(tmp_path / "trainer.page")
    assert page.notice == JobNotice()
    notice = JobNotice("digits-7", "digits_cnn", 0.004, 0.12, 300, wants=True)
    for told in (notice, dataclasses.replace(notice, mix=0.3)):
        page.write_notice(told)
        assert page.notice == told
    page.close()


def test_a_reason_comes_with_the_limits(tmp_path: Path) -> None:
    """What is too long for the page is cut."""
    page = TrainerPage.create(tmp_path / "trainer.page")
    page.write_limits(TrainerLimits(0.0, 0.0, "tuning " * 30), ttl_s=5.0)
    held = page.read_limits(time.monotonic_ns())
    assert held is not None
    assert held.reason == ("tuning " * 30)[:96]
    page.close()


def test_the_last_stretches_are_kept(tmp_path: Path) -> None:
    """A reader gets those that are new; one that comes too late misses the oldest."""
    page = TrainerPage.create(tmp_path / "trainer.page")
    for number in range(3):
        page.add_stretch(1_000_000 * (number + 1))
    assert page.stretches_since(1) == ([0.002, 0.003], 3)
    for _ in range(2 * RING):
        page.add_stretch(5_000_000)
    found, cursor = page.stretches_since(3)
    assert (found, cursor) == ([0.005] * RING, 3 + 2 * RING)
    page.close()


def test_jobs_and_faults_are_counted(tmp_path: Path) -> None:
    """Nothing before they were written; of too many kinds of faults the last are left out."""
    page = TrainerPage.create(tmp_path / "trainer.page")
    assert (page.jobs, page.faults, page.steps) == ({}, {}, 0)
    page.write_jobs({"queued": 2, "done": 5})
    page.write_faults({f"kind{number}": number for number in range(FAULT_KINDS + 1)})
    page.step_done()
    assert page.jobs == dict.fromkeys(JOB_STATES, 0) | {"queued": 2, "done": 5}
    assert page.faults == {f"kind{number}": number for number in range(FAULT_KINDS)}
    assert page.steps == 1
    page.close()


def test_a_virtual_board_slows_training_down(tmp_path: Path) -> None:
    """To a millionth; a real board's page says nothing, and nobody waits for its GPU."""
    page = TrainerPage.create(tmp_path / "trainer.page")
    assert (page.slowdown, page.occupied_until_ns) == (0.0, 0)
    page.write_slowdown(1.625)
    page.occupy(ENDLESS_NS)
    assert (page.slowdown, page.occupied_until_ns) == (1.625, ENDLESS_NS)
    page.close()
