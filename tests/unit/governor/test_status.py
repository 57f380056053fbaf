# SPDX-License-Identifier: Apache-2.0
"""`teg status`: what the pages say, for programs and for people."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from device import info

from governor.cli import DONE, NO, USAGE, main
from governor.cli.status import status_json, status_text
from governor.errors import AlreadyGoverned
from governor.published import EVERY_S, LOCK, STANDING, OnlyOne, Standing, read_standing, standing_of
from governor.reader import InstanceView, Snapshot
from governor.status import Phase, Status
from telemetry.board_page import BoardPage, BoardReading
from telemetry.instance_page import Counter, InstancePage, Knobs
from telemetry.rundir import RunDir

BOARD = BoardReading(
    "virtual:agx-orin", True, False, 5_000_000_000, (612_000_000, None, None, None, None),
    (612_000_000, 306_000_000, 2_133_000_000, 1_497_600_000, 12), 12.5, 0.25, 17.75, 42, 8_000_000_000, 3, 1,
    rails_w={"VDD_GPU_SOC": 7.5}, zones_celsius={"cpu-thermal": 48.5},
)  # fmt: skip
VIEW = InstanceView(info(slo_s=0.05), (), 0, 2, 4_000_000_000, 1_500_000_000, 90, Knobs(4, 0))


def test_the_json_is_si_units_and_null_for_the_unknown() -> None:
    """Every key, through JSON text."""
    status = json.loads(json.dumps(status_json(Snapshot(0, BOARD, (VIEW,)))))
    board, (instance,) = status["board"], status["instances"]
    assert board["name"] == "virtual:agx-orin"
    assert (board["virtual"], board["observe_only"], board["lease_pid"]) == (True, False, 42)
    assert board["requested"] == {
        "gpu_hz": 612_000_000, "gpu_min_hz": None, "emc_hz": None, "cpu_hz": None, "cores": None
    }  # fmt: skip
    assert board["observed"]["cores"] == 12
    assert (board["power_w"], board["energy_j"], board["energy_error_j"]) == (17.75, 12.5, 0.25)
    assert (board["throttle_events"], board["foreign_changes"]) == (3, 1)
    assert board["rails_w"] == {"VDD_GPU_SOC": 7.5}
    assert board["zones_celsius"] == {"cpu-thermal": 48.5}
    assert instance == {
        "model": "resnet18", "version": "1", "instance": "resnet18_0_0", "slo_s": 0.05, "slo_quantile": 0.95,
        "virtual_workload": "resnet", "batch_limit": 4, "max_batch": 8, "in_flight": 2, "requests": 90, "busy_s": 1.5,
    }  # fmt: skip


def test_nothing_alive_is_null_and_empty() -> None:
    """No board, no instance: no made-up figure."""
    assert status_json(Snapshot(0, None, ())) == {"governor": None, "board": None, "instances": []}


def test_the_text_says_virtual_leased_and_limits() -> None:
    """What a person asks first."""
    text = status_text(status_json(Snapshot(0, BOARD, (VIEW,))))
    assert "virtual:agx-orin (virtual): 17.75 W, leased to pid 42" in text
    assert "gpu 612 MHz" in text
    assert "cores 12" in text
    assert "resnet18_0_0: 90 requests, 2 in flight, batch limit 4 of 8, p95 <= 50 ms" in text
    empty = status_text({"governor": None, "board": None, "instances": []})
    assert empty == "no clockd is running here\nno governed model is being served here"


def test_the_text_says_what_is_assumed_left_out_and_alarming() -> None:
    """Physics and notes as clockd tells them; of the governor its phase, knobs left out and alarms."""
    standing = standing_of(
        Status(Phase.COOLING, "", left_out={"emc_hz": "denied"}, alarms={"clocks": "they do not follow"})
    )
    about = {"physics": "assumed", "notes": ["no EMC lock"], "reason": ""}
    text = status_text(json.loads(json.dumps(status_json(Snapshot(0, BOARD, (VIEW,)), about, standing))))
    assert "virtual:agx-orin (virtual, physics assumed): 17.75 W" in text
    assert "  note: no EMC lock\n" in text
    assert f"governor (pid {os.getpid()}): cooling, 0 trials\n  without emc_hz: denied\n" in text
    assert text.endswith("  ALARM clocks: they do not follow")


def test_a_governor_shows_where_it_stands(tmp_path: Path) -> None:
    """At once, then when something changed and a second has passed; nothing of one that has gone."""
    now_s, status = 0.0, Status()
    standing = Standing(tmp_path, lambda: now_s)
    assert read_standing(tmp_path) is None
    standing.show(status)
    status.alarms["blind"] = "no temperature can be read"
    standing.show(status)
    assert (read_standing(tmp_path) or {})["alarms"] == {}
    now_s = EVERY_S
    standing.show(status)
    shown = read_standing(tmp_path) or {}
    assert (shown["alarms"], shown["pid"]) == (status.alarms, os.getpid())
    (tmp_path / STANDING).write_text(json.dumps(shown | {"pid": 2**22 + 1}))
    assert read_standing(tmp_path) is None
    standing.remove()
    standing.remove()
    assert not list(tmp_path.iterdir())


def test_a_standing_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged."""
    Standing(tmp_path / "nowhere", lambda: 0.0).show(Status())
    assert "was not written" in caplog.text


def test_one_run_directory_has_one_governor(tmp_path: Path) -> None:
    """A second one is told who is there; when the first has gone it may."""
    with OnlyOne(tmp_path / "run"):
        Standing(tmp_path / "run", lambda: 0.0).show(Status())
        with pytest.raises(AlreadyGoverned, match=str(os.getpid())), OnlyOne(tmp_path / "run"):
            raise AssertionError("two governors")
    with OnlyOne(tmp_path / "run"), OnlyOne(tmp_path / "other"):
        assert (tmp_path / "run" / LOCK).exists()


def test_the_verb_reads_live_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` prints one object; the exit code says whether anything is alive."""
    assert main(["status", "--json", "--run-dir", str(tmp_path)]) == NO
    assert json.loads(capsys.readouterr().out) == {"governor": None, "board": None, "instances": []}
    run_dir = RunDir(tmp_path)
    run_dir.make()
    board, instance = BoardPage.create(run_dir.board_page), InstancePage.create(run_dir.instance_page("resnet18_0_0"))
    instance.write_info(info())
    instance.count(Counter.REQUESTS, 5)
    board.write(BOARD)
    assert main(["status", "--json", "--run-dir", str(tmp_path)]) == DONE
    status = json.loads(capsys.readouterr().out)
    assert status["board"]["name"] == "virtual:agx-orin"
    assert [entry["requests"] for entry in status["instances"]] == [5]
    assert main(["status", "--run-dir", str(tmp_path)]) == DONE
    assert "virtual:agx-orin (virtual)" in capsys.readouterr().out
    board.remove()
    instance.remove()


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["run", "--trials", "many"], ["run", "--trials", "0"], ["run", "--knobs", "volts"],
     ["run", "--slo-quantile", "95"], ["run", "--config", "/nowhere/teg.toml"], ["run", "--metrics-port", "99999"],
     ["status", "--yaml"], ["load"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With words on standard error, and nothing started."""
    try:
        code: object = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == USAGE
    assert capsys.readouterr().err
