# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from pathlib import Path

import pytest

from boards.tree import SysfsTree
from governor.surroundings import Look
from telemetry.board_page import BoardPage, BoardReading
from telemetry.instance_page import Counter, InstanceInfo, InstancePage
from telemetry.rundir import RunDir

NONE = (None,) * 5


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def instance(run_dir: RunDir, model: str, workload: str = "") -> InstancePage:
    page = InstancePage.create(run_dir.instance_page(f"{model}_0_0"))
    page.write_info(InstanceInfo(model, "1", f"{model}_0_0", workload, 8, 0, 0.05, 0.99, 1.0))
    return page


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.make()
    return made


def test_idle_since_the_last_request(run_dir: RunDir, tmp_path: Path) -> None:
    """Idle is counted from the last time that anybody was seen asking, at first from the beginning."""
    clock = Clock()
    look = Look(run_dir, SysfsTree(tmp_path), clock)
    page = instance(run_dir, "digits_cnn")
    assert look().idle_s == 0
    clock.now_s += 30
    page.beat()
    assert look().idle_s == 30
    page.count(Counter.REQUESTS)
    clock.now_s += 5
    page.beat()
    assert look().idle_s == 0
    page.set_gate(1, 1)
    clock.now_s += 5
    page.beat()
    assert look().idle_s == 0, "a request in flight"
    page.close()


def test_samples_that_arrive_are_no_requests(run_dir: RunDir, tmp_path: Path) -> None:
    """What is sent to the model that takes samples in does not make the device busy."""
    clock = Clock()
    look = Look(run_dir, SysfsTree(tmp_path), clock)
    page = instance(run_dir, "finetune", "none")
    look()
    clock.now_s += 30
    page.count(Counter.REQUESTS)
    page.beat()
    assert look().idle_s == 30
    page.close()


def test_a_look_is_good_for_a_second(run_dir: RunDir, tmp_path: Path) -> None:
    """Asked more often, nothing is looked at again."""
    clock = Clock()
    look = Look(run_dir, SysfsTree(tmp_path), clock)
    first = look()
    clock.now_s += 0.5
    assert look() is first
    clock.now_s += 0.6
    assert look() is not first


def reading(zones: dict[str, float], age_s: float = 0.0) -> BoardReading:
    return BoardReading(
        "b", True, False, 1, NONE, NONE, 0.0, 0.0, 5.0, 0, 0, 0, 0, zones_age_s=age_s, zones_celsius=zones
    )


@pytest.mark.parametrize(
    ("zones", "age_s", "celsius"),
    [({"cpu": 50.0, "gpu": 61.5}, 0.0, 61.5), ({}, 0.0, None), ({"cpu": 50.0}, 60.0, None)],
)
def test_the_hottest_zone_counts(
    run_dir: RunDir, tmp_path: Path, zones: dict[str, float], age_s: float, celsius: float | None
) -> None:
    """The temperature is that of the hottest zone; an old one is none."""
    page = BoardPage.create(run_dir.board_page)
    page.write(reading(zones, age_s))
    assert Look(run_dir, SysfsTree(tmp_path), Clock())().celsius == celsius
    page.close()


def test_without_a_board_nothing_is_known(run_dir: RunDir, tmp_path: Path) -> None:
    """No page, no power supply: neither temperature nor charging is made up; the time of day is the local one."""
    noon = time.struct_time((2026, 1, 1, 12, 34, 0, 3, 1, 0))
    found = Look(run_dir, SysfsTree(tmp_path), Clock(), lambda: noon)()
    assert (found.celsius, found.charging, found.minute) == (None, None, 12 * 60 + 34)
